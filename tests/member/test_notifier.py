"""What users' callbacks are told: changes of groups, and keys gained and lost."""

import asyncio
import threading

import pytest
from deployments import LIMIT, wait_until

from partition_actor import GroupEvent, PartitionCoordinator, Ring

ITEMS = [f"item-{n}" for n in range(300)]


def test_a_watcher_hears_of_every_change(steady, group):
    a, b = steady.member("a"), steady.member("b")
    events = []
    a.watch_group(group, events.append)
    a.join_group(group)
    wait_until(lambda: len(events) == 1)
    assert events[0] == GroupEvent(group, a.epoch(group), joined=("a",), left=())
    b.join_group(group)
    wait_until(lambda: len(events) == 2)
    assert events[1] == GroupEvent(group, b.epoch(group), joined=("b",), left=())
    b.leave_group(group)
    wait_until(lambda: len(events) == 3)
    assert events[2] == GroupEvent(group, a.epoch(group), joined=(), left=("b",))
    assert events[0].epoch < events[1].epoch < events[2].epoch
    a.leave_group(group)
    wait_until(lambda: len(events) == 4)
    assert events[3] == GroupEvent(group, None, joined=(), left=("a",))


def test_a_watcher_hears_only_of_its_group(steady, group):
    a = steady.member("a")
    events, others = [], []
    a.watch_group(group, events.append)
    a.watch_group(group + "-2", others.append)
    a.join_group(group + "-2")
    wait_until(lambda: others)
    assert events == []


def test_a_callback_that_raises_stops_neither_the_others_nor_heartbeats(steady, group, caplog):
    a, b = steady.member("a"), steady.member("b")
    events = []

    def broken(_event):
        raise RuntimeError("broken on purpose")

    a.watch_group(group, broken)
    a.watch_group(group, events.append)
    partition = a.partition(group, ITEMS)
    partition.on_gained(broken)
    for member in (a, b):
        member.join_group(group)
    wait_until(lambda: len(events) == 2)
    b.leave_group(group)
    wait_until(lambda: len(events) == 3)
    assert caplog.text.count("RuntimeError: broken on purpose") >= 3
    assert a.extract_my_subset(group, ITEMS) == ITEMS


def test_a_slow_callback_holds_nothing_up_but_other_callbacks(steady, group):
    a, b = steady.member("a"), steady.member("b")
    begun, go_on = threading.Event(), threading.Event()

    def slow(_event):
        begun.set()
        go_on.wait(LIMIT)

    a.watch_group(group, slow)
    a.join_group(group)
    assert begun.wait(LIMIT)
    try:
        b.join_group(group)
        wait_until(lambda: a.members(group) == ["a", "b"])
        b.leave_group(group)
        wait_until(lambda: a.extract_my_subset(group, ITEMS) == ITEMS)
    finally:
        go_on.set()


def test_run_watchers_returns_when_the_callbacks_have_run(steady, group):
    a, b = steady.member("a"), steady.member("b")
    begun, go_on, joined = threading.Event(), threading.Event(), []

    def hold_the_thread_up(_event):
        begun.set()
        go_on.wait(LIMIT)

    a.watch_group(group, hold_the_thread_up)
    a.join_group(group)
    assert begun.wait(LIMIT)
    a.watch_group(group, lambda event: joined.append(event.joined))
    b.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b"])
    go_on.set()
    wait_until(lambda: (a.run_watchers(), ("b",) in joined)[1])


def test_async_callbacks_run_on_the_loop_on_which_they_were_registered(steady, group):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []

        async def on_event(event):
            await asyncio.sleep(0)
            seen.append((event.joined, asyncio.get_running_loop() is loop))

        async def on_gained(keys):
            seen.append((len(keys), asyncio.get_running_loop() is loop))

        async with PartitionCoordinator("a", steady.name, steady.namespace) as a:
            a.watch_group(group, on_event)
            a.partition(group, ITEMS).on_gained(on_gained)
            await a.ajoin_group(group)
            a.run_watchers()  # leaves them to their thread, which needs this loop
            await a.arun_watchers()
            for _ in range(1000):
                if len(seen) == 2:
                    break
                await asyncio.sleep(0.01)
            return list(seen)

    assert asyncio.run(scenario()) == [(("a",), True), (len(ITEMS), True)]


