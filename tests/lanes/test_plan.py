"""Which cores and devices each lane gets."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.config import Config, LaneConfig
from streamserve.errors import SetupError
from streamserve.lanes.vllm.plan import LanePlan, available_cores, plan
from streamserve.types import LaneId


def layout(*cores: int | list[int], share_cores: bool = False) -> Config:
    """CPU lanes with these cores."""
    lanes = [LaneConfig(id=LaneId(f"lane-{index}"), cores=own) for index, own in enumerate(cores)]
    return Config(lanes=lanes, share_cores=share_cores)


def assigned(config: Config, cores: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [lane.cores for lane in plan(config, cores)]


@pytest.mark.parametrize(
    ("wanted", "machine", "expected"),
    [
        ([1, 1], (0, 1), [(0,), (1,)]),
        ([1, 2], (2, 5, 7), [(2,), (5, 7)]),
        ([0], (0, 1, 4), [(0, 1, 4)]),
        ([[3, 1]], (0, 1, 2, 3), [(3, 1)]),
        ([2, [0]], (0, 1, 2), [(1, 2), (0,)]),
        ([1, [1], 1], (0, 1, 2), [(0,), (1,), (2,)]),
    ],
)
def test_every_lane_has_its_own_cores(
    wanted: list[int | list[int]], machine: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    assert assigned(layout(*wanted), machine) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([1, 1, 1], "needs 3 cores and this machine has 2"),
        ([4], "needs 4 cores and this machine has 2"),
        ([0, 1], "needs 3 cores and this machine has 2"),
        ([[0, 1], 1], "needs 3 cores and this machine has 2"),
        ([[0], [0]], r"cores \[0\] are named more than once"),
        ([[0, 0]], r"cores \[0\] are named more than once"),
    ],
)
def test_too_few_cores_name_the_way_out(wanted: list[int | list[int]], message: str) -> None:
    with pytest.raises(SetupError, match=message) as refused:
        plan(layout(*wanted), (0, 1))
    assert "share_cores=true" in str(refused.value)


@pytest.mark.parametrize(("wanted", "lacking"), [([1, 6], r"\[6\]"), ([], r"\[\]")])
@pytest.mark.parametrize("share_cores", [False, True])
def test_cores_that_are_named_must_be_there(wanted: list[int], lacking: str, share_cores: bool) -> None:
    with pytest.raises(SetupError, match=rf"lane-0: cores {lacking} are not available here; available: \[0, 1\]"):
        plan(layout(wanted, share_cores=share_cores), (0, 1))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([1, 1, 1], [(0,), (1,), (0,)]),
        ([0, 0], [(0, 1), (0, 1)]),
        ([4], [(0, 1)]),
        ([[0], [0]], [(0,), (0,)]),
        ([[0], 2], [(0,), (1,)]),
        ([[0, 1], 1], [(0, 1), (0,)]),
    ],
)
def test_lanes_that_may_share_cores_always_fit(wanted: list[int | list[int]], expected: list[tuple[int, ...]]) -> None:
    assert assigned(layout(*wanted, share_cores=True), (0, 1)) == expected


_machines = st.sets(st.integers(0, 31), min_size=1, max_size=16).map(lambda cores: tuple(sorted(cores)))


@st.composite
def _layouts(draw: st.DrawFn) -> tuple[list[int | list[int]], tuple[int, ...]]:
    machine = draw(_machines)
    named = st.lists(st.sampled_from(machine), min_size=1, max_size=3)
    return draw(st.lists(st.integers(0, 4) | named, min_size=1, max_size=5)), machine


@given(_layouts())
def test_no_core_is_in_two_lanes(wanted_of: tuple[list[int | list[int]], tuple[int, ...]]) -> None:
    wanted, machine = wanted_of
    try:
        lanes = assigned(layout(*wanted), machine)
    except SetupError:
        return
    taken = [core for lane in lanes for core in lane]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(machine)
    assert [len(lane) for lane in lanes] == [
        (count or len(machine)) if isinstance(count, int) else len(count) for count in wanted
    ]


@given(_layouts())
def test_sharing_gives_every_lane_distinct_cores_of_this_machine(
    wanted_of: tuple[list[int | list[int]], tuple[int, ...]],
) -> None:
    wanted, machine = wanted_of
    for lane in assigned(layout(*wanted, share_cores=True), machine):
        assert lane
        assert len(set(lane)) == len(lane)
        assert set(lane) <= set(machine)


def test_every_tensor_parallel_rank_needs_a_core() -> None:
    config = Config(lanes=[LaneConfig(id=LaneId("lane-0"), cores=1, tensor_parallel_size=2)])
    with pytest.raises(SetupError, match="lane-0: its 2 tensor-parallel ranks need a core each and it has 1"):
        plan(config, (0, 1))


@pytest.mark.parametrize("fields", [{"device": "cpu"}, {"device": "gpu"}])
def test_kv_moves_only_where_there_is_another_lane(fields: dict[str, Any]) -> None:
    lanes = [LaneConfig(id=LaneId(f"lane-{index}"), gpus=[index]) for index in range(2)]
    assert [lane.transfers_kv for lane in plan(Config(lanes=lanes, **fields), (0, 1))] == [True, True]
    assert [lane.transfers_kv for lane in plan(Config(lanes=lanes[:1], **fields), (0, 1))] == [False]


def test_gpu_lanes_keep_what_the_configuration_names_and_take_no_cores() -> None:
    lanes = [
        LaneConfig(id=LaneId("big"), gpus=[2, 3], tensor_parallel_size=2),
        LaneConfig(id=LaneId("small"), gpus=[2], memory_fraction=0.3),
    ]
    assert plan(Config(lanes=lanes, device="gpu"), ()) == (
        LanePlan(LaneId("big"), 0, "gpu", gpus=(2, 3), tensor_parallel_size=2, transfers_kv=True),
        LanePlan(LaneId("small"), 1, "gpu", gpus=(2,), memory_fraction=0.3, transfers_kv=True),
    )


def test_available_cores_are_some_that_this_process_may_run_on() -> None:
    cores = available_cores()
    assert cores
    assert list(cores) == sorted(set(cores))
    assert set(cores) <= os.sched_getaffinity(0)
