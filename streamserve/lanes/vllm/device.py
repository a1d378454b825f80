"""How hard a lane's process and its GPUs work, read from the kernel and the driver.

CPU figures come from ``/proc`` itself: psutil walks every process of the machine to find a process's children, which
takes over a millisecond; this takes a tenth of that, so that it may run between two events of the serving loop.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from streamserve.signals import DeviceSignals

PERIOD_S = 1.0
"""At most one look in this time; in between, the last one stands."""
CHILDREN_PERIOD_S = 10.0
"""How often the process tree is looked up: its members come and go with the engine's start, hardly later."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")

GpuReader = Callable[[], tuple[float | None, float | None, float | None]]
"""Memory in use 0..1, share of time busy 0..1, degrees Celsius."""


class DeviceSampler:
    """Samples the process tree of one lane, and the GPUs it was given.

    pid: the lane's process. gpus: indices of its devices as the driver counts them; none on a CPU lane.
    """

    def __init__(self, pid: int, gpus: Sequence[int] = ()) -> None:
        self._pid = pid
        self._gpus = _gpu_reader(gpus) if gpus else None
        self._tree: list[int] = [pid]
        self._tree_at_s: float | None = None
        self._cpu_s: dict[int, float] = {}
        self._last: DeviceSignals | None = None

    def sample(self, now_s: float) -> DeviceSignals:
        """The figures of now, or the last ones where they are younger than a second or the process is gone.

        now_s: the event loop's clock. `cpu_cores` is known from the second look on; `rss_bytes` sums the tree's
        resident memory, pages that its processes share counted once for each.
        """
        last = self._last
        if last is not None and now_s - last.at_s < PERIOD_S:
            return last
        if self._tree_at_s is None or now_s - self._tree_at_s >= CHILDREN_PERIOD_S:
            self._tree, self._tree_at_s = [self._pid, *_descendants(self._pid)], now_s
        cpu_s = {pid: seconds for pid in self._tree if (seconds := _cpu_s(pid)) is not None}
        if self._pid not in cpu_s:
            return last or DeviceSignals()
        cores = None
        if last is not None:
            # A process that is new in the tree counts from the next look on, one that has ended not any more.
            worked_s = sum(cpu_s[pid] - self._cpu_s[pid] for pid in cpu_s.keys() & self._cpu_s.keys())
            cores = max(0.0, worked_s) / (now_s - last.at_s)
        memory, busy, celsius = self._gpus() if self._gpus is not None else (None, None, None)
        self._cpu_s = cpu_s
        self._last = DeviceSignals(now_s, cores, sum(map(_rss_bytes, cpu_s)), memory, busy, celsius)
        return self._last


def _cpu_s(pid: int) -> float | None:
    """User and system seconds of a process; None when it is gone or only waits to be reaped."""
    try:
        # The name, in brackets, may hold spaces and brackets of its own.
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    state, user, system = fields[0], fields[11], fields[12]
    return None if state in (b"Z", b"X") else (int(user) + int(system)) * _TICK_S


def _rss_bytes(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _descendants(pid: int) -> list[int]:
    """Every child, and theirs; the kernel lists them by the thread that started them."""
    found: list[int] = []
    try:
        threads = os.listdir(_PROC / str(pid) / "task")
        for thread in threads:
            found += map(int, (_PROC / str(pid) / "task" / thread / "children").read_bytes().split())
    except OSError:
        # The process ended under our eyes, or this kernel keeps no such list: what was found is what is known.
        pass
    return [each for child in found for each in (child, *_descendants(child))]


def _gpu_reader(gpus: Sequence[int]) -> GpuReader | None:
    """A function that reads these devices; None where there is no NVIDIA driver or no such device."""
    import pynvml  # type: ignore[import-untyped]

    nvml = cast(Any, pynvml)
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in gpus]
    except nvml.NVMLError:
        return None

    def worst(read: Callable[[Any], float]) -> float | None:
        # The fullest, busiest or hottest: a lane over several devices goes at the pace of that one.
        try:
            return max(read(handle) for handle in handles)
        except nvml.NVMLError:
            # Not every device tells everything (a slice of one has no utilisation of its own).
            return None

    def read() -> tuple[float | None, float | None, float | None]:
        memory = worst(lambda handle: _share(nvml.nvmlDeviceGetMemoryInfo(handle)))
        busy = worst(lambda handle: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        celsius = worst(lambda handle: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)))
        return memory, busy, celsius

    return read


def _share(memory: Any) -> float:
    return float(memory.used / memory.total)
