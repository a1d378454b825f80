"""`streamserve bench`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from streamserve.cli.app import app, examples, parts
from streamserve.cli.inspection import verdicts
from streamserve.config import EMBEDDED_MODEL
from streamserve.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from streamserve.bench.contest.presets import Preset, Topology

INTERRUPTED = 130


@app.command(
    epilog=examples(
        "streamserve bench --preset smoke",
        "streamserve bench --systems streamserve,vllm,vllm-spec:3,vllm-dp --prompts DIR --loads 0.5,0.8 --aa",
        "streamserve bench --preset components --prompts DIR --arrivals gamma:5 --loads 0.8 --out results",
        "streamserve bench --pick --prompts DIR --slo-ttft 2 --slo-tpot 0.1",
    )
)
def bench(
    systems: Annotated[
        str | None,
        typer.Option(
            help="streamserve[:CONFIG], vllm, vllm-spec[:DEPTH], vllm-dp, vllm-pd, each with +KEY=VALUE behind it, or "
            "a URL; loads are shares of the first one's capacity.",
            metavar="NAME,...",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Systems and load by name: smoke, baselines, components, topology, paper.", metavar="NAME"),
    ] = None,
    workloads: Annotated[
        str | None, typer.Option(help="Prompt sets, or mix for all of them together; default: mix.", metavar="NAME,...")
    ] = None,
    arrivals: Annotated[
        list[str] | None,
        typer.Option(help="poisson, gamma:CV, burst, alone or trace:FILE; repeatable.", metavar="PROCESS"),
    ] = None,
    loads: Annotated[
        str | None, typer.Option(help="Shares of the capacity; default: 0.5,0.8.", metavar="X,...")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Requests per second instead of --loads.")] = None,
    capacity: Annotated[
        str | None,
        typer.Option(help="Requests per second, for all workloads or by name, instead of measuring it.", metavar="X"),
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Of each run; default: 40.", min=1)] = None,
    repeats: Annotated[int | None, typer.Option(help="Of everything; default: 5.", min=1)] = None,
    length_scale: Annotated[float | None, typer.Option(help="Times the prompts' output lengths.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of JSONL prompt sets; default: made-up prompts.", metavar="DIR")
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Prompt sets from their public sources.")] = False,
    model: Annotated[
        str, typer.Option(help="A Hugging Face id or a folder; default: the embedded model.", metavar="MODEL")
    ] = EMBEDDED_MODEL,
    cores: Annotated[int | None, typer.Option(help="So many cores for every system; default: all.", min=1)] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for everything; started again with the same options, it goes on.")
    ] = Path("bench"),
    apart: Annotated[bool, typer.Option("--apart", help="Start and stop the system for every run.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep systems up from repeat to repeat.")] = False,
    aa: Annotated[bool, typer.Option("--aa", help="The first system twice: the noise floor.")] = False,
    slo_ttft: Annotated[float, typer.Option(help="Seconds, for goodput.")] = 3.0,
    slo_tpot: Annotated[float, typer.Option(help="Seconds, for goodput.")] = 0.1,
    timeout: Annotated[float, typer.Option(help="Seconds after a run's last arrival; then it is cut off.")] = 900.0,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.", min=0)] = 0,
    plots: Annotated[bool, typer.Option(help="Draw pictures.")] = True,
    choose: Annotated[
        bool, typer.Option("--pick", help="Compare topologies, and have `streamserve serve` take the best one.")
    ] = False,
) -> None:
    """Whole servers against each other on this machine: StreamServe, vLLM and its routers, under the same load."""
    from streamserve.bench.contest.hold import Wanted, hold
    from streamserve.bench.contest.settings import Settings, capacities

    if choose and (systems or preset):
        raise ConfigError("--pick compares the systems of --preset topology: leave --systems and --preset out")
    named, candidates = _named("topology" if choose else preset, choose, bool(systems))
    given: dict[str, Any] = {
        "workloads": parts(workloads),
        "arrivals": tuple(arrivals or ()),
        "loads": _numbers("--loads", loads),
        "requests": requests,
        "repeats": repeats,
        "length_scale": length_scale,
    }
    if rate is not None and loads:
        raise ConfigError("--rate says in requests per second what --loads says in shares: give one of them")
    settings = Settings(
        **{
            **(named.settings if preset or choose else {}),
            "systems": split(systems) if systems else named.systems,
            **{key: value for key, value in given.items() if value not in (None, ())},
            "rate": rate,
            "capacity": capacities(capacity),
            "slo_ttft_s": slo_ttft,
            "slo_tpot_s": slo_tpot,
            "seed": seed,
            "apart": apart,
            "keep": keep,
            "aa": aa or choose,
            "timeout_s": timeout,
            "plots": plots,
        }
    )
    command = shlex.join(["streamserve", *sys.argv[1:]])
    wanted = Wanted(settings, out, command, model, prompts, hub, cores, candidates)
    try:
        hold(wanted, Console())
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from what lies in {out}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def split(text: str) -> tuple[str, ...]:
    """Names separated by commas, those within brackets and braces aside."""
    found, depth, begin = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            found.append(text[begin:place])
            begin = place + 1
    return tuple(name for name in (*found, text[begin:]) if name)


def _named(name: str | None, choose: bool, systems_given: bool) -> "tuple[Preset, tuple[Topology, ...]]":
    from streamserve.bench.contest.presets import Preset, preset, topologies
    from streamserve.policy.store import shipped

    if systems_given and name is None:
        # The machine's own default decides nothing then.
        return Preset(()), ()
    config = _default()
    named = preset(name or "baselines", config, [folder.name for folder in shipped()])
    return named, tuple(topologies(config)) if choose else ()


def _default() -> str:
    """The shipped configuration that this machine runs by default. Raises `SetupError`."""
    from streamserve.doctor import recommend
    from streamserve.machine import inspect_machine

    machine = inspect_machine()
    recommendation = recommend(machine, verdicts(machine))
    if recommendation is None:
        raise SetupError("no shipped configuration runs here: see `streamserve doctor`")
    return recommendation.config


def _numbers(option: str, text: str | None) -> Sequence[float]:
    try:
        return tuple(float(each) for each in parts(text))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: write numbers with commas between them") from error
