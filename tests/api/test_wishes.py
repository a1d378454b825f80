"""Headers that ask for something: what they mean, and which are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.api.wishes import NO_WISHES, BadWish, Wishes, read
from streamserve.types import Slo


def wishes(**headers: str) -> Wishes:
    return read([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()])


def test_a_request_without_such_headers_wishes_nothing() -> None:
    assert wishes(accept="*/*", x_request_id="1") is NO_WISHES


@pytest.mark.parametrize(
    ("value", "priority"),
    [("interactive", -10), ("Default", 0), ("batch", 10), ("0", 0), ("-7", -7), ("+3", 3), (" 12 ", 12)],
)
def test_priorities_are_classes_or_integers(value: str, priority: int) -> None:
    assert wishes(x_streamserve_priority=value) == Wishes(priority=priority)


def test_latencies_are_milliseconds_and_llm_ds_names_are_known() -> None:
    assert wishes(x_streamserve_ttft_slo_ms="250", x_streamserve_tpot_slo_ms="12.5").slo == Slo(0.25, 0.0125)
    assert wishes(x_llm_d_slo_ttft_ms="250", x_llm_d_slo_tpot_ms="50").slo == Slo(0.25, 0.05)


def test_our_own_names_win() -> None:
    both = {"x_llm_d_slo_ttft_ms": "1", "x_streamserve_ttft_slo_ms": "2"}
    assert wishes(**both).slo == wishes(**dict(reversed(both.items()))).slo == Slo(0.002)


def test_depth_and_explanation() -> None:
    assert wishes(x_streamserve_max_depth="0", x_streamserve_decision="1") == Wishes(max_depth=0, explain=True)
    assert not wishes(x_streamserve_decision="0").explain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("x_streamserve_priority", value)
            for value in ("", "urgent", "1.5", "1e3", "99999999999", "3000000000", "٣")
        ),
        *(
            ("x_streamserve_ttft_slo_ms", value)
            for value in ("", "0", "-5", "nan", "inf", "1s", "1,5", "1e999", "1e-323")
        ),
        *(("x_llm_d_slo_tpot_ms", value) for value in ("", "0", "fast", "1e-322")),
        *(("x_streamserve_max_depth", value) for value in ("", "-1", "2.0", "deep", "0x3", "99999999999")),
        *(("x_streamserve_decision", value) for value in ("", "yes", "2")),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(name: str, value: str) -> None:
    header = name.replace("_", "-")
    with pytest.raises(BadWish, match=rf"header {header}: .* is not ") as refusal:
        read([(header.encode(), value.encode("utf-8"))])
    assert refusal.value.name == header


@given(
    st.dictionaries(
        st.sampled_from(["priority", "ttft-slo-ms", "tpot-slo-ms", "max-depth", "decision", "other"]), st.binary()
    )
)
def test_no_bytes_break_it(headers: dict[str, bytes]) -> None:
    try:
        found = read([(f"x-streamserve-{name}".encode(), value) for name, value in headers.items()])
    except BadWish:
        return
    assert found.max_depth is None or found.max_depth >= 0
    assert all(wish is None or wish > 0 for wish in (found.slo.ttft_s, found.slo.tpot_s))
