"""`streamserve train`, `streamserve evaluate` and `streamserve tensorboard`."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from streamserve.cli.app import app, examples, parts
from streamserve.config import load
from streamserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agents.recipe import Recipe
    from envs.live import Live
    from streamserve.bench.contrast import Contrast
    from streamserve.protocols import Lane


@app.command(
    epilog=examples(
        "streamserve train",
        "streamserve train --config route --seed 3 --name route-3",
        "streamserve train --config my.yaml --total-timesteps 50000 --set env_kwargs.load=0.9",
        "streamserve train --resume route-3",
    )
)
def train(
    config: Annotated[
        str,
        typer.Option(help="A recipe: quick, route, goodput, serve, spec, live, or a YAML file.", metavar="NAME|FILE"),
    ] = "quick",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change one setting; repeatable.", metavar="KEY=VALUE")
    ] = None,
    env: Annotated[
        str | None, typer.Option(help="Serve (pair and depth), Route (pair), or Spec (depth of lanes).", metavar="NAME")
    ] = None,
    plant: Annotated[str | None, typer.Option(help="What lanes are: sim or live.", metavar="NAME")] = None,
    total_timesteps: Annotated[
        int | None, typer.Option(help="Decisions to learn from; the recipe says how many otherwise.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, actions and arrivals.", min=0)] = 0,
    name: Annotated[str | None, typer.Option(help="Of the run and its folder.", metavar="NAME")] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with this run; of the other options only --total-timesteps counts.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="The folder of all runs.", metavar="DIR")] = Path("runs"),
) -> None:
    """Train a policy with PPO; Ctrl-C stops it so that it can be resumed."""
    from agents.installed import check

    check()
    from agents import train as training
    from agents.recipe import load as load_recipe

    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    # All that is loaded stays: the collector need not look through torch again and again.
    gc.freeze()
    if resume is not None:
        recipe = training.begun(resume, runs).recipe
        outcome = training.resume(resume, total_timesteps, say, runs, _live_lanes(recipe))
    else:
        flags = {"env": env, "plant": plant, "n_timesteps": total_timesteps}
        overrides = [f"{key}={value}" for key, value in flags.items() if value is not None]
        recipe = load_recipe(config, [*(settings or ()), *overrides])
        outcome = training.train(recipe, seed, name, say, runs, _live_lanes(recipe))
    folder = outcome.folder
    if not outcome.whole:
        say(f"stopped after {outcome.steps} steps; go on with streamserve train --resume {folder.name} --runs {runs}")
        raise typer.Exit(130)
    found = folder.last if outcome.best is None else folder.best
    say(f"{outcome.steps} steps in {folder.path}; compare it with streamserve evaluate {found}")


def _live_lanes(recipe: "Recipe") -> "dict[str, Live]":
    """What an environment over lanes of its own is given beside the recipe: nothing for others."""
    if recipe.plant == "sim" or "url" in recipe.env_kwargs:
        return {}
    from contextlib import asynccontextmanager

    from envs.live import Live
    from streamserve.bench import rig

    config = load(recipe.env_kwargs.get("config", "cpu-pair"))

    @asynccontextmanager
    async def lanes() -> "AsyncIterator[Sequence[Lane]]":
        async with rig.live({"train": config}, lambda lane, stage: print(f"{lane}: {stage}", file=sys.stderr)) as up:
            yield list(up.sets["train"].lanes.values())

    async def clean(up: "Sequence[Lane]") -> None:
        await rig.forget_prefixes({lane.id: lane for lane in up})

    return {"live": Live(lanes, rig.planned, clean=clean)}


@app.command(
    epilog=examples(
        "streamserve evaluate runs/route-1/best",
        "streamserve evaluate runs/route-1/best runs/route-2/best --seeds 20 --out evaluation",
        'streamserve evaluate runs/route-1/best --scenarios "bursts,slow lane" --baselines random,cheapest',
        "streamserve evaluate runs/route-1/best --scenarios bursts --oracle 1000 --jobs 2",
        "streamserve evaluate runs/route-1/best --live --prompts DIR --requests 48 --out live",
    )
)
def evaluate(
    context: typer.Context,
    policies: Annotated[
        list[str], typer.Argument(help="Folders of policies, or names of shipped ones.", metavar="POLICY...")
    ],
    config: Annotated[
        str, typer.Option(help="The lanes, a name from `streamserve configs` or a YAML file.", metavar="NAME|FILE")
    ] = "cpu-pair",
    calibration: Annotated[
        str | None,
        typer.Option(help="What lanes are made from; default: the one shipped for the model.", metavar="NAME|FILE"),
    ] = None,
    scenarios: Annotated[str | None, typer.Option(help="Only these; default: all.", metavar="NAME,...")] = None,
    baselines: Annotated[
        str | None,
        typer.Option(help="Compare these as well: random, cheapest; with --live, routers.", metavar="NAME,..."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Folder of JSONL prompt sets, for scenarios of their texts, and for --live.", metavar="DIR"),
    ] = None,
    arrivals: Annotated[
        list[str] | None, typer.Option(help="Of those: gamma:CV, trace:FILE, ...; repeatable.", metavar="PROCESS")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Episodes of each policy in each scenario.", min=2)] = 10,
    requests: Annotated[
        int | None, typer.Option(help="Of each episode, 256 by default; of each live run, 64.", min=1)
    ] = None,
    slo_ttft: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 3.0,
    slo_tpot: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, report and pictures.", metavar="DIR")] = None,
    write_scores: Annotated[
        bool, typer.Option("--write-scores", help="Write the gains into the policy's card, for serve --policy auto.")
    ] = False,
    oracle: Annotated[
        int, typer.Option(help="Search each episode so many times for what routing could have won.", min=0)
    ] = 0,
    oracle_of: Annotated[
        str, typer.Option("--oracle-of", help="What that makes best.", metavar="mean|p99|goodput")
    ] = "mean",
    jobs: Annotated[int, typer.Option(help="Processes for that.", min=1)] = 1,
    live: Annotated[bool, typer.Option("--live", help="On real lanes: the same requests under each in turn.")] = False,
    repeats: Annotated[int, typer.Option(help="Live: blocks of each scenario.", min=2)] = 8,
    loads: Annotated[str, typer.Option(help="Live: shares of the capacity.", metavar="X,...")] = "0.8",
    length_scale: Annotated[float, typer.Option(help="Live: times the prompts' output lengths.")] = 1.0,
    capacity: Annotated[float | None, typer.Option(help="Live: requests per second, instead of measuring it.")] = None,
) -> None:
    """Compare trained policies with the heuristic, in simulated scenarios that training never saw, or on real lanes."""
    from agents.installed import check

    check()
    _check_given(context, live)
    if write_scores:
        _check_scored(policies, scenarios, None if live else seeds)
    if live:
        if prompts is None:
            raise ConfigError("--live sends texts: name a folder of JSONL prompt sets with --prompts")
        if oracle:
            raise ConfigError("--oracle is of simulated lanes: real ones cannot serve the same twice")
        from streamserve.bench.contrast import Contrast
        from streamserve.bench.simulate import numbers

        given = Contrast(
            prompts,
            out or Path("evaluation-live"),
            _titles(policies),
            load(config),
            scenes=parts(scenarios),
            baselines=parts(baselines),
            loads=numbers("--loads", loads),
            repeats=repeats,
            requests=requests or Contrast.requests,
            capacity=capacity,
            length_scale=length_scale,
            slo_ttft=slo_ttft,
            slo_tpot=slo_tpot,
        )
        _evaluate_live(given, policies[0] if write_scores else None)
        return
    from agents import evaluate as evaluation
    from agents import report
    from streamserve.bench.report import made
    from streamserve.types import Slo

    if out is not None:
        made(out)

    asked = evaluation.Asked(
        policies=policies,
        scenarios=parts(scenarios),
        config=config,
        calibration=calibration,
        seeds=seeds,
        requests=requests or evaluation.Asked.requests,
        prompts=None if prompts is None else str(prompts),
        arrivals=arrivals or evaluation.Asked.arrivals,
        baselines=parts(baselines),
        slo=Slo(slo_ttft, slo_tpot),
        tries=oracle,
        goal=oracle_of,
        jobs=jobs,
    )
    table = evaluation.evaluate(asked, lambda line: print(line, file=sys.stderr, flush=True))
    print(report.text(table))
    if out is not None:
        evaluation.keep(table, out)
    if write_scores:
        evaluation.score(policies[0], table)


SIMULATED = ("calibration", "arrivals", "seeds", "oracle_of", "jobs")
LIVE = ("repeats", "loads", "length_scale", "capacity")
"""Options of `evaluate` that mean nothing with the other kind of lanes."""


def _check_given(context: typer.Context, live: bool) -> None:
    """Find options that would be ignored. Raises `ConfigError`."""
    sources = {name: context.get_parameter_source(name) for name in (SIMULATED if live else LIVE)}
    idle = [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]
    if idle:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        here, there = ("real", "simulated") if live else ("simulated", "real")
        fix = "leave --live out as well" if live else "give --live as well"
        raise ConfigError(f"{named}: of {there} lanes, and these are {here}: leave it out, or {fix}")


def _check_scored(policies: "Sequence[str]", scenarios: str | None, seeds: int | None) -> None:
    """Whether what comes out may be written into a card. seeds: None = on real lanes. Raises `ConfigError`."""
    from agents.evaluate import FEWEST_SEEDS

    if len(policies) > 1:
        raise ConfigError("--write-scores writes one policy's card: evaluate the policies one by one")
    if scenarios:
        # A policy counts as proven by the share of its scenarios with a gain: whoever chooses them could choose those.
        raise ConfigError("--write-scores replaces all scores of the card: leave --scenarios out")
    if seeds is not None and seeds < FEWEST_SEEDS:
        raise ConfigError(f"--write-scores wants --seeds {FEWEST_SEEDS} or more: intervals of fewer are too narrow")


def _titles(policies: "Sequence[str]") -> dict[str, str]:
    """Title -> policy."""
    from agents.evaluate import titles
    from streamserve.policy import store

    read = {source: store.load(store.find(source)) for source in policies}
    return {title: source for source, title in titles(read).items()}


def _evaluate_live(given: "Contrast", scored: str | None) -> None:
    """Compare on real lanes. scored: the policy into whose card the gains are written."""
    import uvloop
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from agents import live
    from streamserve.bench import contrast

    columns = (TextColumn("live runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("")

        def told(done: int, runs: int, line: str) -> None:
            bar.update(task, completed=done, total=runs)
            bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

        blocks = uvloop.run(contrast.measure(given, told))
    table = live.table(blocks, contrast.HEURISTIC, live.judged(given.policies.values()))
    print(live.text(table, blocks))
    if table.cells:
        live.keep(table, blocks, given.out)
    if scored is not None and table.cells:
        live.score(scored, table)


@app.command(epilog=examples("streamserve tensorboard", "streamserve tensorboard --logdir runs --port 6007"))
def tensorboard(
    logdir: Annotated[Path, typer.Option(help="The folder of the runs.", metavar="DIR")] = Path("runs"),
    port: Annotated[int, typer.Option(help="On 127.0.0.1.", min=0, max=65535)] = 6006,
) -> None:
    """Show training runs, and what servers wrote with --tensorboard, in TensorBoard."""
    from agents.installed import check

    check()
    from agents.board import board

    raise typer.Exit(board(logdir, port))
