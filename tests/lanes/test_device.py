"""The device sampler, on processes that really run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from streamserve.lanes.vllm.device import DeviceSampler
from streamserve.signals import DeviceSignals

# Spins for a fixed amount of CPU time, not of wall time, so that a busy machine changes nothing.
SPIN = """
import sys, time
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print(flush=True)
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


class Child:
    """A process that works when it is told to."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def work(self, cpu_s: float) -> None:
        """Returns when so much CPU time was used."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{cpu_s}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def spinning() -> Iterator[Child]:
    child = Child(SPIN)
    yield child
    child.end()


def test_cpu_is_the_time_used_since_the_last_look(spinning: Child) -> None:
    sampler = DeviceSampler(spinning.pid)
    first = sampler.sample(100.0)
    assert first.cpu_cores is None
    spinning.work(0.3)
    second = sampler.sample(102.0)
    # The interpreter may still have been starting at the first look; the kernel counts in ticks of 10 ms.
    assert second.at_s == 102.0
    assert second.cpu_cores is not None and 0.14 <= second.cpu_cores <= 0.5
    assert second.rss_bytes is not None and second.rss_bytes > 1_000_000
    assert sampler.sample(104.0).cpu_cores == pytest.approx(0.0, abs=0.02)


def test_it_looks_once_a_second_at_most(spinning: Child) -> None:
    sampler = DeviceSampler(spinning.pid)
    first = sampler.sample(100.0)
    assert sampler.sample(100.9) is first
    assert sampler.sample(101.0) is not first


def test_children_count_too() -> None:
    # The parent only waits: all the work is its child's, which has started once it answers.
    parent = Child(PARENT)
    try:
        parent.work(0.0)
        sampler = DeviceSampler(parent.pid)
        sampler.sample(100.0)
        parent.work(0.3)
        cores = sampler.sample(101.0).cpu_cores
        assert cores is not None and 0.28 <= cores <= 0.5
    finally:
        parent.end()


def test_a_process_that_is_gone_leaves_its_last_figures(spinning: Child) -> None:
    sampler = DeviceSampler(spinning.pid)
    last = sampler.sample(100.0)
    spinning.end()
    assert sampler.sample(200.0) == last
    assert DeviceSampler(spinning.pid).sample(200.0) == DeviceSignals()


class FakeNvml:
    """Two devices; the second tells no utilisation if `partial`."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def __init__(self, absent: bool = False, partial: bool = False) -> None:
        self._absent = absent
        self._partial = partial

    def nvmlInit(self) -> None:
        if self._absent:
            raise self.NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=20 + 10 * handle, total=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        if self._partial and handle:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=90 - 10 * handle)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 60 + handle


def gpu_signals(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> tuple[float | None, float | None, float | None]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    sample = DeviceSampler(os.getpid(), gpus=(0, 1)).sample(100.0)
    assert sample.rss_bytes
    return sample.gpu_memory_used, sample.gpu_busy, sample.gpu_celsius


def test_of_several_devices_the_worst_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_signals(monkeypatch, FakeNvml()) == (0.3, 0.9, 61.0)


def test_what_a_device_does_not_tell_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_signals(monkeypatch, FakeNvml(partial=True)) == (0.3, None, 61.0)


def test_a_machine_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_signals(monkeypatch, FakeNvml(absent=True)) == (None, None, None)
