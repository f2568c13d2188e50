"""Waiting for a condition, in threads and on event loops."""

import asyncio
import gc
import threading

import pytest
from deployments import in_thread

from partition_actor.member.wakeups import Wakeups

LIMIT = 30.0


class Flag:
    """A condition that is false until it is set. It notes each time it is asked."""

    def __init__(self):
        self.wakeups = Wakeups()
        self.value = False
        self.asked = threading.Semaphore(0)
        self.locked = []
        """For each time it was asked, whether the lock was held."""

    def _free(self):
        return self.wakeups.lock.acquire(blocking=False)

    def __call__(self):
        self.locked.append(not in_thread(self._free)())
        self.asked.release()
        return self.value

    def waited_for(self, times=1):
        """Wait until it has been asked so often, and whoever asked waits."""
        for _ in range(times):
            assert self.asked.acquire(timeout=LIMIT)
        with self.wakeups.lock:
            pass  # whoever asked has released the lock, so it waits

    def set(self):
        with self.wakeups.lock:
            self.value = True
            self.wakeups.wake()


@pytest.fixture
def flag():
    return Flag()


def in_loop(flag, timeout=LIMIT):
    return in_thread(lambda: asyncio.run(flag.wakeups.until(flag, timeout)))


def test_threads_and_event_loops_are_woken_together(flag):
    waiting = [
        in_thread(lambda: flag.wakeups.wait(flag, LIMIT)),
        in_thread(lambda: flag.wakeups.wait(flag, None)),
        in_loop(flag),
        in_loop(flag, None),
    ]
    flag.waited_for(4)
    flag.set()
    assert [result() for result in waiting] == [True] * 4
    assert all(flag.locked)


def test_a_wake_for_something_else_does_not_end_a_wait(flag):
    waiting = [in_thread(lambda: flag.wakeups.wait(flag, LIMIT)), in_loop(flag)]
    flag.waited_for(2)
    flag.wakeups.wake()
    flag.waited_for(2)
    flag.set()
    assert [result() for result in waiting] == [True, True]


def test_what_is_done_already_is_not_waited_for(flag):
    flag.value = True
    assert flag.wakeups.wait(flag, 0)
    assert asyncio.run(flag.wakeups.until(flag, 0))


def test_a_wait_ends_with_its_timeout(flag):
    assert not flag.wakeups.wait(flag, 0.01)
    assert not asyncio.run(flag.wakeups.until(flag, 0.01))
    assert not asyncio.run(flag.wakeups.until(flag, 0))


def test_what_became_true_without_a_wake_is_seen_at_the_timeout(flag):
    async def scenario():
        waiting = asyncio.ensure_future(flag.wakeups.until(flag, 0.01))
        await asyncio.sleep(0)
        flag.value = True
        return await waiting

    assert asyncio.run(scenario())


def test_the_loop_goes_on_while_a_task_waits(flag):
    async def scenario():
        waiting = asyncio.ensure_future(flag.wakeups.until(flag, LIMIT))
        await asyncio.sleep(0)
        flag.set()  # from the very loop that waits, and under the lock
        return await waiting

    assert asyncio.run(scenario())


def test_a_cancelled_task_is_asked_no_more_and_others_are(flag):
    async def scenario():
        first, second = (asyncio.ensure_future(flag.wakeups.until(flag, LIMIT)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        asked = len(flag.locked)
        flag.set()
        assert await second
        return len(flag.locked) - asked

    assert asyncio.run(scenario()) == 1


def test_a_loop_that_was_closed_while_a_task_waited_does_not_stop_a_wake(flag):
    loop = asyncio.new_event_loop()
    task = loop.create_task(flag.wakeups.until(flag, None))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    waiting = [in_thread(lambda: flag.wakeups.wait(flag, LIMIT)), in_loop(flag)]
    flag.waited_for(3)
    flag.set()
    assert [result() for result in waiting] == [True, True]
    del task, loop
    gc.collect()  # asyncio logs here, and not in another test, that the task never ended


def test_it_shares_the_lock_that_it_is_given():
    lock = threading.RLock()
    wakeups = Wakeups(lock)
    with lock:
        wakeups.wake()
        assert not wakeups.wait(lambda: False, 0)
    assert wakeups.lock is lock
