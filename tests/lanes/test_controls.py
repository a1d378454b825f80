"""Depth controls on their way to an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.lanes.vllm.controls import decoded, deepest, encoded
from streamserve.signals import DepthControl, DepthMode

CONTROLS = st.builds(
    DepthControl,
    st.sampled_from(DepthMode),
    depth=st.integers(0, 20),
    target=st.floats(0, 1),
    price=st.floats(0, 10),
    max_depth=st.none() | st.integers(0, 20),
)


@given(CONTROLS)
def test_a_control_arrives_as_it_was_sent(control: DepthControl) -> None:
    values = encoded(control)
    assert decoded(values) == control
    assert all(isinstance(value, str | int | float | None) for value in values)
    assert type(values[0]) is str


@pytest.mark.parametrize(
    ("control", "depth"),
    [
        (DepthControl(DepthMode.OFF), 0),
        (DepthControl(DepthMode.FIXED, depth=2), 2),
        (DepthControl(DepthMode.FIXED, depth=9), 5),
        (DepthControl(DepthMode.FIXED, depth=4, max_depth=3), 3),
        (DepthControl(DepthMode.SPECUSTREAM), 5),
        (DepthControl(DepthMode.TARGET_ACCEPTANCE, max_depth=1), 1),
    ],
)
def test_no_model_drafts_what_nothing_can_use(control: DepthControl, depth: int) -> None:
    assert deepest(control, max_depth=5) == depth
