"""`streamserve calibrate`: live lanes driven through planned work, and what was measured of them as a `Calibration`.

One lane at a time decodes batches, computes prompts, or both; lanes work at once and in turn; prompts are handed over
from lane to lane; and real prompts run on all lanes, whose outputs show how good drafts are. Which of these is next is
drawn at random, so that a slow stretch of the machine slows a little of everything.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

import streamserve
from streamserve.bench import report as results
from streamserve.bench import rig
from streamserve.bench.batch import Job
from streamserve.bench.calibrate_drive import Advance, Driver, drive, logged
from streamserve.bench.calibrate_log import StepRecorder
from streamserve.bench.calibrate_plan import Agenda, Limits, subjects
from streamserve.bench.calibrate_report import write_report
from streamserve.config import EMBEDDED_MODEL, Config, SpeculationConfig
from streamserve.errors import ConfigError
from streamserve.lanes.sim.answers import packed
from streamserve.lanes.sim.calibration import Calibration, Origin, calibration_folder, checked, dump
from streamserve.lanes.sim.fit import Engine, fit
from streamserve.lanes.sim.fit_drafts import played, played_tokens_per_step
from streamserve.lanes.sim.fit_logs import DraftLog, Logs
from streamserve.lanes.sim.replay import replayed
from streamserve.lanes.vllm import model, version
from streamserve.lanes.vllm.plan import available_cores, plan
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.ngram import NgramDrafts
from streamserve.specustream.playback import Drafter, Output
from streamserve.types import LaneId
from streamserve.workload import prompts

LONGEST_ANSWER = 128
"""Output tokens of a real prompt: drafts get better as an answer grows, and longer ones leave time for fewer."""
LOT = 20
"""Real prompts that a drafter is played back from nothing on: a lane's part of a benchmark's run, before which its
history is emptied. The more of them it remembers, the better its drafts."""
SHUFFLES = 4
"""Orders in which the real prompts are played back: what a prompt's drafts are like depends on those before it."""
SYNTHETIC_PROMPTS = 64
DEFAULT_LEN = 2048


@dataclass(frozen=True, slots=True)
class Options:
    """What to calibrate, for how long, and where the results go. prompts: None = made-up ones."""

    config: Config
    config_name: str
    minutes: float
    out: Path
    name: str | None = None
    prompts: Path | None = None
    folder: Path | None = None
    """Of the calibration file; None = where those that ship are."""
    seed: int = 0

    @property
    def command(self) -> str:
        """What to type for the same again; folders by their names alone."""
        words = ["streamserve", "calibrate", "--config", self.config_name, "--minutes", f"{self.minutes:g}"]
        return shlex.join([*words, *(("--prompts", self.prompts.name) if self.prompts else ())])


@dataclass(frozen=True, slots=True)
class Measured:
    """All that came of driving the lanes."""

    logs: Logs
    outputs: Sequence[Output]
    engine: Engine


