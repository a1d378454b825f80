"""Evaluation: trained policies against the heuristic in held-out scenarios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from agents import environments, oracle, report
from agents.comparison import Table, compare
from agents.recipe import Recipe
from agents.scenarios import FIRST_SEED, chosen, of_texts, scenarios
from agents.served import ENVS, baseline, env_kwargs, figure, served
from agents.trial import Act, MakeEnv, heuristic
from streamserve import config as configuration
from streamserve.errors import ConfigError, PolicyError
from streamserve.policy import store
from streamserve.policy.card import Score
from streamserve.policy.store import Policy
from streamserve.types import Slo

Say = Callable[[str], None]
FEWEST_SEEDS = 6
"""With fewer a bootstrap interval is narrower than it should be, and a card's scores are judged by their intervals."""


@dataclass(frozen=True)
class Asked:
    """What is compared."""

    policies: Sequence[str]
    """Names of shipped ones, or folders; all of one kind."""
    scenarios: Sequence[str] = ()
    """Names; none = all."""
    config: str = "cpu-pair"
    calibration: str | None = None
    seeds: int = 10
    requests: int = 256
    prompts: str | None = None
    """A folder of prompt sets: scenarios of their texts are added."""
    arrivals: Sequence[str] = ("poisson", "gamma:5")
    """For those."""
    baselines: Sequence[str] = ()
    slo: Slo = Slo(3.0, 0.1)
    tries: int = 0
    """Of the search in hindsight, per episode; 0 = none."""
    goal: str = "mean"
    """What that makes small: mean or p99."""
    jobs: int = 1
    """Processes that search at once."""


def evaluate(asked: Asked, say: Say) -> Table:
    """Compare in simulation. Raises `ConfigError` and `PolicyError`."""
    policies = {name: store.load(store.find(name)) for name in asked.policies}
    kind, given = _common(policies)
    names = titles(policies)
    recipe = environments.calibrated(Recipe(env=ENVS[kind], env_kwargs=_plain(asked)))  # type: ignore[arg-type]
    known = scenarios(configuration.load(asked.config), asked.requests)
    if asked.prompts is not None:
        known |= of_texts(asked.prompts, asked.arrivals, asked.requests)
    makers: dict[str, MakeEnv] = {
        name: partial(environments.make, recipe, {**given, **settings})
        for name, settings in chosen(known, asked.scenarios).items()
    }
    rival = "specustream" if kind == "spec" else "flowguard"
    acts: dict[str, Callable[[MakeEnv], Act]] = {rival: heuristic}
    for name, policy in policies.items():
        acts[names[name]] = _always(served(policy))
    for name in asked.baselines:
        if kind == "spec":
            raise ConfigError("--baselines are of routing; policies of kind spec are compared with SpecuStream alone")
        baseline(name)
        acts[name] = _anew(name)
    deadlines = next(iter(policies.values())).card.deadlines
    # Those that it was made for, which every request then asks for, under the heuristic too.
    slo = asked.slo if deadlines is None else Slo(deadlines.ttft_s, deadlines.tpot_s)
    seeds = [FIRST_SEED + number for number in range(asked.seeds)]
    if asked.tries and kind == "spec":
        raise ConfigError("--oracle searches the pairs of requests; policies of kind spec choose no pairs")
    table = compare(makers, acts, seeds, slo, say)
    table = msgspec.structs.replace(table, figure=figure(next(iter(policies.values())).card))
    if not asked.tries:
        return table
    return oracle.bounded(table, makers, oracle.Search(asked.tries, asked.goal, asked.jobs), slo, say)


def keep(table: Table, folder: Path) -> None:
    """`evaluation.json`, `report.md`, and a picture of each figure."""
    report.keep(table, report.text(table), folder)


def score(name: str, table: Table) -> None:
    """Write the gains into the card of the only policy, by which `streamserve serve --policy auto` judges it.

    They replace those that are there. Raises `ConfigError` with fewer seeds than tell anything.
    """
    fewest = min((len(cell.seeds) for cell in table.cells), default=0)
    if fewest < FEWEST_SEEDS:
        raise ConfigError(
            f"--write-scores wants {FEWEST_SEEDS} seeds of every scenario, these are {fewest}: --seeds 10"
        )
    folder = store.find(name)
    policy = store.load(folder)
    found = [(scenario, table.gain(scenario, policy.card.name, figure(policy.card))) for scenario in table.scenarios]
    scores = [Score(scenario, gain.value, gain.low, gain.high) for scenario, gain in found]
    store.save(folder, msgspec.structs.replace(policy.card, scores=scores), policy.weights)


def _plain(asked: Asked) -> dict[str, Any]:
    calibration = {} if asked.calibration is None else {"calibration": asked.calibration}
    return {"config": asked.config, **calibration}


def _common(policies: Mapping[str, Policy]) -> tuple[str, dict[str, Any]]:
    """Kind and environment settings that all policies share."""
    if not policies:
        raise ConfigError("name at least one policy: a folder with policy.npz and card.json, or a shipped one")
    wanted = {name: (policy.card.kind, env_kwargs(policy.card)) for name, policy in policies.items()}
    first = next(iter(wanted.values()))
    for name, each in wanted.items():
        if each != first:
            raise PolicyError(f"{name} is observed otherwise than {next(iter(wanted))}: evaluate them one by one")
    return first


def titles(policies: Mapping[str, Policy]) -> dict[str, str]:
    """Source -> title: its name, and where two have the same, the folder too, as `best` and `last` of a run."""
    names = [policy.card.name for policy in policies.values()]
    return {
        source: policy.card.name if names.count(policy.card.name) == 1 else f"{policy.card.name} ({Path(source).name})"
        for source, policy in policies.items()
    }


def _always(act: Act) -> Callable[[MakeEnv], Act]:
    return lambda _make: act


def _anew(name: str) -> Callable[[MakeEnv], Act]:
    return lambda _make: baseline(name)
