"""How many items become few calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition_actor import Ring
from partition_actor.router.map import Batch, Batches, Progress
from partition_actor.router.retry import Delivery
from partition_actor.router.routing_table import RoutingTable


def delivery(key):
    return Delivery("g", key, "method", patience=1.0, retries=1, repeatable=False)


def split(keys, members, chunk):
    known = RoutingTable((1, 1), Ring(members), {}, True)
    batches = Batches(None, delivery, "method", None, 4, chunk)
    items = [f"item of {key}" for key in keys]
    return known, batches._split(Batch(items, keys, delivery(keys[0])), known)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 20))
@settings(deadline=None)
def test_each_piece_has_one_owner_and_fits_and_nothing_is_lost(keys, members, chunk):
    known, pieces = split(keys, [f"m{n}" for n in range(members)], chunk)
    assert sorted(key for piece in pieces for key in piece.keys) == sorted(keys)
    for piece in pieces:
        assert piece.items == [f"item of {key}" for key in piece.keys]
        assert len({known.owner(key) for key in piece.keys}) == 1
        assert len(piece.keys) <= chunk
        assert piece.delivery.key == piece.keys[0]
    owners = [known.owner(piece.keys[0]) for piece in pieces]
    each = [sum(known.owner(key) == owner for key in keys) for owner in set(owners)]
    assert len(pieces) == sum(-(-size // chunk) for size in each)


def test_no_owner_waits_until_another_has_had_all_its_pieces():
    known, pieces = split(list(range(400)), ["a", "b"], 10)
    owners = [known.owner(piece.keys[0]) for piece in pieces]
    assert set(owners[:2]) == {"a", "b"}
    assert set(owners[10:12]) == {"a", "b"}


@pytest.mark.parametrize("wanted", [None, False])
def test_there_is_no_bar_where_no_terminal_looks_on(wanted, capsys):
    with Progress("title", 3, wanted) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_wanted_is_shown(capsys):
    with Progress("title", 3, True) as bar:
        bar.advance(3)
    assert "title" in capsys.readouterr().err