def run(options: Options, console: Console) -> Path:
    """Calibrate; returns the calibration's file. Raises `StreamServeError`."""
    checked_options(options)
    with _bar(console, 60 * options.minutes) as advance:
        measured = uvloop.run(measure(options, advance))
    drafter = partial(new_drafter, options.config.speculation)
    lots = drafter_lots(measured.outputs, np.random.default_rng(options.seed))
    logs = msgspec.structs.replace(measured.logs, drafts=draft_logs(lots, drafter, measured.engine))
    results.write(options.out / "logs.json", logs)
    results.write(options.out / "outputs.json", measured.outputs)
    console.print("fitting", highlight=False)
    found = fit(logs, origin(options), measured.engine, np.random.default_rng(options.seed))
    recorded = answers(lots[: len(lots) // SHUFFLES], drafter, found.calibration)
    found = replace(found, calibration=msgspec.structs.replace(found.calibration, answers=recorded))
    path = (options.folder or calibration_folder()) / f"{options.name or default_name(options.config)}.yaml"
    checked(found.calibration, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(found.calibration))
    write_report(options.out, found, playback(lots, drafter, measured.engine.max_depth))
    return path


def checked_options(options: Options) -> None:
    """Raises `ConfigError` before any lane is started."""
    if not 0 < options.minutes <= 60:
        raise ConfigError(f"--minutes must be above 0 and at most 60, got {options.minutes:g}")
    if options.config.speculation.method not in ("none", "history", "ngram"):
        raise ConfigError(
            f"drafts of speculation.method={options.config.speculation.method} cannot be played back without their "
            "model: calibrate with history, ngram or none"
        )
    if options.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", options.name):
        raise ConfigError(f"--name {options.name!r} may hold letters, digits, '.', '_' and '-' only")
    if options.prompts is not None:
        prompts.load_folder(options.prompts)
    results.made(options.out)


async def measure(options: Options, advance: Advance) -> Measured:
    """Bring the lanes up and drive them for so many minutes. Raises `StreamServeError`."""
    # A prompt beside decodes is measured in one piece.
    engine = msgspec.structs.replace(options.config.engine, stall_s=None)
    config = msgspec.structs.replace(options.config, engine=engine)
    rig.prepare_front(config.device)
    recorder = StepRecorder()
    rng = np.random.default_rng(options.seed)

    def stage(lane: LaneId, text: str) -> None:
        advance(f"{lane} {text}", None)

    async with rig.live({"lanes": config}, stage, logged(recorder)) as ready:
        lanes = list(ready.sets["lanes"].lanes.values())
        max_len = config.engine.max_model_len or model_len(Path(ready.model))
        real = real_prompts(options.prompts, ready.tokenizer.encode, max_len, rng)
        depth = 0 if config.speculation.method == "none" else config.speculation.max_depth
        driver = Driver(lanes, recorder, real, max_len, rng)
        await driver.warm_up()
        state = lanes[0].signals()
        limits = Limits(len(lanes), state.max_running, config.engine.max_step_tokens, max_len, depth)
        await drive(driver, Agenda(subjects(limits), rng), 60 * options.minutes, advance)
    logs = Logs(recorder.steps, driver.hops, driver.handovers)
    return Measured(logs, driver.outputs, Engine(len(lanes), state.block_tokens, state.kv_tokens, depth))


def real_prompts(
    folder: Path | None,
    encode: Callable[[Sequence[prompts.Message]], Sequence[int]],
    max_len: int,
    rng: np.random.Generator,
) -> list[tuple[str, Job]]:
    """(workload, job), every workload in turn; prompts that do not fit with their answers are left out."""
    sets = prompts.load_folder(folder) if folder else {"synthetic": prompts.synthetic(SYNTHETIC_PROMPTS, rng)}
    found: dict[str, list[tuple[str, Job]]] = {}
    for workload, entries in sets.items():
        jobs = [
            Job(tuple(encode(entries[int(place)].messages)), min(entries[int(place)].max_tokens, LONGEST_ANSWER))
            for place in rng.permutation(len(entries))
        ]
        found[workload] = [(workload, job) for job in jobs if len(job.prompt_token_ids) + job.max_tokens <= max_len]
    most = max(map(len, found.values()))
    return [each[place] for place in range(most) for each in found.values() if place < len(each)]


def new_drafter(speculation: SpeculationConfig) -> Drafter:
    """As the lanes have it."""
    if speculation.method == "ngram":
        return NgramDrafts(*speculation.lookup_tokens, speculation.max_depth)
    return HistoryDrafter(speculation.history_lookup_tokens, speculation.history_tokens)


def draft_logs(lots: Sequence[Sequence[Output]], drafter: Callable[[], Drafter], engine: Engine) -> list[DraftLog]:
    """Drafts of all outputs. Raises `ConfigError`."""
    if engine.max_depth and not lots:
        raise ConfigError("no real prompt was run, so nothing is known of drafts: give it more --minutes")
    return played(lots, drafter, engine.max_depth) if engine.max_depth else []


def answers(
    lots: Sequence[Sequence[Output]], drafter: Callable[[], Drafter], calibration: Calibration
) -> dict[str, tuple[str, ...]]:
    """By workload, the drafts that each output gives; nothing where nothing is drafted."""
    texts: dict[str, list[str]] = defaultdict(list)
    for lot in lots if calibration.max_depth else ():
        for output, found in zip(lot, replayed(lot, [drafter()], calibration), strict=True):
            texts[output.workload].append(packed(found))
    return {workload: tuple(each) for workload, each in sorted(texts.items())}


def drafter_lots(outputs: Sequence[Output], rng: np.random.Generator) -> list[list[Output]]:
    """The outputs of all workloads, mixed, in lots of about `LOT`: each is what one drafter meets from nothing on."""
    count = max(1, round(len(outputs) / LOT))
    orders = [rng.permutation(len(outputs)) for _ in range(SHUFFLES if outputs else 0)]
    return [[outputs[int(place)] for place in lot] for order in orders for lot in np.array_split(order, count)]


def playback(
    lots: Sequence[Sequence[Output]], drafter: Callable[[], Drafter], max_depth: int
) -> dict[str, dict[int, float]]:
    """Workload -> depth -> tokens per step when outputs are played back at that depth."""
    found: dict[str, dict[int, float]] = {}
    for depth in (1, 2, 4, 8):
        if depth <= max_depth:
            for workload, tokens in played_tokens_per_step(lots, drafter, max_depth, depth).items():
                found.setdefault(workload, {})[depth] = tokens
    return found


def model_len(folder: Path) -> int:
    """Tokens that the model itself takes."""
    path = folder / "config.json"
    known = msgspec.json.decode(path.read_bytes()) if path.is_file() else {}
    return int(known.get("max_position_embeddings", DEFAULT_LEN))


def origin(options: Options) -> Origin:
    """Where the figures come from; nothing that names this very machine."""
    machine = results.machine()
    plans = plan(options.config, available_cores())
    return Origin(
        host=host_slug(machine["processor"], machine["cores"]),
        cores_per_lane=len(plans[0].cores),
        model=options.config.model,
        vllm=version.SUPPORTED,
        streamserve=streamserve.__version__,
        date=machine["date"],
        command=options.command,
    )


def default_name(config: Config) -> str:
    """<host>-<model>."""
    machine = results.machine()
    name = model.NAME if config.model == EMBEDDED_MODEL else Path(config.model).name
    slug = results.slug(name).lower().replace("_", "-")
    return f"{host_slug(machine['processor'], machine['cores'])}-{slug}"


_NOISE_WORDS = re.compile(r"\((r|tm)\)|@.*|\b(intel|amd|processor|cpu|with|radeon|graphics|\d+-core)\b", re.IGNORECASE)


def host_slug(processor: str, cores: int) -> str:
    """A processor's name and the number of cores, e.g. xeon-2c."""
    words = re.findall(r"[a-z0-9.]+", _NOISE_WORDS.sub(" ", processor).lower())
    return "-".join([*words, f"{cores}c"] if words else ["cpu", f"{cores}c"])


class TimeLeft(ProgressColumn):
    """Of the measuring time, by the clock."""

    def render(self, task: Task) -> Text:
        if task.start_time is None or task.total is None:
            return Text("starting")
        return Text(f"{max(0.0, task.total - (task.elapsed or 0.0)) / 60:.1f} min left")


@contextmanager
def _bar(console: Console, seconds: float) -> Iterator[Advance]:
    """A bar over the measuring time, which begins with the first cell."""
    columns = (BarColumn(), TimeLeft(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=seconds, start=False)

        def advance(text: str, done_s: float | None) -> None:
            if done_s is not None:
                progress.start_task(task)
            progress.update(task, completed=min(seconds, done_s or 0.0), description=text)

        yield advance
