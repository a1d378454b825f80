"""Where the contest takes place: the model, and the cores or GPUs that every system gets, all of them the same."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamserve.bench.report import made
from streamserve.errors import SetupError
from streamserve.lanes.vllm import model as models
from streamserve.lanes.vllm.environment import free_port
from streamserve.machine import inspect_machine


@dataclass(frozen=True, slots=True)
class Place:
    """What the systems are started with."""

    model: str
    """What vLLM is given: a folder or a Hugging Face id."""
    cores: tuple[int, ...]
    """The cores of every system on a machine without GPUs, whatever it makes of them."""
    folder: Path
    """Where logs and the load generator's own results go."""
    gpus: tuple[int, ...] = ()
    """Device indices; with any, the systems run on these instead of the cores."""
    heads: int | None = None
    """The model's attention heads, which tensor parallelism has to divide; None = not known."""
    port: Callable[[], int] = free_port
    named: str | None = None
    """The model as `streamserve serve` is told it, which looks up choices and policies by that; None = `model`."""

    @property
    def bounds(self) -> tuple[int, ...]:
        """The only cores that a process may run on; () = any, as on a machine with GPUs."""
        return () if self.gpus else self.cores

    @property
    def device(self) -> str:
        return "gpu" if self.gpus else "cpu"


def here(
    model: str, folder: Path, cores: Sequence[int] | int | None = None, gpus: Sequence[int] | None = None
) -> Place:
    """The place on this machine.

    model: as for `streamserve serve`. cores: which ones, or how many; None = all that this process may use,
    no more than a control group's limit allows. gpus: None = all that are here, where vLLM's build for them is
    installed.
    Raises `SetupError` when the model or a core is not here, `ConfigError` when the folder cannot be written.
    """
    machine = inspect_machine()
    available = machine.core_ids
    if cores is None:
        # Beyond a control group's limit threads stall each other; `streamserve serve` counts cores alike.
        cores = machine.cores
    chosen = tuple(available[:cores] if isinstance(cores, int) else cores)
    missing = sorted(set(chosen) - set(available))
    if missing or not chosen or (isinstance(cores, int) and cores > len(available)):
        raise SetupError(f"cores {cores} asked for, this process may use {list(available)}: choose among those")
    if gpus is None:
        gpus = [gpu.index for gpu in machine.gpus] if machine.vllm_device == "gpu" else []
    path = models.resolve(model, print)
    return Place(str(path), chosen, made(folder), tuple(gpus), _heads(path), named=model)


def _heads(model: Path | str) -> int | None:
    described = Path(model) / "config.json"
    if not described.is_file():
        return None
    heads = json.loads(described.read_text()).get("num_attention_heads")
    return heads if isinstance(heads, int) else None
