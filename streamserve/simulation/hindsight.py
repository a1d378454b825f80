"""Hindsight: what routing could have won in a run, had it known the future.

A plan is simulated again and again with the same luck, each time with a few requests on other pairs than in the best
run so far, and what is better is kept. No router can be expected to do as well, since none knows what comes. The
search is not exhaustive, so the best possible is at least as good as what it finds: a lower estimate of that. It also
takes whatever luck suits it: `elsewhere` tells how much of a gain remains when the same decisions meet another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from streamserve.config import Config
from streamserve.errors import ConfigError
from streamserve.flowguard import routers
from streamserve.flowguard.pairs import Pair, Pairs
from streamserve.lanes.sim.calibration import Calibration
from streamserve.protocols import Router
from streamserve.simulation.options import SimOptions
from streamserve.simulation.replay import Recorder, Repair, Replay, Written
from streamserve.simulation.run import Simulation, simulate
from streamserve.types import Decision, Result
from streamserve.workload.plan import Plan

ROUTER = "hindsight"
HEURISTIC = "flowguard"
OTHER_LUCK = 1_000_003
"""Between the seeds of an episode's own luck and of others."""
FAILURE_S = 30.0
"""What a request that failed counts for beside its time, as in the reward of environments."""
OTHERS = ("least_loaded", "predicted_latency", "vllm_dp", "round_robin")
"""Routers whose runs are tried first."""
SPREAD = 6.0
"""About how far from each other, in requests, decisions are changed together."""
HEAVY = 1.5
"""Exponent of how many decisions are changed at once: few as a rule, many now and then (arXiv 1703.03334)."""
ALONE = 0.75
"""Share of the new pairs that are one lane, where there are such."""
EXCHANGED = 0.3
REPAIRED = 0.5
"""Share of the changes after which FlowGuard decides some of the next requests anew."""
REPAIRED_REQUESTS = 24
"""How many those are on average."""


@dataclass(frozen=True)
class Episode:
    """One run: everything but who routes it."""

    plan: Plan
    config: Config
    calibration: Calibration
    options: SimOptions

    def run(self, router: Router) -> Simulation:
        """It under this router, which must be new. Raises `ConfigError`."""
        return simulate(self.plan, self.config, self.calibration, self.options, router)

    def recorded(self, router: Router) -> tuple[Simulation, Written]:
        """It, and what the router decided. Raises `ConfigError`."""
        recorder = Recorder(router)
        return self.run(recorder), dict(recorder.written)


class Goal(NamedTuple):
    """What is made small."""

    value: Callable[[Sequence[Result]], float]
    focus: float
    """Decisions are changed around a request, chosen by this power of its latency."""


def cost(results: Sequence[Result]) -> float:
    """As the reward of environments has it: everyone's seconds, one for each missed deadline, `FAILURE_S` a failure."""
    finished = [each for each in results if each.finish.by_itself]
    missed = sum(_over(each.ttft_s, each.slo.ttft_s) + _over(each.tpot_s, each.slo.tpot_s) for each in finished)
    return sum(each.e2e_s for each in results) + missed + FAILURE_S * (len(results) - len(finished))


def p99_s(results: Sequence[Result]) -> float:
    """The 99th percentile of E2E of all requests, and `FAILURE_S` for each that failed."""
    failed = sum(not each.finish.by_itself for each in results)
    return float(np.percentile([each.e2e_s for each in results], 99)) + FAILURE_S * failed


def missed(results: Sequence[Result]) -> float:
    """How many requests missed a deadline that they carried, or failed; of two as good the quicker one is smaller."""
    seconds = sum(each.e2e_s for each in results)
    return sum(not each.slo_met for each in results) + seconds / (1.0 + seconds)


def _over(value_s: float | None, wish_s: float | None) -> bool:
    return value_s is not None and wish_s is not None and value_s > wish_s


GOALS: Mapping[str, Goal] = {"mean": Goal(cost, 1.0), "p99": Goal(p99_s, 8.0), "goodput": Goal(missed, 0.0)}


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    heuristic: Simulation
    best: Simulation
    written: Written
    """The decisions of the best."""
    steps: tuple[tuple[int, float], ...]
    """(try, value of the goal): the heuristic's at 0, then every improvement."""

    @property
    def gain(self) -> float:
        """The share of the heuristic's value that is saved."""
        return 1 - self.steps[-1][1] / self.steps[0][1]


