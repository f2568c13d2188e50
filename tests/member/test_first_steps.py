"""What a newcomer sees: of leaving and watching groups, in `repr`, and in the log when the partition actor is lost."""

import asyncio
import logging
import re

import pytest
import ray
from deployments import HASTY, LIMIT, wait_until
from sharing import IMPATIENT, KEYS, SOON, exchange, owned, ring_share, share_out

from partition_actor import PartitionCoordinator, Settings

MODES = pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])


# -- leaving ------------------------------------------------------------------------------------------------------


@MODES
def test_a_loop_that_goes_on_asking_does_not_undo_a_leave(steady, group, exclusive):
    a, b = steady.member("a"), steady.member("b")
    for member in (a, b):
        member.join_group(group, exclusive=exclusive)
    share_out(group, a, b)
    a.leave_group(group)
    for _ in range(3):
        assert a.extract_my_subset(group, KEYS) == []
        assert asyncio.run(a.aextract_my_subset(group, KEYS)) == []
        exchange(group, a, b)
    wait_until(lambda: owned(b, group) == KEYS)
    assert steady.members(group) == ["b"]
    a.join_group(group)
    share_out(group, a, b)
    assert a.extract_my_subset(group, KEYS) == ring_share("a", "a", "b")


def test_a_group_that_was_left_before_it_was_joined_is_joined_by_asking(steady, group):
    a = steady.member("a")
    a.leave_group(group)
    assert a.extract_my_subset(group, KEYS) == KEYS
    a.leave_group(group)
    a.leave_group(group)
    assert a.extract_my_subset(group, KEYS) == []
    assert a.extract_my_subset(f"{group}-2", KEYS) == KEYS


def test_a_new_session_has_left_nothing(steady, group):
    a = steady.member("a")
    assert a.extract_my_subset(group, KEYS) == KEYS
    a.leave_group(group)
    a.stop()
    a.start()
    assert a.extract_my_subset(group, KEYS) == KEYS


# -- watching -----------------------------------------------------------------------------------------------------


def watch(member, group):
    events = []
    member.watch_group(group, events.append)
    return events


def warned(caplog, member, group):
    """Whether the log says that this member cannot hear of the group yet, and what to do. The log is empty after."""
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return any(repr(member.my_id) in line and repr(group) in line and "join_group" in line for line in said)


def test_who_is_no_member_is_told_at_once_that_it_hears_nothing_yet(steady, group, caplog):
    a, b = steady.member("a"), steady.member("b")
    b.join_group(group)
    events = watch(a, group)
    assert warned(caplog, a, group)
    a.join_group(f"{group}-2")
    watch(a, group)
    assert warned(caplog, a, group)
    a.join_group(group)
    watch(a, group)
    assert not warned(caplog, a, group)
    b.leave_group(group)
    wait_until(lambda: [event.left for event in events][-1:] == [("b",)], SOON)
    a.leave_group(group)
    caplog.clear()
    watch(a, group)
    assert warned(caplog, a, group)


def test_who_has_been_drained_is_told_so_too(steady, group, caplog):
    a = steady.member("a")
    a.join_group(group)
    steady.call("drain", group, "a")
    wait_until(lambda: a.members(group) == [])
    watch(a, group)
    assert warned(caplog, a, group)


def test_who_waits_to_be_a_member_may_watch(make_deployment, group, caplog):
    deployment = make_deployment()
    early = deployment.member("early", settings=Settings(call_timeout=0.1))
    early.join_group(group)
    caplog.clear()
    events = watch(early, group)
    assert not warned(caplog, early, group)
    deployment.deploy()
    wait_until(lambda: early.members(group) == ["early"])
    wait_until(lambda: [event.joined for event in events] == [("early",)], SOON)


def test_who_watches_goes_on_to_when_it_has_left_and_joined_again(steady, group):
    a = steady.member("a")
    a.join_group(group)
    events = watch(a, group)
    a.leave_group(group)
    wait_until(lambda: [event.left for event in events] == [("a",)], SOON)
    a.join_group(group)
    wait_until(lambda: [event.joined for event in events][1:] == [("a",)], SOON)


def test_in_the_single_instance_mode_everybody_may_watch(group, caplog):
    with PartitionCoordinator("local", actor=None) as local:
        local.watch_group(group, print)
    assert caplog.records == []


# -- repr ---------------------------------------------------------------------------------------------------------


def state_in(text, group):
    """The word that a repr has for the state in a group: the first one behind its name."""
    found = re.search(rf"{group}\W+([a-z][a-z ]*)", text)
    return found and found[1].strip()


