"""Picture: the last decisions as text or as pixels: our queue, each lane's work, and what its drafts gain."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamserve.signals import DepthControl, DepthMode, Signals
from streamserve.types import LaneId

COLUMNS = 120
COLUMN_PIXELS = 4
BAND_PIXELS = 48
GAP_PIXELS = 6
MOST_LANES = 16
BAR = 30
BACKGROUND, QUEUE, PREFILL, DECODE, DRAFTS, LOST = (
    (255, 255, 255),
    (120, 120, 120),
    (230, 159, 0),
    (86, 180, 233),
    (0, 0, 0),
    (213, 94, 0),
)
"""Colours that differ for everybody (Okabe and Ito)."""
MOST_GAINED = 8.0


@dataclass(frozen=True, slots=True)
class _Lane:
    ready: bool
    prefill: int
    decode: int
    gained: float
    """Accepted draft tokens per request and step."""
    control: str


@dataclass(frozen=True, slots=True)
class _Sight:
    at_s: float
    queued: int
    lanes: dict[LaneId, _Lane]


class Picture:
    """Keeps what the last `COLUMNS` decisions saw; lanes beyond `MOST_LANES` are not drawn."""

    def __init__(self) -> None:
        self._sights: deque[_Sight] = deque(maxlen=COLUMNS)

    def see(self, signals: Signals) -> None:
        """One more decision."""
        lanes = {}
        for lane in list(signals.lanes)[:MOST_LANES]:
            snapshot, load = signals.lanes[lane], signals.load[lane]
            lanes[lane] = _Lane(
                signals.ready(lane),
                load.prefill_requests,
                load.decode_requests,
                max(0.0, snapshot.step_output - 1.0),
                _named(snapshot.depth),
            )
        self._sights.append(_Sight(signals.at_s, signals.queued, lanes))

    def text(self) -> str:
        """The last decision: a bar per lane, `#` prefills and `=` decodes."""
        if not self._sights:
            return "nothing yet"
        last = self._sights[-1]
        lines = [f"t={last.at_s:.3f} s, {last.queued} queued"]
        for lane, seen in last.lanes.items():
            bar = ("#" * seen.prefill + "=" * seen.decode)[:BAR]
            state = f"+{seen.gained:.2f}/step, {seen.control}" if seen.ready else "not ready"
            lines.append(f"{lane:>12} |{bar:<{BAR}}| {seen.prefill} prefill, {seen.decode} decode, {state}")
        return "\n".join(lines)

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3): the queue in the first band, then one band per lane; time goes to the right.

        Orange: prefills, blue: decodes, red: not ready, black line: what drafts gain, 0 to `MOST_GAINED` a step.
        """
        ids = list(self._sights[-1].lanes) if self._sights else []
        height = (1 + len(ids)) * (BAND_PIXELS + GAP_PIXELS)
        image = np.full((height, COLUMNS * COLUMN_PIXELS, 3), BACKGROUND, np.uint8)
        work = [lane.prefill + lane.decode for sight in self._sights for lane in sight.lanes.values()]
        most = max([4, *work])
        most_queued = max([4, *(sight.queued for sight in self._sights)])
        for column, sight in enumerate(self._sights):
            across = slice(column * COLUMN_PIXELS, (column + 1) * COLUMN_PIXELS)
            _bar(image[:BAND_PIXELS, across], 0, sight.queued / most_queued, QUEUE)
            for place, lane in enumerate(ids, 1):
                top = place * (BAND_PIXELS + GAP_PIXELS)
                _lane(image[top : top + BAND_PIXELS, across], sight.lanes.get(lane), most)
        for place in range(1 + len(ids)):
            image[place * (BAND_PIXELS + GAP_PIXELS) + BAND_PIXELS] = QUEUE
        return image


def _lane(cell: NDArray[np.uint8], lane: _Lane | None, most: int) -> None:
    if lane is None or not lane.ready:
        _bar(cell, 0, 1.0, LOST)
        return
    _bar(cell, 0, lane.decode / most, DECODE)
    _bar(cell, lane.decode / most, (lane.decode + lane.prefill) / most, PREFILL)
    row = round((1 - min(1.0, lane.gained / MOST_GAINED)) * (len(cell) - 2))
    cell[row : row + 2] = DRAFTS


def _bar(cell: NDArray[np.uint8], low: float, high: float, colour: tuple[int, int, int]) -> None:
    height = len(cell)
    cell[height - round(min(1.0, high) * height) : height - round(min(1.0, low) * height)] = colour


def _named(control: DepthControl | None) -> str:
    if control is None:
        return "no drafts"
    match control.mode:
        case DepthMode.FIXED:
            return f"fixed {control.depth}"
        case DepthMode.SPECUSTREAM:
            return f"specustream, price {control.price:g}"
        case DepthMode.TARGET_ACCEPTANCE:
            return f"target {control.target:g}"
        case DepthMode.OFF:
            return "off"
