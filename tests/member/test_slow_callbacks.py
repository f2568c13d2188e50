"""A callback that takes long, or never ends, holds up its own group and no other."""

import asyncio
import threading
import time

import pytest
from deployments import LIMIT, wait_until
from sharing import KEYS, SOON, owned, ring_share, share_out


@pytest.fixture
def other(group):
    """Another group."""
    return f"{group}-2"


class Slow:
    """A callback that lasts until the test ends it."""

    def __init__(self):
        self.begun, self._go_on = threading.Event(), threading.Event()

    def __call__(self, _told):
        self.begun.set()
        assert self._go_on.wait(LIMIT)

    def end(self):
        self._go_on.set()


@pytest.fixture
def slow():
    made = Slow()
    yield made
    made.end()


def members(deployment, *groups):
    """Members a and b; a owns all keys of these exclusive groups."""
    a, b = deployment.member("a"), deployment.member("b")
    for each in groups:
        a.join_group(each, exclusive=True)
        wait_until(lambda each=each: owned(a, each) == KEYS)
    a.run_watchers()
    return a, b


def test_another_groups_keys_change_hands_while_a_callback_is_slow(steady, group, other, slow):
    a, b = members(steady, group, other)
    lost, events = [], []
    a.partition(group, KEYS).on_lost(slow)
    a.partition(other, KEYS).on_lost(lost.append)
    a.watch_group(other, events.append)
    a.run_watchers()
    b.join_group(group)
    assert slow.begun.wait(LIMIT)
    b.join_group(other)
    share_out(other, a, b)
    assert lost == [ring_share("b", "a", "b")]
    wait_until(lambda: [event.joined for event in events][-1:] == [("b",)], SOON)
    b.leave_group(other)
    wait_until(lambda: owned(a, other) == KEYS, SOON)
    wait_until(lambda: [event.left for event in events][-1:] == [("b",)], SOON)
    assert owned(b, group) == []  # the slow one has not returned
    slow.end()
    share_out(group, a, b)


def test_a_slow_callback_of_a_plain_group_does_not_cost_the_keys_of_an_exclusive_one(quick, group, other, slow):
    a, b = members(quick, other)
    a.join_group(group, exclusive=False)
    lost = []
    a.watch_group(group, slow)
    a.partition(other, KEYS).on_lost(lost.append)
    b.join_group(group)
    assert slow.begun.wait(LIMIT)
    b.join_group(other)
    share_out(other, a, b)
    assert lost == [ring_share("b", "a", "b")]


def test_a_member_that_does_not_let_go_in_one_group_keeps_its_keys_in_the_others(quick, group, other, slow):
    a, b = members(quick, group, other)
    lost = []
    a.partition(group, KEYS).on_lost(slow)
    a.partition(other, KEYS).on_lost(lost.append)
    a.run_watchers()
    b.join_group(group)
    assert slow.begun.wait(LIMIT)

    def taken_over():
        assert owned(a, other) == KEYS
        return owned(b, group) == KEYS

    wait_until(taken_over)
    slow.end()
    share_out(group, a, b)
    assert owned(a, other) == KEYS
    assert lost == []


def test_who_is_elected_hears_of_it_while_a_callback_is_slow(steady, group, other, slow):
    a, b = members(steady, group)
    a.partition(group, KEYS).on_lost(slow)
    a.run_watchers()
    b.join_group(group)
    assert slow.begun.wait(LIMIT)
    elected = []
    a.elect(other, elected.append)
    wait_until(lambda: [each.group for each in elected] == [other], SOON)


@pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])
def test_callbacks_of_one_group_keep_their_order_and_never_run_side_by_side(steady, group, other, slow, exclusive):
    a, b = steady.member("a"), steady.member("b")
    told, running = [], threading.Lock()

    def note(kind):
        def callback(argument):
            alone = running.acquire(blocking=False)
            told.append((kind, argument, alone))
            time.sleep(0.001)
            if alone:
                running.release()

        return callback

    for each in (group, other):
        a.join_group(each, exclusive=exclusive)
        wait_until(lambda each=each: owned(a, each) == KEYS)
    a.run_watchers()
    a.watch_group(other, slow)
    a.watch_group(group, note("event"))
    partition = a.partition(group, KEYS)
    partition.on_gained(note("gained"))
    partition.on_lost(note("lost"))
    wait_until(lambda: [kind for kind, *_ in told] == ["gained"], SOON)
    b.join_group(other)
    for _ in range(5):
        b.join_group(group)
        share_out(group, a, b)
        b.leave_group(group)
        wait_until(lambda: owned(a, group) == KEYS)
    slow.end()
    wait_until(lambda: len([kind for kind, *_ in told if kind == "event"]) == 10, SOON)
    a.run_watchers()
    events = [event for kind, event, _ in told if kind == "event"]
    assert [(event.joined, event.left) for event in events] == [(("b",), ()), ((), ("b",))] * 5
    assert [event.epoch for event in events] == sorted(event.epoch for event in events)
    assert all(alone for *_, alone in told)
    keys = set()
    for kind, moved, _ in told:
        if kind == "gained":
            assert not keys & {*moved}
            keys |= {*moved}
        elif kind == "lost":
            assert keys >= {*moved}
            keys -= {*moved}


# -- event loops that run no longer -------------------------------------------------------------------------------


def stop(loop):
    """Stop a loop without closing it."""
    loop.call_soon_threadsafe(loop.stop)
    wait_until(lambda: not loop.is_running())


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_an_async_callback_whose_loop_does_not_run_holds_up_nothing(steady, group, other, loop, when):
    a, b = members(steady, group, other)
    begun, lost, events = threading.Event(), [], []

    async def never_ends(_keys):
        if when == "meanwhile" and not begun.is_set():
            begun.set()
            await asyncio.Event().wait()

    async def register():
        a.partition(group, KEYS).on_lost(never_ends)

    asyncio.run_coroutine_threadsafe(register(), loop).result(LIMIT)
    a.partition(group, KEYS).on_lost(lost.append)
    a.watch_group(group, events.append)
    a.watch_group(other, events.append)
    a.run_watchers()
    if when == "before":
        stop(loop)
    b.join_group(group)
    if when == "meanwhile":
        assert begun.wait(LIMIT)
        stop(loop)
    share_out(group, a, b)
    assert lost == [ring_share("b", "a", "b")]
    b.join_group(other)
    wait_until(lambda: [event.group for event in events if event.joined == ("b",)] == [group, other], SOON)
