"""The lane codec: a row and a control per lane."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.errors import ConfigError
from streamserve.policy.controls import CONTROLS
from streamserve.policy.lane_codec import LANES, LaneCodec
from streamserve.policy.rhythm import Beat
from streamserve.signals import DepthControl, DepthMode, LaneLoad, Signals
from streamserve.types import LaneState
from tests.flowguard.snapshots import A, B, C, lane, signals

CODEC = LaneCodec(most_lanes=4)
DRAFTING: dict[str, Any] = {"depth": DepthControl(), "acceptance": (0.8,), "step_output": 2.0}


def two(**fields: Any) -> Signals:
    return signals(lane(A, **DRAFTING | fields), lane(B, **DRAFTING), load={A: LaneLoad(1, 64, 3), B: LaneLoad()})


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(numbers, min_size=4, max_size=4), st.integers(0, 10**6))
def test_every_observation_is_in_its_space(values: list[float], count: int) -> None:
    kv_used, step_s, step_output, rate = values
    fields = {"kv_used": kv_used, "step_s": step_s, "step_output": step_output, "output_tokens_per_s": rate}
    observation = CODEC.observe(two(running=count, **fields), Beat(1.0, 1.0))
    for name, (low, high) in CODEC.bounds().items():
        observed = observation[name]
        assert observed.dtype == np.float32
        assert observed.shape == CODEC.shapes()[name]
        assert ((low <= observed) & (observed <= high)).all(), name


def test_rows_are_lanes_in_their_order() -> None:
    lanes = CODEC.observe(two(), Beat())["lanes"]
    assert lanes[:, LANES.places["present"]].tolist() == [1, 1, 0, 0]
    assert lanes[0, LANES.places["decode_requests"]] == pytest.approx(math.log1p(3))
    assert not lanes[2:].any()
    other = signals(*list(two().lanes.values())[::-1], load=two().load)
    swapped = CODEC.observe(other, Beat())["lanes"]
    assert swapped[:2].tolist() == lanes[1::-1].tolist()


def test_only_ready_lanes_that_speculate_can_be_set() -> None:
    seen = signals(lane(A, **DRAFTING), lane(B), lane(C, state=LaneState.LOST, **DRAFTING))
    mask = CODEC.mask(seen).reshape(4, -1)
    assert mask[0].all()
    assert mask[1:, 0].all()
    assert not mask[1:, 1:].any()
    assert CODEC.answer(seen, [3, 0, 0, 0]) == {A: 3}
    assert CODEC.answer(seen, [9, 1, 2, 0]) == {A: None, B: None, C: None}
    with pytest.raises(ConfigError, match="needs 4 numbers"):
        CODEC.answer(seen, [0])


def test_lanes_beyond_the_rows_are_left_alone() -> None:
    narrow = LaneCodec(most_lanes=1)
    assert narrow.observe(two(), Beat())["lanes"].shape[0] == 1
    assert narrow.answer(two(), [2]) == {A: 2}


def test_the_first_control_is_the_heuristic() -> None:
    assert CONTROLS[0] == DepthControl(DepthMode.SPECUSTREAM, price=1.0)


def test_the_schema_is_plain_and_its_hash_tells_codecs_apart() -> None:
    schema = CODEC.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert len({each.schema_hash() for each in (CODEC, LaneCodec(), LaneCodec(4, CONTROLS[:2]))}) == 3


@pytest.mark.parametrize("given", [{"most_lanes": 0}, {"controls": ()}])
def test_sizes_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        LaneCodec(**given)
