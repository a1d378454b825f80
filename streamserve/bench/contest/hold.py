"""Holding a contest: from what was asked for, over servers and load generator, to report, pictures and choice."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from streamserve import picked
from streamserve.bench import report as files
from streamserve.bench.contest import client, compare, hub, pick, place, plots, report, server, synthetic, systems
from streamserve.bench.contest.contest import Contest, Stage, entrants
from streamserve.bench.contest.folder import Folder, Kept
from streamserve.bench.contest.plan import Dealer, Sets, fingerprint
from streamserve.bench.contest.presets import Topology
from streamserve.bench.contest.progress import ContestProgress
from streamserve.bench.contest.settings import MIX, Settings, check
from streamserve.config import EMBEDDED_MODEL
from streamserve.errors import ConfigError
from streamserve.lanes.vllm.model import cache_folder
from streamserve.machine import Machine, available_memory_gib, inspect_machine
from streamserve.workload import prompts


@dataclass(frozen=True, slots=True)
class Wanted:
    """A contest as asked for."""

    settings: Settings
    out: Path
    command: str
    """For the report."""
    model: str = EMBEDDED_MODEL
    prompts: Path | None = None
    hub: bool = False
    cores: int | None = None
    candidates: tuple[Topology, ...] = ()
    """Among which to choose afterwards; the first is the default."""


def hold(wanted: Wanted, console: Console) -> None:
    """Measure, write report and pictures, and choose where that is asked for.

    Raises `ConfigError` and `SetupError`, both before anything is started where they can be known by then.
    """
    check(wanted.settings)
    machine = inspect_machine()
    settings = _for_machine(wanted.settings, machine, console)
    sets = prompt_sets(wanted, console)
    dealer = Dealer(sets, settings)
    where = place.here(folder=wanted.out, model=wanted.model, cores=wanted.cores, gpus=_gpus(machine))
    found = systems.resolve(settings.systems, where)
    for name in settings.systems:
        if left := systems.idle_cores(name, where):
            used = len(where.cores) - left
            console.print(
                f"{name} leaves {left} of {len(where.cores)} cores idle, vLLM none: --cores {used} gives every system "
                "the same, +lanes.0.cores=N behind its name gives a lane more",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
    again = systems.resolve(settings.systems[:1], where)[0] if settings.aa else None
    if again is not None and not again.processes:
        raise ConfigError(f"--aa starts a second {again.name}, which bench does not start: put another system first")
    labels = entrants(found, again)
    folder = Folder(wanted.out)
    prints = {name: fingerprint(each) for name, each in sets.items()}
    folder.claim(settings, {"prompts": prints, "model": wanted.model, "cores": len(where.cores), "gpus": where.gpus})

    async def measure(progress: ContestProgress) -> list[Kept]:
        async with client.started(where) as generator:
            stage = Stage(
                lambda system: server.up(system, wanted.out / "logs" / ("again" if system is again else "first")),
                generator,
                available_memory_gib,
                progress,
                progress.note,
            )
            return await Contest(settings, labels, dealer, folder, stage).measure()

    with ContestProgress(console) as progress:
        kept = asyncio.run(measure(progress))
    titles = {label: system.title for label, system in labels.items()}
    about = report.About(wanted.command, wanted.model, folder.machine(), titles, folder.capacities())
    written = folder.write("report.md", report.text(kept, settings, about))
    drawn = plots.draw(kept, settings, wanted.out / "plots") if settings.plots else []
    _print(console, kept, settings, list(labels))
    console.print(
        f"report {written}, {len(drawn)} pictures in {wanted.out / 'plots'}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if wanted.candidates:
        _pick(kept, wanted, picked.key(wanted.model, len(where.cores), machine.gpu_names), console)


def prompt_sets(wanted: Wanted, console: Console) -> Sets:
    """The prompt sets: of a folder, from the hub, or made up. Raises `ConfigError`."""
    if wanted.prompts is not None and wanted.hub:
        raise ConfigError("--prompts reads a folder and --hub the public sources: give one of them")
    if wanted.hub:
        import httpx

        folder = cache_folder() / "prompts"
        named = [each for each in wanted.settings.workloads if each != MIX]
        names = list(hub.SOURCES) if MIX in wanted.settings.workloads else named
        with httpx.Client(timeout=60, follow_redirects=True) as connection:
            hub.fetch(names, folder, connection, lambda line: console.print(line, highlight=False, markup=False))
        return prompts.load_folder(folder, names)
    if wanted.prompts is not None:
        workloads = wanted.settings.workloads
        return prompts.load_folder(wanted.prompts, () if MIX in workloads else workloads)
    return synthetic.sets(wanted.settings.seed)


def _gpus(machine: Machine) -> list[int]:
    return [gpu.index for gpu in machine.gpus] if machine.vllm_device == "gpu" else []


def _for_machine(settings: Settings, machine: Machine, console: Console) -> Settings:
    if not _gpus(machine) or settings.apart:
        return settings
    if settings.keep:
        raise ConfigError("--keep: every system takes the GPUs' whole memory, so they run one at a time; leave it out")
    console.print("every run starts and stops its system: each takes the GPUs' whole memory", highlight=False)
    return replace(settings, apart=True)


def _print(console: Console, kept: Sequence[Kept], settings: Settings, labels: Sequence[str]) -> None:
    for point, runs in compare.grouped(kept, settings).items():
        console.print(f"{point}", highlight=False, markup=False)
        for line in report.lines(runs, labels):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _pick(kept: Sequence[Kept], wanted: Wanted, under: str, console: Console) -> None:
    """Choose, and leave the choice for `streamserve serve`. under: model and hardware for which it holds."""
    choice = pick.choose(compare.grouped(kept, wanted.settings), wanted.candidates)
    file = picked.path()
    told = f"{choice.topology.title}: {choice.reason}"
    if choice.margin is None:
        taken_back = picked.forget(file, under)
        rest = "; an earlier choice is taken back" if taken_back else ""
    else:
        date = time.strftime("%Y-%m-%d")
        made = picked.Picked(choice.topology.config, list(choice.topology.changes), choice.reason, date)
        picked.write(file, under, made)
        rest = f"; `streamserve serve` takes it for {under} from now on ({file})"
    files.write(wanted.out / "pick.json", {"topology": choice.topology, "reason": choice.reason, "for": under})
    console.print(f"{told}{rest}", highlight=False, markup=False, soft_wrap=True)
