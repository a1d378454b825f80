"""Knots: t(V) of many lanes at once is what each lane's `StepCost` says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.flowguard.knots import REREAD_S, Knots
from streamserve.signals import StepCost

curves = st.lists(
    st.tuples(st.integers(1, 200), st.floats(0.001, 0.2)), min_size=1, max_size=6, unique_by=lambda k: k[0]
)
costs = curves.map(
    lambda knots: StepCost(tuple(zip(sorted(at for at, _ in knots), np.cumsum([s for _, s in knots]), strict=True)))
)


@given(lanes=st.lists(costs, min_size=1, max_size=4), tokens=st.floats(0.5, 400))
def test_a_step_costs_what_the_lane_says(lanes: list[StepCost], tokens: float) -> None:
    knots = Knots()
    knots.refresh(lanes, [0.0] * len(lanes))
    got = knots.step_s(np.full((2, len(lanes)), tokens))
    assert got[1].tolist() == pytest.approx([cost.decode_step_s(tokens) for cost in lanes])


def test_costs_are_read_again_after_a_while() -> None:
    knots = Knots()
    for at_s, expected_s in ((0.0, 0.1), (REREAD_S / 2, 0.1), (REREAD_S, 0.3)):
        knots.refresh([StepCost(((1, 0.1 + 2 * at_s),), steps=1)], [at_s])
        assert knots.step_s(np.ones((1, 1))).item() == pytest.approx(expected_s)
