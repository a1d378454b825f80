"""Network v1 in torch: the heuristic before training, whatever the order and the number of the pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.network import TWIN, StreamPolicy
from agents.recipe import Residual
from streamserve.policy.lane_codec import LANES, TICK
from streamserve.policy.layout import CONTEXT
from streamserve.policy.network import Network
from tests.agents.spaces import HEURISTIC, PRESENT, SCORE, box, observations, random

PAIRS = 6
DEFAULT = Residual()
FREE = Residual(tau=0.5)


def policy(choices: int, pairs: int = PAIRS, seed: int = 0, residual: Residual = DEFAULT) -> StreamPolicy:
    torch.manual_seed(seed)
    return StreamPolicy(observations(pairs), spaces.Discrete(pairs * choices), lambda _left: 3e-4, residual)


def trained(choices: int, pairs: int = PAIRS) -> StreamPolicy:
    """A policy whose correction is far from 0, and weighs more than the heuristic."""
    return trained_from(policy(choices, pairs, residual=FREE))


def trained_from(untrained: StreamPolicy) -> StreamPolicy:
    rng = np.random.default_rng(8)
    width = untrained.inputs.features
    untrained.standardise(rng.uniform(0.0, 10.0, width), rng.uniform(0.1, 3.0, width))
    with torch.no_grad():
        for parameter in untrained.mlp_extractor.fourth.parameters():
            parameter.normal_(0.0, 0.3)
    return untrained


def beside_a_twin() -> tuple[StreamPolicy, dict[str, torch.Tensor]]:
    """A trained policy, and observations of an environment with a twin."""
    space = spaces.Dict({**observations(PAIRS).spaces, TWIN: box(CONTEXT)})
    torch.manual_seed(0)
    subject = trained_from(StreamPolicy(space, spaces.Discrete(PAIRS), lambda _left: 3e-4, FREE))
    rng = np.random.default_rng(9)
    seen, _, _ = random(rng, 64, PAIRS, 1)
    seen[TWIN] = rng.uniform(CONTEXT.low, CONTEXT.high, (64, len(CONTEXT))).astype(np.float32)
    return subject, {name: torch.as_tensor(each) for name, each in seen.items()}


def logits(policy: StreamPolicy, seen: dict[str, np.ndarray]) -> np.ndarray:
    tensors = {name: torch.as_tensor(each) for name, each in seen.items()}
    with torch.no_grad():
        raw: np.ndarray = policy.mlp_extractor.forward_actor(policy.pi_features_extractor(tensors)).numpy()
    return raw


@pytest.mark.parametrize("choices", [1, 4])
def test_an_untrained_policy_is_the_heuristic(choices: int) -> None:
    seen, mask, heuristic = random(np.random.default_rng(1), 500, PAIRS, choices)
    actions, _ = policy(choices).predict(seen, deterministic=True, action_masks=mask)
    assert actions.tolist() == heuristic.tolist()


@pytest.mark.parametrize("choices", [1, 4])
def test_permuting_the_pairs_permutes_the_action(choices: int) -> None:
    rng = np.random.default_rng(2)
    seen, mask, heuristic = random(rng, 200, PAIRS, choices)
    subject = trained(choices)
    actions, _ = subject.predict(seen, deterministic=True, action_masks=mask)
    assert (actions != heuristic).any(), "a policy that never differs from the heuristic proves nothing"
    order = rng.permutation(PAIRS)
    shuffled = {**seen, "pairs": seen["pairs"][:, order]}
    masks = mask.reshape(-1, PAIRS, choices)[:, order].reshape(len(mask), -1)
    moved, _ = subject.predict(shuffled, deterministic=True, action_masks=masks)
    assert (order[moved // choices] * choices + moved % choices).tolist() == actions.tolist()
    tensors = [{name: torch.as_tensor(each) for name, each in both.items()} for both in (seen, shuffled)]
    torch.testing.assert_close(*(subject.predict_values(each) for each in tensors))


def test_a_correction_never_exceeds_its_bound() -> None:
    seen, _, _ = random(np.random.default_rng(3), 100, PAIRS, 4)
    before, after = policy(4, residual=FREE), trained(4)
    assert np.abs(logits(after, seen) - logits(before, seen)).max() <= after.residual.kappa + 1e-4
    assert np.abs(logits(after, seen) - logits(before, seen)).max() > after.residual.kappa / 2


def test_rows_that_are_absent_change_nothing_and_any_number_of_pairs_will_do() -> None:
    seen, _, _ = random(np.random.default_rng(4), 50, PAIRS, 4)
    small, subject = logits(trained(4), seen), trained(4)
    larger = subject.resized(observations(PAIRS + 5), spaces.Discrete((PAIRS + 5) * 4))
    padded = {**seen, "pairs": np.pad(seen["pairs"], ((0, 0), (0, 5), (0, 0)))}
    np.testing.assert_allclose(logits(larger, padded)[:, : PAIRS * 4], small, atol=1e-5)


def test_the_observation_after_an_episode_has_a_value() -> None:
    empty = {name: torch.zeros((1, *space.shape)) for name, space in observations(PAIRS).spaces.items() if space.shape}
    assert torch.isfinite(policy(4).predict_values(empty)).all()


def test_every_weight_learns() -> None:
    seen, mask, _ = random(np.random.default_rng(5), 64, PAIRS, 4)
    subject = trained(4)
    tensors = {name: torch.as_tensor(each) for name, each in seen.items()}
    actions, _ = subject.predict(seen, action_masks=mask)
    values, log_prob, entropy = subject.evaluate_actions(tensors, torch.as_tensor(actions), torch.as_tensor(mask))
    assert entropy is not None
    (values.sum() + log_prob.sum() + entropy.sum()).backward()
    idle = [name for name, each in subject.named_parameters() if each.grad is None or not each.grad.abs().sum()]
    assert idle == []
    held = {id(each) for group in subject.optimizer.param_groups for each in group["params"]}
    assert held == {id(each) for each in subject.parameters()}


def _logits(subject: StreamPolicy, seen: dict[str, Any]) -> Any:
    distribution: Any = subject.get_distribution(seen).distribution
    return distribution.logits


def test_only_the_value_sees_the_twin() -> None:
    subject, seen = beside_a_twin()
    other = {**seen, TWIN: seen[TWIN].flip(0)}
    with torch.no_grad():
        first, second = (_logits(subject, each) for each in (seen, other))
        assert torch.equal(first, second)
        assert (subject.predict_values(seen) - subject.predict_values(other)).abs().min() > 1e-3


def test_policy_and_value_share_no_weight() -> None:
    subject, seen = beside_a_twin()

    def moved() -> set[str]:
        named = {name: each for name, each in subject.named_parameters() if each.grad is not None}
        subject.zero_grad()
        return set(named)

    subject.predict_values(seen).sum().backward()
    of_value = moved()
    _logits(subject, seen).pow(2).sum().backward()
    of_policy = moved()
    assert of_value & of_policy == set()
    assert of_value | of_policy == {name for name, _ in subject.named_parameters()}


def test_a_policy_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "policy.pt")
    subject = StreamPolicy(observations(3), spaces.Discrete(3), lambda _left: 3e-4, Residual(2.0, 3.0, hidden=16))
    subject.save(path)
    again = StreamPolicy.load(path)
    assert again.residual == subject.residual
    assert all(torch.equal(a, b) for a, b in zip(subject.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("choices", [1, 4])
def test_serving_computes_the_same(choices: int) -> None:
    seen, _, _ = random(np.random.default_rng(6), 100, PAIRS, choices)
    subject = trained(choices)
    expected = logits(subject, seen).reshape(-1, PAIRS, choices)
    network = Network(subject.weights())
    for number, pairs in enumerate(seen["pairs"]):
        present = pairs[pairs[:, PRESENT] == 1]
        shared = np.concatenate([seen["request"][number], seen["context"][number]])
        got = network.logits(present, shared, present[:, SCORE] + present[:, HEURISTIC])
        np.testing.assert_allclose(got, expected[number, : len(present)], atol=1e-4)


def test_lanes_each_have_a_choice_of_their_own() -> None:
    lanes, controls = 3, 7
    space = spaces.Dict({"lanes": box(LANES, lanes), "context": box(TICK)})
    subject = StreamPolicy(space, spaces.MultiDiscrete([controls] * lanes), lambda _left: 3e-4)
    seen = {name: np.zeros((4, *each.shape), np.float32) for name, each in space.spaces.items() if each.shape}
    seen["lanes"][:, :2, LANES.places["present"]] = 1.0
    mask = np.ones((4, lanes, controls), bool)
    mask[:, 2, 1:] = False
    drawn, _ = subject.predict(seen, action_masks=mask.reshape(4, -1))
    assert drawn.shape == (4, lanes) and not drawn[:, 2].any()
    untrained, _ = subject.predict(seen, action_masks=mask.reshape(4, -1), deterministic=True)
    assert not untrained.any()
