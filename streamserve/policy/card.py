"""Card: what a policy is, how it was made, and how well it did; `card.json` beside its weights."""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from streamserve.errors import PolicyError
from streamserve.policy.columns import Observed
from streamserve.policy.schema import fingerprint

FORMAT = 1
Kind = Literal["route", "serve", "spec"]


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per feature of one array of the observation: the 0.1th and the 99.9th percentile in training."""

    low: list[float]
    high: list[float]


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number of lanes, and of pairs over them."""

    lanes: int
    pairs: int


class CodecOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of which codec its numbers are."""

    schema: str
    """The codec's `schema_hash`."""
    most_rows: int
    """Pairs of a `Codec`, lanes of a `LaneCodec`."""
    depth_caps: list[int | None] = []
    """Of a `Codec`, whose choices they are in kind `serve`; empty with a `LaneCodec`."""


class CalibrationOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the simulated lanes of its training were measured on."""

    name: str
    hash: str
    model: str
    device: str


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the requests of its training asked for."""

    ttft_s: float
    tpot_s: float


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Held-out paired gain over the heuristic in one scenario, as a share of what the heuristic has: 0.05 = 5 % better.

    It is in the cost that the reward counts or, of a card with deadlines, in the share of requests that meet them.
    """

    scenario: str
    gain: float
    low: float
    """Of the 95 % interval."""
    high: float


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that serving needs to know of a policy beside its weights, and what a reader wants to know."""

    name: str
    kind: Kind
    codec: CodecOf
    envelope: dict[str, Bounds]
    """Array of the observation -> bounds of its features."""
    heuristic: str
    """Whose choice it corrects, e.g. flowguard."""
    topologies: list[Topology]
    """Those that it was trained for."""
    calibration: CalibrationOf
    workloads: list[str]
    seeds: list[int]
    steps: int
    command: str
    date: str
    libraries: dict[str, str]
    scores: list[Score]
    """In simulation; `auto` wants a gain here."""
    deadlines: Deadlines | None = None
    """What it was trained to meet; None = to make all latencies small."""
    live: list[Score] = []
    """On real lanes, where that was measured; `auto` wants no significant loss here."""
    format: int = FORMAT
    sha256: str = ""
    """Of policy.npz."""
    seal: str = ""
    """SHA-256 of everything else here: it tells a change by accident, not one on purpose."""

    def sealed(self) -> "Card":
        """The same with the seal that belongs to it, as it will be read. Raises `PolicyError`."""
        self._check_numbers()
        # A whole number where a float belongs would be read as another value than it was sealed as.
        read = msgspec.json.decode(msgspec.json.encode(self), type=Card)
        return msgspec.structs.replace(read, seal=read._fingerprint())

    def check(self) -> None:
        """Raises `PolicyError` on a card that was changed after it was written, or that contradicts itself."""
        if self.format != FORMAT:
            raise PolicyError(f"card.json has format {self.format}, this version reads {FORMAT}: export it again")
        self._check_numbers()
        if self.seal != self._fingerprint():
            raise PolicyError("card.json was changed after it was written: export the policy again")
        for array, bounds in self.envelope.items():
            if len(bounds.low) != len(bounds.high) or any(
                low > high for low, high in zip(bounds.low, bounds.high, strict=False)
            ):
                raise PolicyError(f"card.json: the envelope of {array} is no range: export the policy again")

    def made_for(self, lanes: int, pairs: int) -> bool:
        """Whether it was trained for that many."""
        return Topology(lanes, pairs) in self.topologies

    def _check_numbers(self) -> None:
        if not _all_finite(self):
            raise PolicyError("card.json holds a number that is not finite: export the policy again")

    def _fingerprint(self) -> str:
        return fingerprint(msgspec.to_builtins(msgspec.structs.replace(self, seal="")))


def envelope(observed: Mapping[str, Observed]) -> dict[str, Bounds]:
    """The envelope of observations from training. observed: array -> (samples, features), without empty rows."""
    return {
        array: Bounds(*(np.quantile(values, share, axis=0).tolist() for share in (0.001, 0.999)))
        for array, values in observed.items()
    }


def _all_finite(card: Card) -> bool:
    numbers = [number for score in (*card.scores, *card.live) for number in (score.gain, score.low, score.high)]
    numbers += [number for bounds in card.envelope.values() for number in (*bounds.low, *bounds.high)]
    return all(map(math.isfinite, numbers))
