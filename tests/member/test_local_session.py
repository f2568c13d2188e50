"""``PartitionCoordinator(actor=None)``: one process, without Ray."""

import asyncio
import logging
import threading

import pytest

from partition_actor import PartitionCoordinator
from partition_actor.errors import InvalidArgument

LIMIT = 30.0


@pytest.fixture
def local():
    with PartitionCoordinator("local", actor=None) as coordinator:
        yield coordinator


def test_it_is_not_active(local):
    assert not local.is_active()


def test_everything_is_its_own(local):
    items = ["b", "a", 3, None, "a"]
    assert local.extract_my_subset("group", items) == items
    assert local.owns("group", "key")
    assert local.owner("group", "key") == "local"
    assert local.members("group") == ["local"]
    assert local.epoch("group") is None
    assert local.fencing_token("group") == 0


def test_an_iterator_is_read_once(local):
    assert local.extract_my_subset("group", iter("abc")) == ["a", "b", "c"]


@pytest.mark.parametrize("group", ["", None])
def test_without_a_group_the_iterable_comes_back_as_it_is(local, group):
    items = iter("abc")
    assert local.extract_my_subset(group, items) is items
    local.join_group(group)
    local.leave_group(group)
    local.watch_group(group, print)


def test_a_lock_is_between_the_threads_of_the_process(local):
    first, second = local.lock("l"), PartitionCoordinator("another", actor=None).lock("l")
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
        async with local.lock("l"):
            assert not await local.lock("l").aacquire(timeout=0.01)
            return await second.abreak()

    assert asyncio.run(vie())
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert first.release()
    assert second.release()


def test_a_broken_lock_goes_to_the_next_who_waits(local):
    first, second = local.lock("broken"), local.lock("broken")

    async def scenario():
        assert await first.aacquire()
        waiting = asyncio.ensure_future(second.aacquire())
        await asyncio.sleep(0)
        assert await first.abreak()
        return await asyncio.wait_for(waiting, LIMIT)

    assert asyncio.run(scenario())
    assert not first.held
    assert second.release()


def test_it_leads_every_group(local):
    told = []
    assert local.is_leader("group")
    local.elect("group", told.append)
    local.run_watchers()
    assert [event.group for event in told] == ["group"]
    assert not local.stand_down("group")
    assert local.is_leader("group")


def test_every_method_is_a_no_op(local, caplog):
    caplog.set_level(logging.INFO)
    events = []
    local.heartbeat()
    local.join_group("group", weight=2, metadata={"a": 1}, exclusive=True)
    local.join_group("group")
    local.watch_group("group", events.append)
    local.run_watchers()
    local.leave_group("group")
    local.start()
    local.stop()
    local.stop()
    assert not events
    assert not caplog.records


def test_the_twins_for_asyncio():
    async def scenario():
        async with PartitionCoordinator("local", actor=None) as local:
            await local.ajoin_group("group")
            mine = await local.aextract_my_subset("group", ["a", "b"])
            await local.arun_watchers()
            await local.aleave_group("group")
        return mine

    assert asyncio.run(scenario()) == ["a", "b"]


def test_a_partition_has_every_key_and_tells_so(local):
    """A program that starts its work in `on_gained` works in the single-instance mode too."""
    arrived, told = threading.Condition(), []

    def tell(what, keys):
        with arrived:
            told.append((what, keys))
            arrived.notify()

    partition = local.partition("group", ["a", "b"])
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
def test_items_that_are_no_iterable_of_keys_are_refused(local, items):
    with pytest.raises(InvalidArgument):
        local.extract_my_subset("group", items)
    with pytest.raises(InvalidArgument):
        local.partition("group", items)
