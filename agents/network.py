"""Network v1 in torch, as a policy of sb3-contrib's MaskablePPO: FlowGuard's choice plus a bounded, learned correction.

One encoder is shared by all rows (pairs or lanes) and pooled over those present, so no weight depends on their number:

    x_j = ([row_j, request, context] - mean) / std
    e_j = tanh(W2 tanh(W1 x_j + b1) + b2)                               c = [mean_j e_j, max_j e_j]
    logits_jk = tau * prior_jk + kappa * tanh(W4 tanh(W3 [e_j, c] + b3) + b4)_k
    prior_jk = score_j + [j is FlowGuard's choice] - penalty * [k != 0]
    value = V2 tanh(V1 [c', twin] + bv1) + bv2

W4 and b4 start at 0: the untrained policy is the heuristic. The value has an encoder of its own, whose pool is c' (what
shares one with the policy disturbs it, arXiv 2006.05990), and sees what the policy may not: the context of the twin,
where there is one (asymmetric actor-critic, arXiv 1710.06542). `streamserve.policy.network` is the policy in numpy,
for serving, with mean and std within W1 and b1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from agents.recipe import Residual
from agents.statistics import Values
from streamserve.policy.lane_codec import LANES
from streamserve.policy.layout import PAIRS
from streamserve.policy.network import Weights

TWIN = "twin"
"""The array of an observation that only the value sees."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where an observation space has what the network reads."""

    rows: str
    """The array with one row per pair or lane; all others are vectors."""
    vectors: tuple[str, ...]
    features: int
    """Width of [row, vectors]."""
    present: int
    """Column that is 1 in rows that are there."""
    heuristic: int | None
    score: int | None
    """Columns of FlowGuard's choice and of its score; None where every row is asked."""
    choices: int
    """Choices per row."""

    @classmethod
    def of(cls, observation: spaces.Space[Any], action: spaces.Space[Any]) -> "Inputs":
        """Those of the environments of `envs`; pairs have a heuristic row, lanes do not."""
        assert isinstance(observation, spaces.Dict), f"observations must be a Dict, not {observation}"
        rows = "pairs" if "pairs" in observation.spaces else "lanes"
        vectors = tuple(name for name in ("request", "context") if name in observation.spaces)
        count, columns = _shape(observation, rows)
        width = columns + sum(_shape(observation, name)[0] for name in vectors)
        present, heuristic, score = _places(rows)
        return cls(rows, vectors, width, present, heuristic, score, _choices(action, count))


def _shape(observation: spaces.Dict, name: str) -> tuple[int, ...]:
    shape = observation[name].shape
    assert shape is not None, f"{name} must be a Box"
    return shape


def _places(rows: str) -> tuple[int, int | None, int | None]:
    if rows == "pairs":
        return PAIRS.places["present"], PAIRS.places["heuristic"], PAIRS.places["score"]
    return LANES.places["present"], None, None


def _choices(action: spaces.Space[Any], rows: int) -> int:
    if isinstance(action, spaces.MultiDiscrete):
        return int(action.nvec[0])
    assert isinstance(action, spaces.Discrete), f"actions must be Discrete or MultiDiscrete, not {action}"
    return int(action.n) // rows


def heuristic_action(inputs: Inputs, observation: Mapping[str, NDArray[np.float32]]) -> Any:
    """What the untrained policy does: FlowGuard's own choice, depths as the lanes decide. One observation, no batch."""
    rows = observation[inputs.rows]
    if inputs.heuristic is None:
        return np.zeros(len(rows), np.int64)
    return int(rows[:, inputs.heuristic].argmax()) * inputs.choices


