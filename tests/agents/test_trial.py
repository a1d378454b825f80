"""A policy and the heuristic over the same episodes."""

import numpy as np

from agents.trial import Episode, gains, heuristic, play
from tests.agents.toy import Toy


def make() -> Toy:
    return Toy(requests=40, drained=True)


def costs(episodes: list[Episode]) -> list[float]:
    return [episode.cost for episode in episodes]


def test_the_heuristic_gains_nothing_on_itself_and_a_better_policy_gains() -> None:
    seeds = [1, 2, 3, 4]
    rival = play(make, seeds, heuristic(make))
    assert gains(costs(rival), costs(play(make, seeds, heuristic(make)))) == [0.0] * 4
    fast = play(make, seeds, lambda batch, _masks: [0] * len(batch["pairs"]))
    assert np.mean(gains(costs(fast), costs(rival))) > 0.2


def test_an_episode_does_not_depend_on_those_beside_it() -> None:
    together = play(make, [1, 2, 3], heuristic(make))
    alone = [play(make, [seed], heuristic(make))[0] for seed in (1, 2, 3)]
    assert together == alone
    assert [episode.seed for episode in together] == [1, 2, 3]
    assert all(episode.steps == 40 for episode in together)


def test_a_cost_is_the_latency_of_all_its_requests() -> None:
    (episode,) = play(make, [7], lambda batch, _masks: [0] * len(batch["pairs"]))
    env = make()
    env.reset(seed=7)
    at_s = np.concatenate([[0.0], np.cumsum(env.gaps_s)[:-1]])
    free_s, total_s = 0.0, 0.0
    for arrived_s, work in zip(at_s, env.work, strict=True):
        free_s = max(free_s, arrived_s) + work / 4.0
        total_s += free_s - arrived_s
    np.testing.assert_allclose(episode.cost, total_s)
