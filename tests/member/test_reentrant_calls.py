"""Callbacks and guarded methods that call back into the API: who waits for them still waits, and nobody for ever."""

import asyncio
import threading

import pytest
from deployments import LIMIT, wait_until
from sharing import IMPATIENT, KEYS, SOON, exchange, owned, ring_share, share_out

from partition_actor import owned_by


@pytest.fixture
def a(steady, group):
    """A member that owns all keys of an exclusive group."""
    made = steady.member("a", settings=IMPATIENT)
    made.join_group(group, exclusive=True)
    wait_until(lambda: owned(made, group) == KEYS)
    made.run_watchers()
    return made


@pytest.fixture
def b(steady):
    return steady.member("b", settings=IMPATIENT)


@pytest.fixture
def c(steady):
    return steady.member("c", settings=IMPATIENT)


class Call:
    """What a callback or a guarded method does once: it calls back into the API, and returns when the test lets it."""

    def __init__(self, nested):
        self.begun, self.nested_returned = threading.Event(), threading.Event()
        self._nested, self._go_on = nested, threading.Event()
        self._once = threading.Lock()

    def __call__(self, _told=None):
        if self._once.acquire(blocking=False):
            self.begun.set()
            self._nested()
            self.nested_returned.set()
            assert self._go_on.wait(LIMIT)

    def open(self):
        self._go_on.set()


class AsyncCall(Call):
    """The same for an async callback or method, whose `nested` is a coroutine function."""

    async def __call__(self, _told=None):
        if self._once.acquire(blocking=False):
            self.begun.set()
            await self._nested()
            self.nested_returned.set()
            while not self._go_on.is_set():
                await asyncio.sleep(0.005)


@pytest.fixture
def call():
    """Make a `Call`; it returns at the end of the test, whatever comes."""
    made = []

    def call(nested, cls=Call):
        made.append(cls(nested))
        return made[-1]

    yield call
    for each in made:
        each.open()