def search(episode: Episode, tries: int, goal: Goal, seed: int = 0) -> Found:
    """The best of so many runs beside the heuristic's; the same arguments find the same. Raises `ConfigError`."""
    rng = np.random.default_rng(seed)
    config = episode.config
    pairs = config.stream_pairs()
    heuristic, kept = episode.recorded(routers.build(HEURISTIC, pairs, config.flowguard))
    best, value = heuristic, goal.value(heuristic.run.results)
    steps = [(0, value)]
    for number in range(1, tries + 1):
        if number <= len(OTHERS):
            made, written = episode.recorded(routers.build(OTHERS[number - 1], pairs))
        else:
            made, written = _another(episode, kept, best.run.results, goal, rng)
        new = goal.value(made.run.results)
        # Equal ones are taken as well: a change that costs nothing may let the next one pay.
        if new <= value:
            if new < value:
                steps.append((number, new))
            best, kept, value = made, written, new
    return Found(heuristic, best, kept, tuple(steps))


def elsewhere(episode: Episode, found: Found, times: int) -> list[tuple[Simulation, Simulation]]:
    """FlowGuard, and the decisions that were found, both with the same other luck, so many times.

    Arrivals, requests and lanes are those of the episode; the times of steps and transfers and the drafts that are
    accepted are drawn anew. Raises `ConfigError`.
    """
    config = episode.config
    made = []
    for number in range(1, times + 1):
        other = replace(episode, options=replace(episode.options, seed=episode.options.seed + OTHER_LUCK * number))
        heuristic = other.run(routers.build(HEURISTIC, config.stream_pairs(), config.flowguard))
        made.append((heuristic, other.run(Replay(found.written, config))))
    return made


def _another(
    episode: Episode, kept: Written, results: Sequence[Result], goal: Goal, rng: np.random.Generator
) -> tuple[Simulation, Written]:
    """A run a little other than the one with these decisions and results."""
    asked = [each for each in results if each.request_id in kept]
    ids = [each.request_id for each in asked]
    places = near(np.array([each.e2e_s for each in asked]) ** goal.focus + 1e-12, rng)
    written = changed(kept, [ids[place] for place in places], episode.config.stream_pairs(), rng)
    if rng.random() >= REPAIRED:
        return episode.run(Replay(written, episode.config)), written
    last = places[-1] + int(rng.geometric(1 / REPAIRED_REQUESTS))
    free = {ids[place] for place in range(places[0], min(last + 1, len(ids))) if place not in places}
    return episode.recorded(Repair({key: each for key, each in written.items() if key not in free}, episode.config))


def near(weights: "np.ndarray[tuple[int], np.dtype[np.float64]]", rng: np.random.Generator) -> list[int]:
    """Some places near each other, in order, around one that is drawn by the weights."""
    centre = int(rng.choice(len(weights), p=weights / weights.sum()))
    count = min(max(1, len(weights) // 4), int(rng.zipf(HEAVY)))
    places = np.rint(centre + max(SPREAD, float(count)) * rng.laplace(size=count)).astype(int)
    # The request itself, or one that it may have waited for.
    if rng.random() < 0.5:
        places[0] = centre
    return sorted(set(np.clip(places, 0, len(weights) - 1).tolist()))


def changed(written: Written, ids: Sequence[str], pairs: Pairs, rng: np.random.Generator) -> Written:
    """The same with these requests on other pairs, or with their pairs exchanged among them."""
    now = [(written[each][0].prefill, written[each][0].decode) for each in ids]
    if len(set(now)) > 1 and rng.random() < EXCHANGED:
        # No lane gets more requests than before.
        turn = int(rng.integers(1, len(now)))
        new = [*now[turn:], *now[:turn]]
    else:
        new = [_drawn(pairs, pair, rng) for pair in now]
    moved = {
        each: [Decision(pair[0], pair[1], ROUTER, "found in hindsight"), *written[each][1:]]
        for each, pair, before in zip(ids, new, now, strict=True)
        if pair != before
    }
    return {**written, **moved}


def _drawn(pairs: Pairs, but: Pair, rng: np.random.Generator) -> Pair:
    """Another pair, one lane alone as a rule."""
    others = [pair for pair in pairs if pair != but] or [but]
    alone = [pair for pair in others if pair[0] == pair[1]]
    among = alone if alone and rng.random() < ALONE else others
    return among[int(rng.integers(len(among)))]


def parse(text: str) -> tuple[int, Goal] | None:
    """``hindsight:TRIES[:GOAL]`` as tries and goal; None of anything else. Raises `ConfigError`."""
    name, *rest = text.split(":")
    if name != ROUTER:
        return None
    tries, of = (*rest, "mean")[:2] if len(rest) in (1, 2) else ("", "")
    if not tries.isdecimal() or of not in GOALS:
        raise ConfigError(f"router {text!r}: write {ROUTER}:TRIES or {ROUTER}:TRIES:GOAL, a goal is {', '.join(GOALS)}")
    return int(tries), GOALS[of]
