"""Which part of the machine each lane gets: cores, devices, memory."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from streamserve.config import Config, LaneConfig
from streamserve.errors import SetupError
from streamserve.types import LaneId


@dataclass(frozen=True, slots=True)
class LanePlan:
    """One lane's place: its index among the lanes and the hardware that is its own."""

    id: LaneId
    index: int
    device: str
    cores: tuple[int, ...] = ()
    gpus: tuple[int, ...] = ()
    memory_fraction: float = 0.9
    tensor_parallel_size: int = 1
    transfers_kv: bool = False
    """Whether KV may enter or leave this lane: false for a lane that is alone."""


def available_cores() -> tuple[int, ...]:
    """One logical CPU of each physical core this process may run on, in order: a sibling adds little to AVX work."""
    cores: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.setdefault(siblings.read_text().strip() if siblings.exists() else str(cpu), cpu)
    return tuple(cores.values())


def plan(config: Config, cores: Sequence[int]) -> tuple[LanePlan, ...]:
    """Assign hardware to every lane.

    Raises `SetupError` when the machine has too few cores, or a core is named twice.
    """
    transfers = len(config.lanes) > 1
    if config.device == "gpu":
        return tuple(
            LanePlan(
                lane.id,
                i,
                "gpu",
                gpus=tuple(lane.gpus),
                memory_fraction=lane.memory_fraction,
                tensor_parallel_size=lane.tensor_parallel_size,
                transfers_kv=transfers,
            )
            for i, lane in enumerate(config.lanes)
        )
    assigned = _assign(config, cores)
    return tuple(
        LanePlan(lane.id, i, "cpu", own, tensor_parallel_size=lane.tensor_parallel_size, transfers_kv=transfers)
        for i, (lane, own) in enumerate(zip(config.lanes, assigned, strict=True))
    )


def _assign(config: Config, cores: Sequence[int]) -> list[tuple[int, ...]]:
    wanted = [_wanted(lane, cores) for lane in config.lanes]
    named = Counter(core for lane in config.lanes if isinstance(lane.cores, list) for core in lane.cores)
    free = [core for core in cores if core not in named]
    if not config.share_cores:
        _check_own(wanted, named, len(cores))
    assigned = []
    position = 0
    for lane, count in zip(config.lanes, wanted, strict=True):
        if isinstance(lane.cores, list):
            own = tuple(dict.fromkeys(lane.cores))
        else:
            pool = free or cores
            own = tuple(pool[(position + i) % len(pool)] for i in range(min(count, len(pool))))
            position += count
        if len(own) < lane.tensor_parallel_size:
            raise SetupError(
                f"{lane.id}: its {lane.tensor_parallel_size} tensor-parallel ranks need a core each and it has "
                f"{len(own)}: give it more cores, or a smaller tensor_parallel_size"
            )
        assigned.append(own)
    return assigned


def _check_own(wanted: Sequence[int], named: Counter[int], available: int) -> None:
    sharing = "or try it out slowly with --set share_cores=true"
    if twice := sorted(core for core, times in named.items() if times > 1):
        raise SetupError(f"cores {twice} are named more than once: give every lane its own, {sharing}")
    if sum(wanted) > available:
        raise SetupError(
            f"this layout needs {sum(wanted)} cores and this machine has {available}: choose another with "
            f"--config (see `streamserve doctor`), {sharing}"
        )


def _wanted(lane: LaneConfig, cores: Sequence[int]) -> int:
    if isinstance(lane.cores, int):
        return lane.cores or len(cores)
    missing = sorted(set(lane.cores) - set(cores))
    if missing or not lane.cores:
        raise SetupError(f"{lane.id}: cores {missing or '[]'} are not available here; available: {list(cores)}")
    return len(lane.cores)
