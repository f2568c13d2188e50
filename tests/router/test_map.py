"""How many items become few calls."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partition_actor import Ring
from partition_actor.router.map import Batch, progress_bar
from partition_actor.router.retry import RetryState
from partition_actor.router.routing_table import RoutingTable


def split(keys, members, chunk):
    table = RoutingTable((1, 1), Ring(members), {}, True)
    state = RetryState("g", keys[0], "method", search_time=1.0, retries=1, repeatable=False)
    return table, Batch([f"item of {key}" for key in keys], keys, state).split(table, chunk)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 20))
@settings(deadline=None)
def test_each_batch_has_one_owner_and_fits_and_nothing_is_lost(keys, members, chunk):
    table, batches = split(keys, [f"m{n}" for n in range(members)], chunk)
    assert sorted(key for batch in batches for key in batch.keys) == sorted(keys)
    for batch in batches:
        assert batch.items == [f"item of {key}" for key in batch.keys]
        assert len({table.owner(key) for key in batch.keys}) == 1
        assert len(batch.keys) <= chunk
        assert batch.state.key == batch.keys[0]
        assert batch.table is table
    assert len({id(batch.state) for batch in batches}) == len(batches)
    owners = [table.owner(batch.keys[0]) for batch in batches]
    sizes = [sum(table.owner(key) == owner for key in keys) for owner in set(owners)]
    assert len(batches) == sum(-(-size // chunk) for size in sizes)


def test_every_owner_has_its_first_batch_before_any_has_its_second():
    table, batches = split(list(range(400)), ["a", "b"], 10)
    owners = [table.owner(batch.keys[0]) for batch in batches]
    assert set(owners[:2]) == {"a", "b"}
    assert set(owners[10:12]) == {"a", "b"}


@pytest.mark.parametrize("wanted", [None, False])
def test_no_bar_without_a_terminal(wanted, capsys):
    with progress_bar("title", 3, wanted) as advance:
        advance(3)
    assert capsys.readouterr().err == ""


def test_a_wanted_bar_is_shown(capsys):
    with progress_bar("title", 3, True) as advance:
        advance(3)
    shown = capsys.readouterr().err
    assert "title" in shown
    assert "100%" in shown