class Encoder(BaseFeaturesExtractor):
    """Rows encoded, and their pool."""

    def __init__(self, observation_space: spaces.Dict, inputs: Inputs, hidden: int, width: int) -> None:
        super().__init__(observation_space, width)
        self.inputs = inputs
        self.first = nn.Linear(inputs.features, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.register_buffer("mean", torch.zeros(inputs.features))
        self.register_buffer("std", torch.ones(inputs.features))

    def encode(self, observations: Mapping[str, Any]) -> tuple[Any, Any]:
        """(B, P, H) and (B, 2 H)."""
        inputs = self.inputs
        rows = observations[inputs.rows]
        count = rows.shape[1]
        vectors = [observations[name].unsqueeze(1).expand(-1, count, -1) for name in inputs.vectors]
        standard = (torch.cat([rows, *vectors], dim=2) - self.mean) / self.std
        encoded = torch.tanh(self.second(torch.tanh(self.first(standard))))
        present = rows[:, :, inputs.present].unsqueeze(2) > 0.5
        there = present.any(dim=1)
        mean = (encoded * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        # After the end of an episode there is no row; a tanh is never below -1.
        most = encoded.masked_fill(~present, -1.0).amax(dim=1) * there
        return encoded, torch.cat([mean, most], dim=1)


class Actor(Encoder):
    """Observation -> (B, P * (H + K) + 2 H): rows encoded, their prior, and the pool."""

    def __init__(self, observation_space: spaces.Dict, inputs: Inputs, residual: Residual) -> None:
        rows, hidden = _shape(observation_space, inputs.rows)[0], residual.hidden
        super().__init__(observation_space, inputs, hidden, rows * (hidden + inputs.choices) + 2 * hidden)
        self.residual = residual
        penalty = torch.full((inputs.choices,), residual.penalty)
        penalty[0] = 0.0
        self.register_buffer("penalty", penalty, persistent=False)

    def forward(self, observations: dict[str, Any]) -> Any:
        encoded, pool = self.encode(observations)
        prior = self._prior(observations[self.inputs.rows])
        return torch.cat([encoded.flatten(1), prior.flatten(1), pool], dim=1)

    def _prior(self, rows: Any) -> Any:
        inputs = self.inputs
        columns = [rows[:, :, place] for place in (inputs.heuristic, inputs.score) if place is not None]
        own = sum(columns) if columns else torch.zeros_like(rows[:, :, 0])
        return self.residual.tau * (own.unsqueeze(2) - self.penalty)


class Critic(Encoder):
    """Observation -> (B, 2 H + T): the pool, and the twin's context."""

    def __init__(self, observation_space: spaces.Dict, inputs: Inputs, hidden: int) -> None:
        self.twin = _shape(observation_space, TWIN)[0] if TWIN in observation_space.spaces else 0
        super().__init__(observation_space, inputs, hidden, 2 * hidden + self.twin)

    def forward(self, observations: dict[str, Any]) -> Any:
        _, pool = self.encode(observations)
        if not self.twin:
            return pool
        # The context is the last of what is standardised, and the twin's is like it.
        twin = (observations[TWIN] - self.mean[-self.twin :]) / self.std[-self.twin :]
        return torch.cat([pool, twin], dim=1)


class Heads(nn.Module):  # type: ignore[misc]
    """What SB3 calls the MLP extractor: encoded -> all logits (B, P * K), and the latent of the value."""

    def __init__(self, inputs: Inputs, residual: Residual, critic: Critic) -> None:
        super().__init__()
        hidden = residual.hidden
        self.inputs, self.residual = inputs, residual
        self.third = nn.Linear(3 * hidden, hidden)
        self.fourth = nn.Linear(hidden, inputs.choices)
        self.value = nn.Linear(critic.features_dim, hidden)
        self.latent_dim_pi, self.latent_dim_vf = inputs.choices, hidden

    def forward_actor(self, features: Any) -> Any:
        hidden, choices = self.residual.hidden, self.inputs.choices
        rows = (features.shape[1] - 2 * hidden) // (hidden + choices)
        encoded, prior, pool = features.split([rows * hidden, rows * choices, 2 * hidden], dim=1)
        encoded = encoded.unflatten(1, (rows, hidden))
        pool = pool.unsqueeze(1).expand(-1, rows, -1)
        inner = torch.tanh(self.third(torch.cat([encoded, pool], dim=2)))
        return prior + self.residual.kappa * torch.tanh(self.fourth(inner)).flatten(1)

    def forward_critic(self, features: Any) -> Any:
        return torch.tanh(self.value(features))


class StreamPolicy(MaskableActorCriticPolicy):
    """Network v1. Its logits are Discrete(P * K), or with MultiDiscrete([K] * P) one choice for every row."""

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        residual: Residual = Residual(),  # noqa: B008  # frozen
        **kwargs: Any,
    ) -> None:
        self.residual = residual
        self.inputs = Inputs.of(observation_space, action_space)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            features_extractor_class=Actor,
            features_extractor_kwargs={"inputs": self.inputs, "residual": self.residual},
            share_features_extractor=False,
            **kwargs,
        )

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = Heads(self.inputs, self.residual, self.vf_features_extractor)

    def _build(self, lr_schedule: Schedule) -> None:
        # SB3 has made a second actor for it.
        observations: Any = self.observation_space
        self.vf_features_extractor = Critic(observations, self.inputs, self.residual.hidden)
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        with torch.no_grad():
            nn.init.zeros_(self.mlp_extractor.fourth.weight)
            nn.init.zeros_(self.mlp_extractor.fourth.bias)
        # Again, without the layer that was replaced.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        for ours in ("features_extractor_class", "features_extractor_kwargs"):
            del parameters[ours]
        return {**parameters, "residual": self.residual}

    def standardise(self, mean: Values, std: Values) -> None:
        """Of [row, request, context], as they will be: for a policy that has learned nothing yet."""
        for encoder in (self.pi_features_extractor, self.vf_features_extractor):
            encoder.mean.copy_(torch.as_tensor(mean))
            encoder.std.copy_(torch.as_tensor(std))

    def weights(self) -> Weights:
        """What serving needs; the value is for training only."""
        encoder, heads = self.pi_features_extractor, self.mlp_extractor
        layers: dict[str, Any] = {}
        for number, layer in enumerate((encoder.first, encoder.second, heads.third, heads.fourth), 1):
            layers[f"W{number}"] = layer.weight.detach().cpu().numpy().copy()
            layers[f"b{number}"] = layer.bias.detach().cpu().numpy().copy()
        mean, std = (each.double().cpu().numpy() for each in (encoder.mean, encoder.std))
        of_raw = layers["W1"] / std
        layers["W1"], layers["b1"] = of_raw.astype(np.float32), (layers["b1"] - of_raw @ mean).astype(np.float32)
        residual = self.residual
        return Weights(**layers, tau=residual.tau, kappa=residual.kappa, penalty=residual.penalty)

    def resized(self, observation_space: spaces.Dict, action_space: spaces.Space[Any]) -> "StreamPolicy":
        """The same policy for another number of rows."""
        other = StreamPolicy(observation_space, action_space, self._dummy_schedule, self.residual)
        other.load_state_dict(self.state_dict())
        return other
