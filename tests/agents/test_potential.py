"""Shaping: a deadline to be missed costs at once, and no policy becomes better or worse by it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.environments import potential
from agents.potential import Potential
from agents.recipe import Recipe
from agents.twin import Twin
from streamserve.types import Slo
from tests.agents.test_twin import play
from tests.envs.scenes import plain, simulated

GAMMA = 0.9
WEIGHT = 0.5
pairs_of_expectations = st.tuples(st.floats(0, 50), st.floats(0, 50))


@given(st.lists(pairs_of_expectations, min_size=2, max_size=20), st.booleans())
def test_discounted_it_sums_to_what_is_left_less_what_there_was(
    expected: list[tuple[float, float]], terminated: bool
) -> None:
    subject = Potential(GAMMA, WEIGHT)
    subject.begin(0.0, 3.0)
    for _ in range(2):
        subject.begin(*expected[0])
        last = len(expected) - 2
        added = [subject.step(*each, terminated and k == last) for k, each in enumerate(expected[1:])]
        first, final = (-WEIGHT * (own - twin) for own, twin in (expected[0], expected[-1]))
        kept = 0.0 if terminated else GAMMA ** (last + 1) * final
        assert discounted(added) == pytest.approx(kept - first, abs=1e-9)


def discounted(rewards: list[float]) -> float:
    return sum(GAMMA**k * reward for k, reward in enumerate(rewards))


def pair(shaped: bool, **given: Any) -> Twin:
    """Two lanes in overload, the second one slow, with deadlines that are hard to meet."""
    slow = {"options": {"speeds": {"b": 0.4}}, "slo": Slo(0.3, 0.045), "load": 1.3, "requests": 40, **given}
    one, two = (simulated("Route", config=plain(), **slow) for _ in range(2))
    return Twin(one, two, Potential(GAMMA, WEIGHT) if shaped else None)


@pytest.mark.parametrize("drain", [True, False])
def test_an_episode_is_worth_what_it_was(drain: bool) -> None:
    def run(shaped: bool) -> list[tuple[float, dict[str, Any]]]:
        env = pair(shaped, drain=drain)
        chance = np.random.default_rng(1)
        steps = play(env, lambda _number: int(chance.integers(2)), seed=3)
        env.close()
        return steps

    plainly, shaped = run(False), run(True)
    added = [info["shaping"] for _, info in shaped]
    assert {info["shaping"] for _, info in plainly} == {0.0}
    assert [reward - info["shaping"] for reward, info in shaped] == pytest.approx([reward for reward, _ in plainly])
    worth = discounted([reward for reward, _ in shaped]) - discounted([reward for reward, _ in plainly])
    # Nothing is expected at first, and of an episode that has ended nothing any more.
    assert worth == pytest.approx(discounted(added))
    assert (abs(worth) < 1e-9) == drain
    assert max(added) > 0.1 and min(added) < -0.1


def test_the_heuristic_is_shaped_by_nothing() -> None:
    env = pair(True, drain=True)
    _, info = env.reset(seed=3)
    ended = False
    while not ended:
        _, reward, terminated, truncated, info = env.step(info["heuristic"])
        assert info["shaping"] == 0.0 and reward == pytest.approx(0.0, abs=1e-9)
        ended = terminated or truncated
    env.close()


def test_a_deadline_to_be_missed_costs_before_it_passes() -> None:
    env = pair(True, drain=True)
    env.reset(seed=3)
    shaping, missed = 0.0, 0
    for _ in range(4):
        # All on the slow lane.
        *_, info = env.step(1)
        shaping, missed = shaping + info["shaping"], missed + info["cost/slo"]
    assert missed == 0 and shaping < -0.2
    env.close()


def test_a_deadline_weighs_what_the_reward_says() -> None:
    recipe = Recipe(gamma=0.7)
    env = simulated("Route", config=plain(), weights={"slo": 10.0, "scale": 20.0})
    made = potential(recipe, env)
    assert made is not None
    made.begin(0.0, 0.0)
    assert made.step(3.0, 1.0, terminated=False) == pytest.approx(-0.7 * 0.5 * 2.0)
    assert potential(Recipe(shaping=False), env) is None
    env.close()
