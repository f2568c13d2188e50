"""Exclusive groups on a real cluster; the chaos tests attack them harder."""

import os
import signal
import threading

import ray
from deployments import LIMIT, wait_until
from members import ExclusiveWorker

KEYS = [f"key-{number}" for number in range(60)]


def owned(member, group):
    return [key for key in KEYS if member.owns(group, key)]


def share_out(group, *members):
    """Wait until the members own every key between them, and each of them some."""
    wait_until(lambda: all(owned(member, group) for member in members))
    wait_until(lambda: sum(len(owned(member, group)) for member in members) == len(KEYS))


def test_two_members_share_the_keys_after_the_hand_off(steady, group):
    first, second = steady.member("first"), steady.member("second")
    first.join_group(group, exclusive=True)
    assert owned(first, group) == KEYS
    token = first.fencing_token(group)
    second.join_group(group, exclusive=True)
    share_out(group, first, second)
    assert not set(owned(first, group)) & set(owned(second, group))
    assert second.fencing_token(group) > token
    assert owned(second, group) == second.extract_my_subset(group, KEYS) == second.partition(group, KEYS).keys()


def test_the_next_owner_starts_when_on_lost_has_returned(steady, group):
    first, second = steady.member("first"), steady.member("second")
    finish, lost = threading.Event(), []

    def on_lost(keys):
        lost.extend(keys)
        assert finish.wait(LIMIT)

    gained = []
    first.partition(group, KEYS).on_lost(on_lost)
    second.partition(group, KEYS).on_gained(gained.extend)
    first.join_group(group, exclusive=True)
    wait_until(lambda: owned(first, group))
    second.join_group(group, exclusive=True)
    wait_until(lambda: lost)
    try:
        assert not set(lost) & set(owned(first, group))
        assert owned(second, group) == []
        assert gained == []
        waits = {member["id"]: member["waits_for"] for member in steady.call("status", group)["members"]}
        assert waits == {"first": [], "second": ["first"]}
    finally:
        finish.set()
    wait_until(lambda: sorted(gained) == sorted(lost) == sorted(owned(second, group)))


def test_a_member_that_does_not_let_go_in_time_loses_its_lease_and_comes_back(quick, group):
    first, second = quick.member("first"), quick.member("second")
    finish, events = threading.Event(), []
    first.partition(group, KEYS).on_lost(lambda keys: finish.wait(LIMIT))
    first.join_group(group, exclusive=True)
    wait_until(lambda: owned(first, group))
    second.join_group(group, exclusive=True)
    second.watch_group(group, events.append)
    try:
        wait_until(lambda: owned(second, group) == KEYS)
        assert owned(first, group) == []
    finally:
        finish.set()
    wait_until(lambda: any(event.joined == ("first",) for event in events))
    share_out(group, first, second)


def test_a_bare_caller_gets_a_key_only_when_its_last_owner_has_asked_again(steady, group):
    steady.call("join", group, "first", exclusive=True)
    assert steady.call("get_subset", group, "first", KEYS) == KEYS
    assert steady.call("get_subset", group, "second", KEYS) == []
    firsts = steady.call("get_subset", group, "first", KEYS)
    seconds = steady.call("get_subset", group, "second", KEYS)
    assert sorted(firsts + seconds) == sorted(KEYS)
    assert firsts
    assert seconds


def test_a_bare_caller_that_leaves_frees_its_keys_at_once(steady, group):
    steady.call("join", group, "first", exclusive=True)
    steady.call("get_subset", group, "first", KEYS)
    assert steady.call("get_subset", group, "second", KEYS) == []
    steady.call("leave", group, "first")
    assert steady.call("get_subset", group, "second", KEYS) == KEYS


def test_a_drained_member_hands_over_and_stays_out(steady, group):
    first, second = steady.member("first"), steady.member("second")
    for member in (first, second):
        member.join_group(group, exclusive=True)
    steady.call("drain", group, "first")
    wait_until(lambda: owned(second, group) == KEYS)
    wait_until(lambda: first.members(group) == [])
    first.heartbeat()
    assert steady.members(group) == ["second"]
    first.join_group(group, exclusive=True)
    wait_until(lambda: steady.members(group) == ["first", "second"])


def test_a_second_process_under_the_id_moves_no_key_and_the_first_never_works_beside_it(steady, group):
    first, other, second = steady.member("same"), steady.member("other"), steady.member("same")
    first.join_group(group, exclusive=True)
    other.join_group(group, exclusive=True)
    share_out(group, first, other)
    before = owned(other, group)
    second.join_group(group, exclusive=True)
    share_out(group, second, other)
    assert owned(first, group) == []
    assert owned(other, group) == before


def test_a_worker_that_ray_restarts_under_its_id_moves_no_key(steady, group, spawn):
    watcher = steady.member("watcher")
    watcher.join_group(group, exclusive=True)
    worker = spawn(ExclusiveWorker, *steady.worker_arguments("worker", group), max_restarts=-1, max_task_retries=-1)
    pid = ray.get(worker.pid.remote(), timeout=LIMIT)
    wait_until(lambda: watcher.members(group) == ["watcher", "worker"])
    wait_until(lambda: len(ray.get(worker.subset.remote(KEYS), timeout=LIMIT) + owned(watcher, group)) == len(KEYS))
    before, changes = owned(watcher, group), []
    watcher.watch_group(group, changes.append)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ray.get(worker.pid.remote(), timeout=LIMIT) != pid)
    theirs = wait_until(lambda: ray.get(worker.subset.remote(KEYS), timeout=LIMIT))
    assert sorted(theirs + before) == sorted(KEYS)
    assert owned(watcher, group) == before
    assert changes == []


def test_the_partition_actor_is_killed_and_no_key_moves_no_epoch_goes_back_and_newcomers_come_later(quick, group):
    first, second = quick.member("first"), quick.member("second")
    for member in (first, second):
        member.join_group(group, exclusive=True)
    share_out(group, first, second)
    before, epoch, token = owned(first, group), first.epoch(group), first.fencing_token(group)
    os.kill(quick.call("status")["pid"], signal.SIGKILL)
    third = quick.member("third")
    third.join_group(group, exclusive=True)
    assert set(owned(first, group)) <= set(before)
    share_out(group, first, second, third)
    assert quick.members(group) == ["first", "second", "third"]
    assert first.epoch(group) > epoch
    assert first.fencing_token(group) > token
    assert set(owned(first, group)) <= set(before)


def test_a_stop_hands_every_key_over(steady, group):
    first, second = steady.member("first"), steady.member("second")
    lost = []
    first.partition(group, KEYS).on_lost(lost.extend)
    for member in (first, second):
        member.join_group(group, exclusive=True)
    share_out(group, first, second)
    firsts = owned(first, group)
    first.stop()
    wait_until(lambda: owned(second, group) == KEYS)
    assert set(firsts) <= set(lost)
    assert steady.members(group) == ["second"]
