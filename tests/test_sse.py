"""The stream of a chat's answer, as pure functions: events, what each adds, and how it may end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamserve.chat import Delta, deltas, read_delta, split_events
from streamserve.errors import ServeError

_line = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n"), max_size=12)


@given(
    events=st.lists(st.lists(_line, min_size=1, max_size=3), max_size=5),
    ending=st.sampled_from(["\n", "\r\n"]),
    data=st.data(),
)
def test_events_do_not_depend_on_where_the_network_cuts(
    events: list[list[str]], ending: str, data: st.DataObject
) -> None:
    stream = "".join("".join(f"data: {line}{ending}" for line in lines) + ending for lines in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    seen: list[str] = []
    rest = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found, rest = split_events(rest + stream[start:end])
        seen += found
    assert seen == ["\n".join(lines) for lines in events]
    assert rest == b""


@pytest.mark.parametrize(
    ("stream", "events", "rest"),
    [
        (b"data:x\n\n", ["x"], b""),
        (b": ping\n\ndata: x\n\n", ["x"], b""),
        (b"event: message\nid: 3\ndata: x\nretry: 1\n\n", ["x"], b""),
        (b"data\n\n", [""], b""),
        (b"data: x\n\ndata: unfini", ["x"], b"data: unfini"),
        (b"data: a\ndata: b\n", [], b"data: a\ndata: b\n"),
    ],
)
def test_events_follow_the_standard(stream: bytes, events: list[str], rest: bytes) -> None:
    assert split_events(stream) == (events, rest)


@pytest.mark.parametrize(
    ("data", "delta"),
    [
        ('{"choices": [{"delta": {"content": "a"}}]}', Delta("a")),
        ('{"choices": [{"delta": {"role": "assistant", "content": null}}]}', Delta()),
        ('{"choices": [{"delta": {"content": "a"}}], "usage": null}', Delta("a")),
        ('{"choices": [], "usage": {"completion_tokens": 4}}', Delta("", 4)),
    ],
)
def test_a_chunk_becomes_a_delta(data: str, delta: Delta) -> None:
    assert read_delta(data) == delta


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error": {"message": "lane-1 died\\nunder it"}}', "lane-1 died under it"),
        ('{"error": "Unauthorized"}', "Unauthorized"),
        ("[1]", r"the server sent an error: \[1\]"),
        ("<html>", "not JSON"),
    ],
)
def test_an_error_event_is_raised_in_one_line(data: str, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        read_delta(data)


def test_a_stream_that_ends_early_is_an_error() -> None:
    stream = deltas([b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'])
    assert next(stream) == Delta("a")
    with pytest.raises(ServeError, match="before the answer was complete"):
        next(stream)
