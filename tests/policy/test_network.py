"""The forward pass: equal to the formula, blind to the order of rows, and sound only with sound weights."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamserve.errors import PolicyError
from streamserve.policy.network import MASKED, Network, Weights, best
from tests.policy.policies import make_weights

Wide = NDArray[np.float64]
ROW, SHARED = 6, 4


def weights(seed: int, choices: int = 3) -> Weights:
    rng = np.random.default_rng(seed)
    arrays = Weights.untrained(ROW + SHARED, choices, rng, (3.0, 1.5, 0.7)).arrays()
    return Weights.of(
        {
            name: value if value.shape == () else rng.normal(size=value.shape).astype(np.float32)
            for name, value in arrays.items()
        }
    )


def inputs(seed: int, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    drawn = (rng.normal(size=shape) for shape in ((rows, ROW), (SHARED,), (rows,)))
    each, shared, heuristic = (values.astype(np.float32) for values in drawn)
    return each, shared, heuristic


def by_formula(weights: Weights, rows: Wide, shared: Wide, heuristic: Wide) -> Wide:
    """The network as its documentation has it, row by row in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.arrays().items()}
    e = []
    for row in rows:
        x = np.concatenate([row, shared])
        e.append(np.tanh(w["W2"] @ np.tanh(w["W1"] @ x + w["b1"]) + w["b2"]))
    c = np.concatenate([np.mean(e, axis=0), np.max(e, axis=0)])
    logits = np.empty((len(rows), weights.choices))
    for j, each in enumerate(e):
        h = np.tanh(w["W3"] @ np.concatenate([each, c]) + w["b3"])
        residual = w["kappa"] * np.tanh(w["W4"] @ h + w["b4"])
        for k in range(weights.choices):
            logits[j, k] = w["tau"] * (heuristic[j] - w["penalty"] * (k != 0)) + residual[k]
    return logits


@pytest.mark.parametrize("rows", [1, 2, 4, 31, 32, 33, 100])
def test_it_is_the_formula_for_any_number_of_rows(rows: int) -> None:
    drawn = weights(rows)
    each, shared, heuristic = inputs(rows, rows)
    expected = by_formula(drawn, *(values.astype(np.float64) for values in (each, shared, heuristic)))
    np.testing.assert_allclose(Network(drawn).logits(each, shared, heuristic), expected, atol=1e-4)


def test_the_number_of_rows_may_change_between_calls() -> None:
    network, drawn = Network(weights(0)), weights(0)
    for rows in (4, 1, 7, 4):
        each, shared, heuristic = inputs(rows, rows)
        np.testing.assert_array_equal(
            network.logits(each, shared, heuristic), Network(drawn).logits(each, shared, heuristic)
        )


@settings(deadline=None)
@given(st.integers(0, 1000), st.permutations(range(6)))
@example(336, [0, 2, 4, 3, 5, 1])
@example(109, [0, 1, 3, 4, 2, 5])
def test_permuting_rows_permutes_the_answer(seed: int, order: list[int]) -> None:
    network = Network(weights(seed))
    each, shared, heuristic = inputs(seed, 6)
    straight = network.logits(each, shared, heuristic).copy()
    permuted = network.logits(each[order], shared, heuristic[order])
    # Sums over the rows are rounded by their order, in float32, and the layers after them widen that tenfold.
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-4, atol=1e-4)


def test_untrained_it_rates_as_the_heuristic() -> None:
    rng = np.random.default_rng(0)
    untrained = Weights.untrained(ROW + SHARED, 3, rng, (3.0, 1.5, 0.5))
    each, shared, heuristic = inputs(1, 5)
    expected = 3.0 * (heuristic[:, None] - np.array([0, 0.5, 0.5], np.float32))
    np.testing.assert_allclose(Network(untrained).logits(each, shared, heuristic), expected, rtol=1e-6)


def test_best_is_under_the_mask_alone() -> None:
    logits = np.array([[9.0, 1.0], [8.0, 7.0]], np.float32)
    assert best(logits, np.array([[True, True], [True, True]])) == (0, 0)
    assert best(logits, np.array([[False, True], [False, True]])) == (1, 1)
    assert best(logits, np.array([[True], [False]])) == (0, 0)
    assert MASKED < -1e7


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_has_no_best(bad: float) -> None:
    logits = np.array([[1.0], [bad]], np.float32)
    assert best(logits, np.array([[True], [True]])) is None
    assert best(logits, np.array([[True], [False]])) == (0, 0)


def changed(name: str, value: NDArray[np.generic] | None) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = dict(make_weights().arrays())
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    return arrays


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("W2", None, "the weights are"),
        ("W9", np.zeros(3, np.float32), "the weights are"),
        ("W1", np.zeros((64, 3), np.float64), "float32"),
        ("W2", np.zeros((64, 63), np.float32), "W2"),
        ("W3", np.zeros((64, 64), np.float32), "W3"),
        ("b3", np.zeros(63, np.float32), "W3"),
        ("W4", np.zeros((0, 64), np.float32), "W4"),
        ("W4", np.zeros((3,), np.float32), "W4"),
        ("W1", np.zeros((3,), np.float32), "W1"),
        ("b4", np.full(4, np.nan, np.float32), "finite"),
        ("tau", np.array([1.0, 2.0], np.float32), "tau must be one"),
        ("kappa", np.array(np.inf, np.float32), "finite"),
        ("penalty", np.array(-1.0, np.float32), "0 or more"),
    ],
)
def test_weights_that_cannot_be_are_refused(name: str, value: NDArray[np.generic] | None, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Weights.of(changed(name, value))
