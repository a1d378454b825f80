"""Policies on disk: what is saved is loaded, and whatever else lies there is refused in one line."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamserve.errors import PolicyError
from streamserve.policy import store
from streamserve.policy.card import Bounds, Card, CodecOf, Kind
from streamserve.policy.store import CARD, WEIGHTS
from tests.policy.policies import make_card, make_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good policy's."""
    store.save(tmp_path / "good", make_card(), make_weights(trained=True))
    return tmp_path / "good"


def refusal(folder: Path) -> str:
    """The message with which it is refused."""
    with pytest.raises(PolicyError) as refused:
        store.load(folder)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("kind", ["route", "serve", "spec"])
def test_what_is_saved_is_loaded(tmp_path: Path, kind: Kind) -> None:
    weights = make_weights(kind, trained=True)
    written = store.save(tmp_path, make_card(kind), weights)
    policy = store.load(tmp_path)
    assert policy.card == written
    for name, array in weights.arrays().items():
        np.testing.assert_array_equal(policy.weights.arrays()[name], array)


def test_the_same_policy_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store.save(tmp_path / name, make_card(), make_weights())
    for file in (WEIGHTS, CARD):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [CARD, WEIGHTS]


@pytest.mark.parametrize("missing", [WEIGHTS, CARD])
def test_a_missing_file(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    assert missing in refusal(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), file=st.sampled_from([WEIGHTS, CARD]))
def test_any_changed_byte_is_refused(folder: Path, data: st.DataObject, file: str) -> None:
    good = (folder / file).read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    changed = good[:place] + bytes([value]) + good[place + 1 :]
    (folder / file).write_bytes(changed)
    try:
        if file == CARD and _same_json(good, changed):
            store.load(folder)
        else:
            refusal(folder)
    finally:
        (folder / file).write_bytes(good)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), file=st.sampled_from([WEIGHTS, CARD]))
def test_any_truncation_is_refused(folder: Path, data: st.DataObject, file: str) -> None:
    good = (folder / file).read_bytes()
    # The last byte of a card is its line's end.
    (folder / file).write_bytes(good[: data.draw(st.integers(0, len(good) - 2))])
    try:
        refusal(folder)
    finally:
        (folder / file).write_bytes(good)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_weights_of_any_bytes_under_the_right_hash_never_crash(folder: Path, data: st.DataObject) -> None:
    good = (folder / WEIGHTS).read_bytes()
    # The archive's own structure is at its ends and around each member.
    place = data.draw(st.one_of(st.integers(0, 300), st.integers(len(good) - 800, len(good) - 1)))
    junk = data.draw(st.binary(min_size=1, max_size=20))
    resealed(folder, good[:place] + junk + good[place + len(junk) :])
    try:
        store.load(folder)
    except PolicyError as error:
        assert "\n" not in str(error)
    finally:
        resealed(folder, good)


def resealed(folder: Path, data: bytes) -> None:
    """Other weights, with a card that vouches for them."""
    (folder / WEIGHTS).write_bytes(data)
    rewritten(folder, sha256=hashlib.sha256(data).hexdigest())


def rewritten(folder: Path, **fields: Any) -> None:
    card = msgspec.json.decode((folder / CARD).read_bytes(), type=Card)
    (folder / CARD).write_bytes(msgspec.json.encode(msgspec.structs.replace(card, **fields).sealed()))


def archive(**members: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **members)
    return file.getvalue()


def test_pickled_weights_are_not_read(folder: Path) -> None:
    arrays = {name: np.array([{}], object) for name in make_weights().arrays()}
    resealed(folder, archive(**arrays))
    assert "allow_pickle" in refusal(folder)


def test_weights_that_are_not_finite(folder: Path) -> None:
    arrays = make_weights().arrays()
    arrays["b1"] = np.full_like(arrays["b1"], np.nan)
    resealed(folder, archive(**arrays))
    assert "b1 are not all finite" in refusal(folder)


def test_an_archive_that_unpacks_to_too_much(folder: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("W1.npy", bytes(2 * store.MOST_BYTES[WEIGHTS]))
    resealed(folder, file.getvalue())
    assert "unpacks to" in refusal(folder)


@pytest.mark.parametrize("file", [WEIGHTS, CARD])
def test_a_file_that_is_too_large(folder: Path, file: str) -> None:
    with (folder / file).open("ab") as handle:
        handle.truncate(store.MOST_BYTES[file] + 1)
    assert "larger than" in refusal(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"kind": "spec"}, "trained for other observations"),
        ({"kind": "route"}, "for 1: export"),
        ({"codec": CodecOf("0" * 64, 8, [None])}, "trained for other observations"),
        ({"codec": CodecOf("0" * 64, 0, [None])}, "codec"),
        ({"codec": CodecOf("0" * 64, 10**9, [None])}, "codec"),
        ({"codec": CodecOf("0" * 64, 8, [])}, "codec"),
        ({"envelope": {}}, "envelope"),
        ({"envelope": {"pairs": Bounds([0.0], [1.0])}}, "envelope"),
        ({"envelope": {"pairs": Bounds([2.0], [1.0])}}, "no range"),
    ],
)
def test_a_card_for_something_else(folder: Path, fields: dict[str, Any], message: str) -> None:
    rewritten(folder, **fields)
    assert message in refusal(folder)


def test_a_card_edited_by_hand(folder: Path) -> None:
    text = (folder / CARD).read_text()
    (folder / CARD).write_text(text.replace('"gain": 0.05', '"gain": 0.5'))
    assert text != (folder / CARD).read_text()
    assert "changed after it was written" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": 1e999}'])
def test_a_card_that_is_none(folder: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    assert CARD in refusal(folder)


class TestFind:
    def test_a_shipped_one_by_name_and_any_by_path(self, folder: Path) -> None:
        assert store.find("good", folder.parent) == folder
        for path in (folder, folder / CARD, folder / WEIGHTS):
            assert store.find(str(path)) == folder
        assert store.shipped(folder.parent) == [folder]

    @pytest.mark.parametrize("source", ["nowhere", "/nowhere/at/all", "", "nul\0byte", "x" * 5000])
    def test_nothing_there(self, folder: Path, source: str) -> None:
        with pytest.raises(PolicyError, match="no policy"):
            store.load(store.find(source, folder.parent))

    def test_the_shipped_ones_load(self) -> None:
        for folder in store.shipped():
            assert store.load(folder).card.name == folder.name


def _same_json(one: bytes, other: bytes) -> bool:
    """Whether a card says the same: white space may be any other."""
    try:
        return msgspec.json.decode(one, type=Card) == msgspec.json.decode(other, type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
