"""Several environments of one kind in this process."""

from functools import partial
from typing import Any

from gymnasium.vector import SyncVectorEnv

from envs.control import ControlEnv
from envs.routing import RoutingEnv


def routing(num_envs: int = 1, **given: Any) -> SyncVectorEnv:
    """`num_envs` routing environments; the k-th is reset with seed + k. Raises `ConfigError`."""
    return _vector(partial(RoutingEnv, **given), num_envs)


def control(num_envs: int = 1, **given: Any) -> SyncVectorEnv:
    """As `routing`, of control environments."""
    return _vector(partial(ControlEnv, **given), num_envs)


def _vector(make: Any, num_envs: int) -> SyncVectorEnv:
    environments: list[Any] = [make] * num_envs
    vector: SyncVectorEnv = SyncVectorEnv(environments)
    return vector