class Told:
    """What a partition has told its callbacks, and the keys that follow from it."""

    def __init__(self, partition):
        self.partition = partition
        self.keys = set()
        self.calls = []
        partition.on_gained(self.on_gained)
        partition.on_lost(self.on_lost)

    def on_gained(self, keys):
        assert not self.keys & set(keys)
        self.keys |= set(keys)
        self.calls.append(("gained", keys))

    def on_lost(self, keys):
        assert self.keys >= set(keys)
        self.keys -= set(keys)
        self.calls.append(("lost", keys))


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_partition_tells_what_is_gained_and_what_is_lost(steady, group, exclusive):
    a, b = steady.member("a"), steady.member("b")
    told_a, told_b = Told(a.partition(group, ITEMS)), Told(b.partition(group, ITEMS))
    a.join_group(group, exclusive=exclusive)
    wait_until(lambda: told_a.calls == [("gained", ITEMS)])
    b.join_group(group)
    ring = Ring(["a", "b"])
    wait_until(lambda: told_b.calls == [("gained", ring.subset("b", ITEMS))])
    wait_until(lambda: told_a.calls[1:] == [("lost", ring.subset("b", ITEMS))])
    assert list(told_a.partition) == ring.subset("a", ITEMS)
    assert len(told_a.partition) + len(told_b.partition) == len(ITEMS)
    b.leave_group(group)
    wait_until(lambda: told_a.keys == set(ITEMS))
    wait_until(lambda: told_b.keys == set())


def test_a_partition_takes_keys_in_and_forgets_them(steady, group):
    a = steady.member("a")
    told = Told(a.partition(group, ["x", "y"]))
    a.join_group(group)
    wait_until(lambda: told.calls == [("gained", ["x", "y"])])
    told.partition.add(["z"])
    wait_until(lambda: told.calls[1:] == [("gained", ["z"])])
    told.partition.discard(["x"])
    wait_until(lambda: told.calls[2:] == [("lost", ["x"])])
    assert list(told.partition) == ["y", "z"]


def test_a_callback_registered_late_hears_of_the_keys_that_there_are(steady, group):
    a = steady.member("a")
    a.join_group(group)
    told = Told(a.partition(group, ITEMS))
    wait_until(lambda: told.calls == [("gained", ITEMS)])


def test_a_key_starts_elsewhere_only_when_the_callback_for_it_has_returned(steady, group):
    a, b = steady.member("a"), steady.member("b")
    begun, go_on = threading.Event(), threading.Event()

    def still_at_work(_keys):
        begun.set()
        go_on.wait(LIMIT)

    a.partition(group, ITEMS).on_lost(still_at_work)
    a.join_group(group, exclusive=True)
    a.run_watchers()
    told_b = Told(b.partition(group, ITEMS))
    wait_until(lambda: a.extract_my_subset(group, ITEMS) == ITEMS)
    b.join_group(group)
    assert begun.wait(LIMIT)
    try:
        moving = Ring(["a", "b"]).subset("b", ITEMS)
        assert not any(b.owns(group, key) for key in moving)
        assert not any(a.owns(group, key) for key in moving)
        assert b.extract_my_subset(group, ITEMS) == []
        assert told_b.calls == []
    finally:
        go_on.set()
    wait_until(lambda: told_b.calls == [("gained", moving)])
    assert b.extract_my_subset(group, ITEMS) == moving


def test_callbacks_work_again_for_a_member_that_was_stopped_and_started(steady, group):
    a = steady.member("a")
    events = []
    a.watch_group(group, events.append)
    told = Told(a.partition(group, ITEMS))
    a.join_group(group, exclusive=True)
    wait_until(lambda: events and told.keys == set(ITEMS))
    a.stop()
    wait_until(lambda: told.keys == set())
    before = len(events)
    a.start()
    a.join_group(group)
    wait_until(lambda: len(events) > before and told.keys == set(ITEMS))
    assert list(told.partition) == ITEMS


def test_a_member_that_stops_while_the_partition_actor_is_away_tells_what_it_loses(make_deployment, group):
    deployment = make_deployment()
    deployment.deploy()
    a = deployment.member("a")
    told = Told(a.partition(group, ITEMS))
    a.join_group(group)
    wait_until(lambda: told.keys == set(ITEMS))
    deployment.shutdown()
    a.stop()
    wait_until(lambda: told.keys == set())
