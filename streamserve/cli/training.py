"""`streamserve train`, `streamserve evaluate` and `streamserve tensorboard`."""

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
        str, typer.Option(help="A recipe: quick, route, serve, spec, or a YAML file.", metavar="NAME|FILE")
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
    """What an environment over real lanes is given beside the recipe: nothing for simulated ones."""
    if recipe.plant == "sim":
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
    )
)
def evaluate(
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
        str | None, typer.Option(help="Compare these as well: random, cheapest.", metavar="NAME,...")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Folder of JSONL prompt sets, for scenarios of their texts.", metavar="DIR")
    ] = None,
    arrivals: Annotated[
        list[str] | None, typer.Option(help="Of those: gamma:CV, trace:FILE, ...; repeatable.", metavar="PROCESS")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Episodes of each policy in each scenario.", min=2)] = 10,
    requests: Annotated[int, typer.Option(help="Of each episode.", min=1)] = 256,
    slo_ttft: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 3.0,
    slo_tpot: Annotated[float, typer.Option(help="Seconds, for SLO attainment.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, report and pictures.", metavar="DIR")] = None,
    write_scores: Annotated[
        bool, typer.Option("--write-scores", help="Write the gains into the policy's card, for serve --policy auto.")
    ] = False,
) -> None:
    """Compare trained policies with the heuristic, in simulated scenarios that training never saw."""
    from agents.installed import check

    check()
    from agents import evaluate as evaluation
    from agents import report
    from streamserve.types import Slo

    if write_scores and len(policies) > 1:
        raise ConfigError("--write-scores writes one policy's card: evaluate the policies one by one")
    asked = evaluation.Asked(
        policies=policies,
        scenarios=parts(scenarios),
        config=config,
        calibration=calibration,
        seeds=seeds,
        requests=requests,
        prompts=None if prompts is None else str(prompts),
        arrivals=arrivals or evaluation.Asked.arrivals,
        baselines=parts(baselines),
        slo=Slo(slo_ttft, slo_tpot),
    )
    table = evaluation.evaluate(asked, lambda line: print(line, file=sys.stderr, flush=True))
    print(report.text(table))
    if out is not None:
        evaluation.keep(table, out)
    if write_scores:
        evaluation.score(policies[0], table)


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
