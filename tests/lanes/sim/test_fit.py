"""Every fit finds again what made-up logs were made from, and says what is missing from those that are too small."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.lanes.sim.calibration import Front, StepModel, checked, dump, load
from streamserve.lanes.sim.fit import fit, fit_front, fit_transfer
from streamserve.lanes.sim.fit_drafts import (
    MIX,
    class_edges,
    draft_classes,
    played,
    played_tokens_per_step,
    stays,
    tokens_per_step,
)
from streamserve.lanes.sim.fit_drift import drift
from streamserve.lanes.sim.fit_logs import Logs, Step
from streamserve.lanes.sim.fit_noise import coupled, coupling, lanes_at_work, noise
from streamserve.lanes.sim.fit_score import held_out, scores
from streamserve.lanes.sim.fit_step import OTHERS, coefficient_names, fit_step, modelled
from streamserve.lanes.sim.nnls import nnls
from streamserve.specustream.history import HistoryDrafter
from streamserve.specustream.playback import Output
from tests.lanes.sim import logs as made

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(7)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_nnls_is_the_best_of_what_is_not_negative(seed: int, columns: int) -> None:
    """The conditions of Karush, Kuhn and Tucker: no slope downwards, and none at all where a coefficient is free."""
    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(12, columns)), rng.normal(size=12)
    found = nnls(matrix.T @ matrix, matrix.T @ target)
    slope = matrix.T @ (matrix @ found - target)
    assert (found >= 0).all()
    assert (slope >= -1e-7).all()
    assert np.abs(slope[found > 0]).max(initial=0.0) < 1e-7


def test_nnls_lives_with_columns_that_are_alike() -> None:
    column = np.arange(1.0, 6.0)
    matrix = np.stack([column, column, np.zeros(5)], axis=1)
    found = nnls(matrix.T @ matrix, matrix.T @ (3 * column))
    assert matrix @ found == pytest.approx(3 * column)


def test_the_step_model_is_found_again(rng: Rng) -> None:
    steps = made.alone(rng, sigma=0.05)
    model = fit_step(steps, 0, rng).model
    truth_s = modelled(made.TRUTH, steps)
    assert np.abs(modelled(model, steps) / truth_s - 1).max() < 0.06
    assert model.prompt_token_s == pytest.approx(made.TRUTH.prompt_token_s, rel=0.05)
    assert model.prompt_s == pytest.approx(made.TRUTH.prompt_s, rel=0.15)
    assert model.attention_s == pytest.approx(made.TRUTH.attention_s, rel=0.5)
    assert model.context_token_s == pytest.approx(made.TRUTH.context_token_s, rel=0.3)
    seconds = [each for _, each in model.decode_s]
    assert seconds == sorted(seconds)


def test_pauses_of_the_machine_move_little(rng: Rng) -> None:
    steps = made.alone(rng, sigma=0.05)
    paused = [replace(step, time_s=20 * step.time_s) if place % 25 == 0 else step for place, step in enumerate(steps)]
    model = fit_step(paused, 0, rng).model
    assert np.median(modelled(model, steps) / modelled(made.TRUTH, steps)) == pytest.approx(1.0, abs=0.05)


def test_a_drifting_machine_is_no_coefficient(rng: Rng) -> None:
    """Twice as slow in the second half of each half minute: short cells of one kind may fall into either."""
    steps = [
        replace(step, time_s=step.time_s * (2.0 if step.at_s % 40 > 20 else 1.0))
        for step in made.alone(rng, sigma=0.03, repeats=6)
    ]
    found = fit_step(steps, 0, rng)
    ratios = modelled(found.model, steps) / modelled(made.TRUTH, steps)
    assert ratios.std() / ratios.mean() < 0.06
    assert np.corrcoef(found.slow, [step.at_s % 40 > 20 for step in steps])[0, 1] > 0.8


def test_a_steady_machine_does_not_drift(rng: Rng) -> None:
    steps = made.alone(rng, sigma=0.05)
    assert np.abs(drift(steps, modelled(made.TRUTH, steps))).max() < 0.02


def test_intervals_hold_the_truth(rng: Rng) -> None:
    found = fit_step(made.alone(rng, sigma=0.1), 100, rng)
    names = coefficient_names([tokens for tokens, _ in found.model.decode_s])
    for name in OTHERS:
        low, high = np.quantile(found.samples[:, names.index(f"step.{name}")], [0.01, 0.99])
        assert low <= getattr(made.TRUTH, name) <= high, name


def decodes(step: Step) -> bool:
    return step.verified > 0 and not step.prompt_tokens


def of_one_size(step: Step) -> bool:
    return step.verified in (0, 1)


def of_one_context(step: Step) -> bool:
    return not step.verified or step.context_tokens <= 50 * step.requests


def of_one_length(step: Step) -> bool:
    return step.prompt_tokens in (0, 16)


LACKS: Sequence[tuple[Callable[[Step], bool], str]] = [
    (decodes, "compute prompts of different length"),
    (lambda step: not step.verified, "decode, of batches of different size"),
    (of_one_size, "decode, of batches of different size"),
    (of_one_context, "decode after prompts of different length"),
    (of_one_length, "compute prompts of different length"),
    (lambda step: step.cell == 0, "decode, of batches of different size"),
]


@pytest.mark.parametrize(("keep", "missing"), LACKS)
def test_what_is_missing_is_said(keep: Callable[[Step], bool], missing: str, rng: Rng) -> None:
    with pytest.raises(ConfigError, match=missing):
        fit_step([step for step in made.alone(rng) if keep(step)], 0, rng)


def test_lanes_at_work_are_those_whose_steps_overlap() -> None:
    shape: made.Shape = ("decode", 0, 1, 0, 0, 0.0)
    first = [made.step(shape, 0, 0, at_s) for at_s in (0.0, 0.04, 0.08)]
    second = [made.step(shape, 0, 1, at_s) for at_s in (0.06, 0.20)]
    assert lanes_at_work([*first, *second]) == pytest.approx([1.0, 1.5, 1.5, 2.0, 1.0])


def test_coupling_is_found_again_whatever_the_machine_does_meanwhile(rng: Rng) -> None:
    steps: list[Step] = []
    for cell, slow in enumerate((1.0, 2.0, 0.7, 1.5)):
        cells = made.together(rng, cell, 100.0 * cell)
        steps += [replace(step, time_s=slow * step.time_s, at_s=slow * step.at_s) for step in cells]
    factors, samples = coupling(steps, lanes_at_work(steps), modelled(made.TRUTH, steps), 50, rng)
    assert factors[0] == 1.0
    assert factors[1] == pytest.approx(made.COUPLING, rel=0.05)
    assert samples.shape == (50, 1)


def test_coupling_needs_lanes_that_work_at_once(rng: Rng) -> None:
    steps = made.alone(rng, repeats=1)
    working = lanes_at_work(steps)
    with pytest.raises(ConfigError, match="with another one at work"):
        coupling(steps, working, modelled(made.TRUTH, steps), 1, rng)
    one = [replace(step, lane=0) for step in steps]
    assert coupling(one, np.ones(len(one)), modelled(made.TRUTH, one), 1, rng)[0] == (1.0,)


def test_a_step_between_two_numbers_of_lanes_has_a_factor_between() -> None:
    assert coupled(np.array([1.0, 1.5, 2.0, 3.0]), (1.0, 1.2)) == pytest.approx([1.0, 1.1, 1.2, 1.2])


def test_noise_is_told_apart_by_epochs(rng: Rng) -> None:
    """Epochs in turn fast and slow, and steps that differ within them."""
    shape: made.Shape = ("decode", 0, 1, 0, 0, 0.0)
    steps = []
    for epoch in range(40):
        for place in range(12):
            factor = float(np.exp((0.3 if epoch % 2 else -0.3) + rng.normal(0.0, 0.1)))
            steps.append(replace(made.step(shape, epoch, 0, 0.0, factor), at_s=epoch + 0.08 * place))
    steps.append(replace(made.step(shape, 99, 0, 0.0), at_s=41.0, time_s=5.0))
    found = noise(steps, modelled(made.TRUTH, steps))
    assert len(found.log_residuals) == 40, "the paused step is left out"
    assert np.mean(found.log_residuals[1::2]) == pytest.approx(0.3, abs=0.05)
    assert np.mean(found.log_residuals[::2]) == pytest.approx(-0.3, abs=0.05)
    assert found.step_sigma == pytest.approx(0.1, rel=0.15)


def test_front_and_transfer_are_found_again(rng: Rng) -> None:
    front, samples = fit_front([made.hop(0.05) for _ in range(5)], rng)
    assert (front.submit_s, front.return_s) == pytest.approx((made.SUBMIT_S, made.RETURN_S))
    assert np.ptp(samples["front.submit_s"]) < 1e-9
    transfer, _ = fit_transfer(made.handovers(), front, rng)
    assert (transfer.base_s, transfer.token_s) == pytest.approx(made.TRANSFER_S, rel=0.02)


def test_front_and_transfer_say_what_they_need(rng: Rng) -> None:
    with pytest.raises(ConfigError, match="idle lane"):
        fit_front([], rng)
    with pytest.raises(ConfigError, match="2 prompts were handed over"):
        fit_transfer(made.handovers()[:2], Front(0.0, 0.0), rng)
    with pytest.raises(ConfigError, match="different length"):
        fit_transfer(made.handovers()[:1] * 9, Front(0.0, 0.0), rng)


def test_classes_of_drafts_are_found_again(rng: Rng) -> None:
    classes = draft_classes(made.drafts(rng), 8)
    assert sorted(classes) == ["chat", "code", MIX]
    poor, good = classes[MIX]
    assert [poor.share, good.share] == pytest.approx([0.45, 0.45], abs=0.05)
    assert good.acceptance[:4] == pytest.approx([0.9] * 4, abs=0.05)
    assert poor.acceptance[0] == pytest.approx(0.2, abs=0.05)
    assert good.stay == pytest.approx(0.43, abs=0.1)
    right = [step.right for log in made.drafts(np.random.default_rng(7)) for step in log.steps]
    assert tokens_per_step(classes[MIX], 8) == pytest.approx(1 + np.mean(right), rel=0.01)


@given(st.lists(st.floats(0.02, 0.9), min_size=2, max_size=2), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_stay_of_a_chain_is_found_again(truth: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequence = [0]
    for _ in range(20_000):
        now = sequence[-1]
        sequence.append(now if rng.random() < truth[now] else int(rng.random() < 0.5))
    shares = [sequence.count(number) / len(sequence) for number in range(2)]
    found = stays([sequence], shares)
    # Two classes: which of them stays and which is drawn anew shows in the repeats alone, up to how often each is.
    fresh = [share * (1 - stay) for share, stay in zip(shares, found, strict=True)]
    for number in range(2):
        repeats = [b for a, b in zip(sequence, sequence[1:], strict=False) if a == number]
        chance = fresh[number] / sum(fresh)
        assert repeats.count(number) / len(repeats) == pytest.approx(
            found[number] + (1 - found[number]) * chance, abs=0.02
        )


def test_drafts_that_are_all_alike_are_one_class() -> None:
    assert len(class_edges(np.full(9, 2.5))) == 0


def test_no_draft_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no draft was made"):
        draft_classes([], 8)


def test_playback_knows_what_is_right() -> None:
    """A text that repeats itself is drafted right from its second round on."""
    phrase = [5, 6, 7, 8, 9]
    output = Output("chat", phrase * 2, phrase * 8)
    (log,) = played([[output]], lambda: HistoryDrafter(6, 100), 4)
    assert log.workload == "chat"
    assert {step.right for step in log.steps} == {4}
    assert all(len(step.kinds) == 4 for step in log.steps)


def test_a_lot_knows_nothing_of_another() -> None:
    """What was written before is drafted again within a lot, and in no other."""
    rng = np.random.default_rng(4)
    first, again = ([int(token) for token in rng.integers(1000, size=4)] for _ in range(2))
    tokens = [int(token) for token in rng.integers(1000, 9000, size=40)]
    outputs = [Output("chat", prompt, tokens) for prompt in (first, again)]

    def rights(lots: list[list[Output]]) -> list[int]:
        return [sum(step.right for step in log.steps) for log in played(lots, lambda: HistoryDrafter(6, 1000), 4)]

    assert rights([outputs[:1], outputs[1:]]) == [0, 0]
    cold, warm = rights([outputs])
    assert cold == 0
    assert warm > 20
    together = played_tokens_per_step([outputs], lambda: HistoryDrafter(6, 1000), 4, 4)["chat"]
    apart = played_tokens_per_step([outputs[:1], outputs[1:]], lambda: HistoryDrafter(6, 1000), 4, 4)["chat"]
    assert (apart, together > 1.5) == (1.0, True)


def test_all_together_give_a_calibration_that_loads(rng: Rng, tmp_path: object) -> None:
    found = fit(made.logs(rng), made.ORIGIN, made.ENGINE, rng)
    calibration = checked(found.calibration, "here")
    path = f"{tmp_path}/example.yaml"
    with open(path, "w") as file:
        file.write(dump(calibration))
    assert load(path) == calibration
    assert calibration.coupling[1] == pytest.approx(made.COUPLING, rel=0.05)
    assert {"step.prompt_s", "step.decode_s.8", "coupling.2", "front.submit_s", "transfer.token_s"} <= set(
        calibration.intervals
    )
    assert all(low <= high for low, high in calibration.intervals.values())
    assert set(found.held_out) == {"prefill", "decode", "verify", "mixed"}


def test_the_error_of_the_right_model_is_the_noise(rng: Rng) -> None:
    steps = made.alone(rng, sigma=0.1, repeats=6)
    for sort, score in scores(steps, held_out(steps, rng)).items():
        assert score.mape is not None and score.noise is not None
        assert score.mape == pytest.approx(score.noise, rel=0.25), sort
        assert score.cell_mape is not None and score.cell_mape < score.mape


def test_a_model_that_holds_steps_to_cost_nothing_has_an_error_and_no_division_by_zero(rng: Rng) -> None:
    """A model of very few steps, as of cells held out of a short calibration."""
    steps = made.alone(rng)
    free = StepModel(((1, 0.0), (512, 0.0)), 0.0, 0.0, 0.0, 0.0)
    found = scores(steps, modelled(free, steps))
    assert all(score.mape is not None and score.mape > 1 for score in found.values())


def test_empty_logs_are_an_error(rng: Rng) -> None:
    with pytest.raises(ConfigError, match="no step in the logs"):
        fit(Logs(), made.ORIGIN, made.ENGINE, rng)
