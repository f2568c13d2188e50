"""What users' callbacks are told: changes of groups, and keys gained and lost."""

import asyncio
import threading

from deployments import LIMIT, wait_until

from partition_actor import GroupEvent, PartitionCoordinator

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