def test_the_repr_of_a_coordinator_says_id_groups_and_states(steady, group):
    made = PartitionCoordinator("worker-7", steady.name, steady.namespace, settings=IMPATIENT)
    before = repr(made)
    assert "worker-7" in before
    assert "not started" in before
    with made:
        started = repr(made)
        assert "worker-7" in started
        assert "not started" not in started
        assert group not in started
        made.join_group(group, exclusive=True)
        made.join_group(f"{group}-2")
        assert state_in(repr(made), group) == state_in(repr(made), f"{group}-2") == "member"
        made.leave_group(group)
        assert state_in(repr(made), group) in ("out", None)  # or no longer named
        assert state_in(repr(made), f"{group}-2") == "member"
        assert "\n" not in repr(made)
    stopped = repr(made)
    assert "worker-7" in stopped
    assert "stopped" in stopped


def test_the_repr_of_one_that_waits_or_is_superseded(make_deployment, steady, group):
    early = make_deployment().member("early", settings=Settings(call_timeout=0.1))
    early.join_group(group)
    assert state_in(repr(early), group) == "joining"
    first, second = steady.member("same"), steady.member("same")
    first.join_group(group)
    second.join_group(group)
    wait_until(lambda: state_in(repr(first), group) == "superseded", SOON)
    assert state_in(repr(second), group) == "member"


def test_the_repr_of_the_single_instance_mode():
    assert "worker-7" in repr(PartitionCoordinator("worker-7", actor=None))


def test_a_partition_says_its_group_and_how_many_keys_it_has_and_is_a_container(steady, group):
    a, b = steady.member("a"), steady.member("b")
    for member in (a, b):
        member.join_group(group)
    share_out(group, a, b)
    partition = a.partition(group, KEYS)
    mine, theirs = ring_share("a", "a", "b"), ring_share("b", "a", "b")
    assert group in repr(partition)
    assert str(len(KEYS)) in repr(partition)
    assert len(partition) == len(mine)
    assert list(partition) == mine
    assert all(key in partition for key in mine)
    assert not any(key in partition for key in theirs)
    assert "no such key" not in partition
    a.leave_group(group)
    assert len(partition) == 0
    assert mine[0] not in partition


# -- the log ------------------------------------------------------------------------------------------------------


def records(caplog, level):
    """Messages of exactly this level that speak of the partition actor, but for those of joins."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("partition_actor.member")
        and record.levelno == level
        and "partition actor" in record.getMessage()
    ]


@pytest.mark.parametrize(("exclusive", "times"), [(False, 2), (True, 1)], ids=["plain, twice", "exclusive"])
def test_losing_the_partition_actor_is_logged_once_and_so_is_having_it_back(
    make_deployment, group, caplog, exclusive, times
):
    caplog.set_level(logging.INFO, "partition_actor")
    deployment = make_deployment(HASTY)
    deployment.deploy()
    member = deployment.member("a", settings=Settings(call_timeout=0.2))
    member.join_group(group, exclusive=exclusive)
    wait_until(lambda: owned(member, group) == KEYS)
    caplog.clear()
    for count in range(1, times + 1):
        ray.kill(deployment.handle)
        wait_until(lambda count=count: len(records(caplog, logging.ERROR)) == count, SOON)
        wait_until(lambda: owned(member, group) == [])  # and it has tried often since
        member.heartbeat()
        deployment.deploy()
        wait_until(lambda: owned(member, group) == KEYS, LIMIT)
        wait_until(lambda count=count: len(records(caplog, logging.INFO)) == count, SOON)
        assert len(records(caplog, logging.ERROR)) == count
    for said in records(caplog, logging.ERROR):
        assert "'a'" in said
        assert "lease" in said  # what it means: it keeps its keys until that ends
        assert "deploy" in said  # what to do
    for said in records(caplog, logging.INFO):
        assert "'a'" in said


def test_never_finding_the_partition_actor_is_logged_once_and_so_is_finding_it(make_deployment, group, caplog):
    caplog.set_level(logging.INFO, "partition_actor")
    deployment = make_deployment(HASTY)
    member = deployment.member("a", settings=Settings(call_timeout=0.2))
    wait_until(lambda: records(caplog, logging.ERROR), SOON)
    assert "deploy" in records(caplog, logging.ERROR)[0]
    for _ in range(3):
        member.join_group(group)  # each waits for it in vain
    assert len(records(caplog, logging.ERROR)) == 1
    deployment.deploy()
    wait_until(lambda: owned(member, group) == KEYS, LIMIT)
    wait_until(lambda: len(records(caplog, logging.INFO)) == 1, SOON)
    assert len(records(caplog, logging.ERROR)) == 1
