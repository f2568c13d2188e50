"""``PartitionCoordinator(actor=None)``: one process alone, without Ray."""

import asyncio
import logging
import threading

import pytest

from partition_actor import PartitionCoordinator
from partition_actor.errors import InvalidArgument

LIMIT = 30.0


@pytest.fixture
def alone():
    with PartitionCoordinator("alone", actor=None) as coordinator:
        yield coordinator


def test_it_is_not_active(alone):
    assert not alone.is_active()


def test_everything_is_its_own(alone):
    items = ["b", "a", 3, None, "a"]
    assert alone.extract_my_subset("group", items) == items
    assert alone.owns("group", "key")
    assert alone.owner("group", "key") == "alone"
    assert alone.members("group") == ["alone"]
    assert alone.epoch("group") is None
    assert alone.fencing_token("group") == 0


def test_an_iterator_is_read_once(alone):
    assert alone.extract_my_subset("group", iter("abc")) == ["a", "b", "c"]


@pytest.mark.parametrize("group", ["", None])
def test_without_a_group_the_iterable_comes_back_as_it_is(alone, group):
    items = iter("abc")
    assert alone.extract_my_subset(group, items) is items
    alone.join_group(group)
    alone.leave_group(group)
    alone.watch_group(group, print)


def test_a_lock_is_between_the_threads_of_the_process(alone):
    first, second = alone.lock("l"), PartitionCoordinator("another", actor=None).lock("l")
    with first:
        assert first.held
        assert not second.acquire(blocking=False)
        taker = threading.Thread(target=second.acquire)
        taker.start()
        token = first.fencing_token
    taker.join(LIMIT)
    assert second.held
    assert second.fencing_token > token
    assert first.break_()
    assert not second.release()
    assert not first.break_()

    async def vie():
        async with alone.lock("l"):
            assert not await alone.lock("l").aacquire(timeout=0.01)
            return await second.abreak()

    assert asyncio.run(vie())
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert first.release()
    assert second.release()


def test_it_leads_every_group(alone):
    told = []
    assert alone.is_leader("group")
    alone.elect("group", told.append)
    alone.run_watchers()
    assert [event.group for event in told] == ["group"]
    assert not alone.stand_down("group")
    assert alone.is_leader("group")


def test_every_method_is_a_no_op(alone, caplog):
    caplog.set_level(logging.INFO)
    events = []
    alone.heartbeat()
    alone.join_group("group", weight=2, metadata={"a": 1}, exclusive=True)
    alone.join_group("group")
    alone.watch_group("group", events.append)
    alone.run_watchers()
    alone.leave_group("group")
    alone.start()
    alone.stop()
    alone.stop()
    assert not events
    assert not caplog.records


def test_the_twins_for_asyncio():
    async def scenario():
        async with PartitionCoordinator("alone", actor=None) as alone:
            await alone.ajoin_group("group")
            mine = await alone.aextract_my_subset("group", ["a", "b"])
            await alone.arun_watchers()
            await alone.aleave_group("group")
        return mine

    assert asyncio.run(scenario()) == ["a", "b"]


def test_a_partition_has_every_key_and_tells_so(alone):
    """A program that starts its work in `on_gained` works alone as well."""
    arrived, told = threading.Condition(), []

    def tell(what, keys):
        with arrived:
            told.append((what, keys))
            arrived.notify()

    partition = alone.partition("group", ["a", "b"])
    assert list(partition) == ["a", "b"]
    partition.on_gained(lambda keys: tell("gained", keys))
    partition.on_lost(lambda keys: tell("lost", keys))
    with arrived:
        assert arrived.wait_for(lambda: told == [("gained", ["a", "b"])], LIMIT)
    partition.add(["c"])
    with arrived:
        assert arrived.wait_for(lambda: told[1:] == [("gained", ["c"])], LIMIT)
    partition.discard(["a"])
    with arrived:
        assert arrived.wait_for(lambda: told[2:] == [("lost", ["a"])], LIMIT)
    assert list(partition) == ["b", "c"]


def test_an_id_of_its_own_by_default():
    assert PartitionCoordinator(actor=None).my_id != PartitionCoordinator(actor=None).my_id


@pytest.mark.parametrize("items", [None, 7, "abc", b"abc"])
def test_items_that_are_no_iterable_of_keys_are_refused(alone, items):
    with pytest.raises(InvalidArgument):
        alone.extract_my_subset("group", items)
    with pytest.raises(InvalidArgument):
        alone.partition("group", items)
