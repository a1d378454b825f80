"""Environment: what routing and control environments share, an episode of questions and answers as Gymnasium has it."""

import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.parts import Part
from envs.picture import Picture
from envs.remote_parts import stage as remote_stage
from envs.reward import Cost
from envs.running import encoder
from envs.scenario import Scenario, draw
from envs.settings import Settings
from envs.stage import LiveStage, SimStage, Stage
from envs.talk import End
from envs.traffic import source
from streamserve.errors import ConfigError
from streamserve.lanes.sim import calibration as calibrations
from streamserve.lanes.sim.calibration import Calibration
from streamserve.policy.question import Mask
from streamserve.signals import Signals
from streamserve.types import Result

Observation = dict[str, NDArray[np.float32]]
A = TypeVar("A")
NOTHING = Cost()
OF_THE_ENVIRONMENT = {
    "calibration",
    "tick_s",
    "live",
    "url",
    "admin_key",
    "api_key",
    "budget_s",
    "drive",
    "idle_limit_s",
    "decision_limit_s",
}
"""Settings that lanes, server and agent are made with; what else there is, an episode may have otherwise."""


class Environment(gymnasium.Env[Observation, A], Generic[A]):
    """One decision per step; subclasses say what is asked and what an action means.

    part: how the agent takes part. given: see `Settings`. Raises `ConfigError`.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(self, part: Part, render_mode: str | None, settings: Settings) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode must be null, ansi or rgb_array, got {render_mode!r}")
        self.render_mode = render_mode
        self.settings = settings
        self.scenario: Scenario | None = None
        live, remote = settings.live, settings.remote
        self._encode = live.encode if live else encoder(remote) if remote and settings.drive else None
        self._source = source(settings.workload, settings.vocabulary, self._encode)
        self._calibration = None if live or remote else _calibration(settings)
        self._stage: Stage
        if remote is not None:
            self._stage = remote_stage(remote, part)
        else:
            self._stage = LiveStage(live, part) if live else SimStage(_calibration(settings), part)
        # An environment that is dropped and not closed leaves no thread behind.
        self._closing = weakref.finalize(self, self._stage.close)
        self._picture = Picture() if render_mode else None
        self._now: Any = None
        self._before = NOTHING
        self._last_s = 0.0
        self._began_s = 0.0
        self._decisions = 0
        self._invalid = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode, drawn from the seed. options: settings that this episode has otherwise.

        Raises `ConfigError`; on live lanes `LaneLost` when they are not ready and idle in time; on a server that runs
        `SetupError` when it does not answer, and `TimeoutError` when no request comes.
        """
        super().reset(seed=seed)
        changes = options or {}
        if fixed := sorted(OF_THE_ENVIRONMENT & changes.keys()):
            raise ConfigError(f"options: {', '.join(fixed)} cannot change by the episode: make another environment")
        settings = self._stage.known(self.settings.but(changes))
        own = self._source
        if {"workload", "vocabulary"} & changes.keys():
            own = source(settings.workload, settings.vocabulary, self._encode)
        self._stage.end()
        self.scenario = draw(settings, self._calibration, own, self.np_random)
        self._episode = settings
        self._decisions = self._invalid = 0
        if self._picture is not None:
            self._picture = Picture()
        self._stage.begin(self.scenario, settings)
        self._now = self._stage.next()
        if isinstance(self._now, End):
            raise ConfigError(f"the episode ended before its first decision: {self._now.reason or 'no request came'}")
        self._began_s = self._last_s = self._now.signals.at_s
        self._see(self._now.signals)
        # What accrued before anything could be decided is in the first reward, so that their sum is the whole cost.
        self._before = self._now.cost
        return self._observation(self._now), self._info(NOTHING, 0.0)

    def step(self, action: A) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer, and go on to the next decision or to the end. An invalid action becomes the heuristic's."""
        asked = self._now
        if asked is None or isinstance(asked, End):
            raise gymnasium.error.ResetNeeded("the episode is over: call reset first")
        answer, invalid = self._answer(asked, action)
        self._invalid += invalid
        self._decisions += 1
        self._stage.answer(asked, answer)
        self._now, reason = self._following()
        cost, at_s = self._before.plus(self._now.cost), self._at_s(self._now)
        self._before = NOTHING
        over = isinstance(self._now, End)
        reward = cost.reward(self._episode.weights)
        info = self._info(cost, at_s - self._last_s)
        self._last_s = at_s
        terminated = over and reason is None and self._episode.drain
        truncated = not terminated and (over or self._at_horizon(at_s))
        if truncated and over:
            info["reason"] = reason or "the arrivals have ended"
        if not over:
            self._see(self._now.signals)
        observation = self._observation(self._now)
        if truncated:
            self._now = End(at_s, NOTHING)
        return observation, reward, terminated, truncated, info

    def action_masks(self) -> Mask:
        """Which actions are valid now, as sb3-contrib's MaskablePPO takes them; never none."""
        return self._mask(None if isinstance(self._now, End) else self._now)

    def signals(self) -> Signals | None:
        """What the decision that waits is taken from; None where none waits."""
        return None if self._now is None or isinstance(self._now, End) else self._now.signals

    def results(self) -> Sequence[Result]:
        """Of the requests that have ended in this episode."""
        return self._stage.results()

    def render(self) -> Any:
        """A text, or an (H, W, 3) uint8 picture: lanes, queue and depth over the last decisions."""
        if self._picture is None:
            gymnasium.logger.warn("render needs a render_mode: ansi or rgb_array")
            return None
        return self._picture.text() if self.render_mode == "ansi" else self._picture.pixels()

    def close(self) -> None:
        """End the episode and give the lanes back; idempotent."""
        self._closing()

    @abstractmethod
    def _observation(self, asked: Any) -> Observation:
        """Of a question, or of an `End`."""

    @abstractmethod
    def _mask(self, asked: Any) -> Mask:
        """Of a question, or of nothing."""

    @abstractmethod
    def _answer(self, asked: Any, action: A) -> tuple[Any, int]:
        """What the plant is told, and how many invalid actions it replaces."""

    @abstractmethod
    def _heuristic(self, asked: Any) -> Any:
        """What the untrained system would do."""

    def _following(self) -> tuple[Any, str | None]:
        try:
            following = self._stage.next()
        except TimeoutError as error:
            return End(self._last_s, NOTHING, str(error)), str(error)
        return following, following.reason if isinstance(following, End) else None

    def _at_horizon(self, at_s: float) -> bool:
        settings = self._episode
        if settings.horizon_s is not None and at_s - self._began_s >= settings.horizon_s:
            return True
        return not settings.drain and self._decisions >= settings.requests

    def _at_s(self, asked: Any) -> float:
        at_s: float = asked.at_s if isinstance(asked, End) else asked.signals.at_s
        return at_s

    def _see(self, signals: Signals) -> None:
        if self._picture is not None:
            self._picture.see(signals)

    def _info(self, cost: Cost, dt_s: float) -> dict[str, Any]:
        return {
            "cost/ttft": cost.ttft_s,
            "cost/decode": cost.decode_s,
            "cost/slo": cost.slo,
            "cost/failures": cost.failures,
            "expected_missed": self._now.expected_missed,
            "dt": dt_s,
            "invalid_actions": self._invalid,
            "heuristic": self._heuristic(self._now),
            **self._stage.notes(),
        }


def _calibration(settings: Settings) -> Calibration:
    if settings.calibration is not None:
        return settings.calibration
    names = calibrations.names()
    if not names:
        raise ConfigError("calibration: none ships yet; name one, or make one with streamserve calibrate")
    return calibrations.load(names[0])


def boxes(bounds: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]) -> gymnasium.Space[Observation]:
    """Bounds as an observation space."""
    spaces: dict[str, gymnasium.Space[Any]] = {
        name: gymnasium.spaces.Box(low, high, dtype=np.float32) for name, (low, high) in bounds.items()
    }
    return cast(gymnasium.Space[Observation], gymnasium.spaces.Dict(spaces))
