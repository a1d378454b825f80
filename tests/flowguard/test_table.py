"""LaneTable: rows made anew only where something changed say the same as a table that reads everything anew."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamserve.flowguard.table import NUMBERS, LaneTable
from streamserve.signals import Averages, DepthControl, DepthMode, DeviceSignals, LaneLoad, Signals, StepCost
from streamserve.types import LaneId
from tests.flowguard.snapshots import COST, A, B, lane, signals

FIXED = DepthControl(DepthMode.FIXED, 3)

snapshots = st.builds(
    lambda at_s, running, learned, transfer_s: {
        "at_s": at_s,
        "running": running,
        "cost": COST if learned else StepCost(),
        "transfer_s": Averages(transfer_s, transfer_s),
    },
    st.sampled_from([-5.0, 0.0, 1.0]),
    st.integers(0, 9),
    st.booleans(),
    st.none() | st.floats(0, 1),
)
loads = st.builds(LaneLoad, st.integers(0, 3), st.integers(0, 900), st.integers(0, 9))
moments = st.lists(st.tuples(st.sampled_from((A, B)), snapshots, loads), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(moments=moments)
def test_what_is_kept_says_the_same_as_what_is_read_anew(
    moments: list[tuple[LaneId, dict[str, Any], LaneLoad]],
) -> None:
    table = LaneTable()
    known, load = {A: lane(A), B: lane(B)}, {A: LaneLoad(), B: LaneLoad()}
    for number, (id, snapshot, work) in enumerate(moments):
        known, load = known | {id: lane(id, **snapshot)}, load | {id: work}
        now = Signals(float(number), known, load)
        kept, fresh = table.read(now), LaneTable().read(now)
        # How long a lane has been silent is the one thing that is not told by the signals alone.
        for name in NUMBERS:
            if name != "heard_s":
                assert np.array_equal(getattr(kept, name), getattr(fresh, name)), name


@given(decoding=st.integers(1, 200))
def test_a_lane_without_drafts_makes_a_token_in_every_step(decoding: int) -> None:
    load = {A: LaneLoad(decode_requests=decoding)}
    lanes = LaneTable().read(signals(lane(A), load=load))
    now_s, more_s = COST.decode_step_s(decoding), COST.decode_step_s(decoding + 1)
    assert lanes.step_s.tolist() == pytest.approx([now_s])
    assert lanes.tpot_one_more_s.tolist() == pytest.approx([more_s])
    assert lanes.slower_s.tolist() == pytest.approx([(more_s - now_s) * decoding])


@pytest.mark.parametrize(("depth", "drafts"), [(FIXED, True), (DepthControl(), False)])
def test_only_a_fixed_depth_is_paid_where_it_costs_more_than_it_gains(depth: DepthControl, drafts: bool) -> None:
    counts = {"draft_tokens_total": 300, "accepted_tokens_total": 20, "step_output": 1.2}
    lanes = LaneTable().read(signals(lane(A, depth=depth, **counts), load={A: LaneLoad(decode_requests=16)}))
    expected_s = COST.decode_step_s(17 * 4) / 1.2 if drafts else COST.decode_step_s(17)
    assert lanes.tpot_one_more_s.tolist() == pytest.approx([expected_s])


def test_what_is_not_a_number_counts_as_nothing_in_all_that_follows_from_it() -> None:
    lanes = LaneTable().read(signals(lane(A, kv_used=float("nan"), device=DeviceSignals(gpu_celsius=float("nan")))))
    assert (lanes.kv_used.item(), lanes.kv_free.item()) == (0.0, 1.0)
    assert lanes.spare.item() == 1.0 - lanes.pressure.item() <= 1.0


def test_silence_begins_when_there_is_work() -> None:
    table = LaneTable()
    known, work = lane(A), {A: LaneLoad(decode_requests=1)}
    assert table.read(signals(known, at_s=50.0)).silent_s.item() < 0
    silent_s = [table.read(signals(known, load=work, at_s=at_s)).silent_s.item() for at_s in (60.0, 65.0)]
    assert silent_s == [0.0, 5.0]
    assert table.read(signals(known, at_s=70.0)).silent_s.item() < 0
    assert table.read(signals(known, load=work, at_s=80.0)).silent_s.item() == 0.0


@pytest.mark.parametrize(
    ("load", "running", "idle"),
    [
        (LaneLoad(decode_requests=1, given_s=1.0), 0, True),
        (LaneLoad(decode_requests=1, given_s=1.0), 1, False),
        (LaneLoad(decode_requests=1, given_s=3.0), 0, False),
        (LaneLoad(decode_requests=2, awaited_requests=2, given_s=3.0), 1, True),
        (LaneLoad(decode_requests=2, awaited_requests=1, given_s=3.0), 0, False),
    ],
    ids=["its client does not read", "it decodes", "it was given more", "KV is to come", "KV has come"],
)
def test_a_lane_whose_engine_has_nothing_is_not_silent(load: LaneLoad, running: int, idle: bool) -> None:
    table = LaneTable()
    known = lane(A, at_s=2.0, running=running)
    table.read(signals(known, load={A: load}, at_s=3.0))
    assert (table.read(signals(known, load={A: load}, at_s=50.0)).silent_s.item() < 0) == idle
