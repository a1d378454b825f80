"""The card: what it claims is checked, and what was written is what is read."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamserve.errors import PolicyError
from streamserve.policy import store
from streamserve.policy.card import Bounds, Deadlines, Score, Topology, envelope
from tests.policy.policies import make_card, make_weights


def test_whole_numbers_where_floats_belong_are_written_and_read_alike(tmp_path: Path) -> None:
    card = make_card(scores=[Score("even", 0, -1, 1)])
    store.save(tmp_path, card, make_weights())
    assert store.load(tmp_path).card.scores == card.scores


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_not_written(tmp_path: Path, number: float) -> None:
    with pytest.raises(PolicyError, match="not finite"):
        store.save(tmp_path, make_card(scores=[Score("odd", number, 0.0, 1.0)]), make_weights())
    assert list(tmp_path.iterdir()) == []


def test_live_scores_and_deadlines_are_kept_and_sealed(tmp_path: Path) -> None:
    card = make_card(live=[Score("bursts, 0.8", 0.04, 0.01, 0.07)], deadlines=Deadlines(3.0, 0.1))
    store.save(tmp_path, card, make_weights())
    read = store.load(tmp_path).card
    assert (read.live, read.deadlines) == (card.live, card.deadlines)
    changes: list[dict[str, Any]] = [{"live": []}, {"deadlines": None}]
    for change in changes:
        with pytest.raises(PolicyError, match="changed after it was written"):
            msgspec.structs.replace(card.sealed(), **change).check()


def test_any_change_breaks_the_seal() -> None:
    card = make_card().sealed()
    card.check()
    for fields in ({"name": "other"}, {"steps": 1001}, {"topologies": [Topology(8, 64)]}, {"sha256": "0"}):
        with pytest.raises(PolicyError, match="changed after it was written"):
            type(card)(**{name: getattr(card, name) for name in card.__struct_fields__} | fields).check()


def test_the_envelope_is_of_all_but_the_rarest() -> None:
    seen = np.arange(1001, dtype=np.float32).reshape(-1, 1)
    assert envelope({"pairs": seen}) == {"pairs": Bounds([1.0], [999.0])}


def test_topologies() -> None:
    card = make_card(topologies=[Topology(2, 4), Topology(4, 16)])
    assert card.made_for(4, 16) and not card.made_for(4, 4)
