"""Slots of a group's members, on a real cluster and in the single-instance mode."""

import asyncio
import os
import signal
import threading

import pytest
import ray
from deployments import LIMIT, wait_until
from members import SlotHolder
from sharing import SOON, exchange

from partition_actor import PartitionCoordinator
from partition_actor.errors import InvalidArgument, NotStarted


def test_a_join_returns_with_the_lowest_slot_and_the_next_one_gets_it_after_the_callbacks(steady, group):
    a, b, c = (steady.member(each) for each in "abc")
    a.join_group(group, exclusive=True, slot=True)
    b.join_group(group, slot=True)
    c.join_group(group, slot=0)
    assert [member.slot(group) for member in (a, b, c)] == [0, 1, None]
    wait_until(lambda: len(a.members(group)) == 3, SOON)
    began, goes_on = threading.Event(), threading.Event()

    def let_go(_):
        began.set()
        goes_on.wait(LIMIT)

    a.partition(group, range(100)).on_lost(let_go)
    a.run_watchers()
    leaving = threading.Thread(target=a.leave_group, args=[group])
    leaving.start()
    assert began.wait(LIMIT)
    exchange(group, a, c)
    assert c.slot(group) is None
    goes_on.set()
    wait_until(lambda: c.slot(group) == 0, SOON)
    leaving.join(LIMIT)
    assert (a.slot(group), b.slot(group)) == (None, 1)


def test_the_slot_of_a_killed_worker_is_the_next_ones_long_before_its_lease_ends(steady, group, spawn):
    worker = spawn(SlotHolder, *steady.worker_arguments("worker", group))
    pid, slot = ray.get(worker.pid_and_slot.remote(), timeout=LIMIT)
    assert slot == 0
    mine, other = steady.member("mine"), steady.member("other")
    mine.join_group(group, slot=0)
    other.join_group(group, slot=True)
    assert (mine.slot(group), other.slot(group)) == (None, 1)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: mine.slot(group) == 0, SOON)
    assert other.slot(group) == 1


def test_a_worker_that_was_stopped_for_longer_than_its_lease_has_lost_its_slot_and_gets_another(quick, group, spawn):
    worker = spawn(SlotHolder, *quick.worker_arguments("worker", group))
    pid, _ = ray.get(worker.pid_and_slot.remote(), timeout=LIMIT)
    mine = quick.member("mine")
    mine.join_group(group, slot=0)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: mine.slot(group) == 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    slots = wait_until(lambda: [each for each in [ray.get(worker.slot.remote(), timeout=LIMIT)] if each is not None])
    assert slots == [1]
    assert mine.slot(group) == 0


def test_fleets_of_one_group_have_slots_of_their_own(steady, group):
    a, b, c = (steady.member(each) for each in "abc")
    a._join_group(group, slot=True, slots_of="billers")
    b._join_group(group, slot=True, slots_of="mailers")
    c._join_group(group, slot=0, slots_of="billers")
    assert [member.slot(group) for member in (a, b, c)] == [0, 0, None]
    a.stop()
    wait_until(lambda: c.slot(group) == 0, SOON)


def test_operators_see_who_has_which(steady, group):
    member = steady.member("a")
    member.join_group(group, slot=True)
    (told,) = steady.call("status", group)["members"]
    assert told["slots"] == {group: 0}
    assert not [name for name in steady.call("status")["locks"] if name.endswith(group)]
    member.stop()
    assert member.slot(group) is None


def test_with_asyncio(steady, group):
    async def main():
        async with PartitionCoordinator("a", steady.name, steady.namespace) as coordinator:
            await coordinator.ajoin_group(group, slot=3)
            return coordinator.slot(group)

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize("slot", [-1, 100_000, 1.0, "0", False])
def test_what_is_no_slot_is_refused(steady, group, slot):
    member = steady.member("a")
    with pytest.raises(InvalidArgument, match=r"slot: got .*, expected None, True for the lowest that is free, or an"):
        member.join_group(group, slot=slot)
    with pytest.raises(InvalidArgument, match="group_id: got None"):
        member.slot(None)
    with pytest.raises(NotStarted):
        PartitionCoordinator("b", steady.name, steady.namespace).slot(group)


def test_a_single_instance_has_slot_0_or_the_one_that_it_wants():
    with PartitionCoordinator("local", actor=None) as local:
        assert local.slot("g") is None
        local.join_group("g", slot=True)
        local.join_group("h", slot=7)
        local.join_group("h")
        assert (local.slot("g"), local.slot("h")) == (0, 7)
        local.leave_group("g")
        assert (local.slot("g"), local.slot("h")) == (None, 7)
    assert local.slot("h") is None