def on_loop(loop, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


# -- run_watchers within a callback -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["on_lost", "watch_group"])
def test_run_watchers_within_a_callback_gives_no_lost_key_away_before_that_returns(a, b, c, group, call, kind):
    third, nested = threading.Event(), []

    def call_back():
        assert third.wait(LIMIT)
        a.run_watchers()

    outer = call(call_back)
    if kind == "on_lost":
        a.partition(group, KEYS).on_lost(lambda keys: (nested.append(keys), outer()))
    else:
        a.watch_group(group, outer)
    a.run_watchers()
    b.join_group(group)
    assert outer.begun.wait(LIMIT)
    lost = set(ring_share("b", "a", "b"))
    c.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b", "c"])  # a later epoch, whose callbacks are pending
    third.set()
    assert outer.nested_returned.wait(SOON)
    exchange(group, a, b, c)
    for member in (a, b, c):
        assert not lost & {*owned(member, group)}  # the callback for them has not returned
    outer.open()
    share_out(group, a, b, c)
    if kind == "on_lost":
        told = [key for keys in nested for key in keys]
        wait_until(lambda: sorted(told) == sorted(set(KEYS) - set(ring_share("a", "a", "b", "c"))))


def test_keys_wait_for_the_outer_callback_through_any_number_of_epochs(a, b, c, group, call):
    rounds, done = threading.Semaphore(0), threading.Semaphore(0)

    def call_back():
        for _ in range(4):
            assert rounds.acquire(timeout=LIMIT)
            a.run_watchers()
            done.release()

    outer = call(call_back)
    a.partition(group, KEYS).on_lost(outer)
    a.run_watchers()
    b.join_group(group)
    assert outer.begun.wait(LIMIT)
    lost = set(ring_share("b", "a", "b"))
    for change in (c.join_group, c.leave_group, c.join_group, c.leave_group):
        before = a.epoch(group)
        change(group)
        wait_until(lambda before=before: a.epoch(group) > before)
        rounds.release()
        assert done.acquire(timeout=SOON)
        exchange(group, a, b, c)
        for member in (a, b, c):
            assert not lost & {*owned(member, group)}
    outer.open()
    share_out(group, a, b)


def test_an_async_callback_awaits_arun_watchers(a, b, group, call, loop):
    outer = call(a.arun_watchers, AsyncCall)

    async def register():
        a.partition(group, KEYS).on_lost(outer)

    on_loop(loop, register()).result(LIMIT)
    a.run_watchers()
    b.join_group(group)
    lost = set(ring_share("b", "a", "b"))
    assert outer.begun.wait(LIMIT)
    assert outer.nested_returned.wait(SOON)
    exchange(group, a, b)
    assert not lost & {*owned(a, group), *owned(b, group)}
    outer.open()
    share_out(group, a, b)


# -- other calls within a callback --------------------------------------------------------------------------------


def take_a_lock(member, group):
    lock = member.lock(f"{group}-within")
    assert lock.acquire(timeout=LIMIT)
    assert lock.release()


def leave_and_join(member, group):
    member.leave_group(group)
    member.join_group(group)


def stop_and_start(member, group):
    member.stop()
    member.start()
    member.join_group(group)


STAYS = {
    "run_watchers": lambda member, group: member.run_watchers(),
    "extract_my_subset": lambda member, group: member.extract_my_subset(group, KEYS),
    "join_group": lambda member, group: member.join_group(group, weight=1),
    "join another group": lambda member, group: member.join_group(f"{group}-2", exclusive=True),
    "a lock": take_a_lock,
    "leave and join": leave_and_join,
    "stop and start": stop_and_start,
}
GOES = {
    "leave_group": lambda member, group: member.leave_group(group),
    "stop": lambda member, group: member.stop(),
}
NESTED = pytest.mark.parametrize("nested", [*STAYS, *GOES])


def expect(group, nested, a, b):
    if nested in STAYS:
        share_out(group, a, b)
    else:
        wait_until(lambda: owned(b, group) == KEYS, SOON)
        assert owned(a, group) == []


@NESTED
def test_whatever_a_callback_calls_returns_and_the_keys_go_when_the_callback_has_returned(a, b, group, call, nested):
    outer = call(lambda: {**STAYS, **GOES}[nested](a, group))
    a.partition(group, KEYS).on_lost(outer)
    a.run_watchers()
    b.join_group(group)
    lost = set(ring_share("b", "a", "b"))
    assert outer.nested_returned.wait(SOON)
    exchange(group, b)
    assert not lost & {*owned(a, group), *owned(b, group)}
    outer.open()
    expect(group, nested, a, b)


# -- calls within a guarded method --------------------------------------------------------------------------------


class Worker:
    """Guarded methods that call back into the API and last until the test ends them."""

    def __init__(self, group):
        self.group = group

    @owned_by("key", group=lambda self: self.group)
    def work(self, key, call):
        call()
        return key

    @owned_by("key", group=lambda self: self.group)
    async def awork(self, key, call):
        await call()
        return key


class Running:
    """A call of `Worker.work` in a thread of its own."""

    def __init__(self, group, key, call):
        self.results = []
        self._thread = threading.Thread(target=lambda: self.results.append(Worker(group).work(key, call)), daemon=True)
        self._thread.start()
        assert call.begun.wait(LIMIT)

    def result(self, timeout):
        self._thread.join(timeout)
        return self.results[0]


def a_key_of(member_id):
    """One that a new member of this id takes over."""
    return ring_share(member_id, "a", "b")[0]


@NESTED
def test_the_next_owner_waits_for_a_guarded_call_whatever_that_calls(a, b, group, call, nested):
    joined = threading.Event()

    def call_back():
        assert joined.wait(LIMIT)
        {**STAYS, **GOES}[nested](a, group)

    key, inner = a_key_of("b"), call(call_back)
    running = Running(group, key, inner)
    b.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b"])
    joined.set()
    assert inner.nested_returned.wait(SOON)
    exchange(group, b)
    assert not a.owns(group, key)
    assert not b.owns(group, key)  # the call has not returned
    inner.open()
    assert running.result(LIMIT) == key
    expect(group, nested, a, b)


def test_a_guarded_call_that_always_runs_the_watchers_holds_the_hand_off_up_until_it_returns(a, b, group, call):
    """It runs the callbacks for the very change that takes its key, if the callbacks' own thread does not."""

    def call_back():
        while a.members(group) != ["a", "b"]:
            a.run_watchers()
        a.run_watchers()

    key, inner = a_key_of("b"), call(call_back)
    running = Running(group, key, inner)
    b.join_group(group)
    assert inner.nested_returned.wait(SOON)
    exchange(group, a, b)
    assert not b.owns(group, key)
    inner.open()
    assert running.result(LIMIT) == key
    share_out(group, a, b)


def test_lost_keys_are_told_once_although_a_call_on_one_of_them_runs_the_watchers(a, b, group, call):
    lost = []
    a.partition(group, KEYS).on_lost(lost.extend)
    a.run_watchers()

    def call_back():
        while a.members(group) != ["a", "b"]:
            a.run_watchers()
        a.run_watchers()

    key, inner = a_key_of("b"), call(call_back)
    running = Running(group, key, inner)
    b.join_group(group)
    assert inner.nested_returned.wait(SOON)
    assert not b.owns(group, key)
    inner.open()
    assert running.result(LIMIT) == key
    share_out(group, a, b)
    assert sorted(lost) == sorted(ring_share("b", "a", "b"))


@pytest.mark.parametrize("at_once", [1, 6])
def test_the_next_owner_waits_for_async_guarded_calls_that_await_arun_watchers(a, b, group, call, loop, at_once):
    joined = threading.Event()

    async def call_back():
        while not joined.is_set():
            await a.arun_watchers()
            await asyncio.sleep(0.001)
        await a.arun_watchers()

    keys = ring_share("b", "a", "b")[:at_once]
    inner = [call(call_back, AsyncCall) for _ in keys]
    running = [on_loop(loop, Worker(group).awork(key, each)) for key, each in zip(keys, inner, strict=True)]
    for each in inner:
        assert each.begun.wait(LIMIT)
    b.join_group(group)
    wait_until(lambda: a.members(group) == ["a", "b"])
    joined.set()
    for each in inner:
        assert each.nested_returned.wait(SOON)
    exchange(group, a, b)
    for key in keys:
        assert not b.owns(group, key)
    for each in inner[:-1]:
        each.open()
    for key, call_of_key in zip(keys[:-1], running[:-1], strict=True):
        assert call_of_key.result(LIMIT) == key
    exchange(group, a, b)
    assert not b.owns(group, keys[-1])  # the last call has not returned
    inner[-1].open()
    assert running[-1].result(LIMIT) == keys[-1]
    share_out(group, a, b)


def test_a_guarded_call_within_a_callback_for_lost_keys(a, b, group, call):
    """Such as a last write of what it still has of a key that it keeps."""
    kept = a_key_of("a")
    outer = call(lambda: Worker(group).work(kept, lambda: a.run_watchers()))
    a.partition(group, KEYS).on_lost(outer)
    a.run_watchers()
    b.join_group(group)
    assert outer.nested_returned.wait(SOON)
    exchange(group, a, b)
    assert owned(b, group) == []
    outer.open()
    share_out(group, a, b)
