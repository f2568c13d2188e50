"""Waiting until something has come true, in threads and on event loops, for all who wait for one thing to change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Wakeups:
    """Whoever waits asks again after each `wake`. `lock` guards what they ask about; the caller of `wake` holds it."""

    def __init__(self, lock: threading.RLock | None = None) -> None:
        self.lock = threading.RLock() if lock is None else lock
        self._changed = threading.Condition(self.lock)
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        """Let everybody ask again."""
        with self.lock:
            self._changed.notify_all()
            for waiter, loop in self._waiting.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_finish, waiter)
            self._waiting.clear()

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done()`, asked under the lock, at most `timeout` seconds; None: without end. Whether it is."""
        with self._changed:
            return self._changed.wait_for(done, timeout)

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """`wait`, on an event loop, which goes on meanwhile. One that is cancelled waits no more."""
        loop = asyncio.get_running_loop()
        end = None if timeout is None else loop.time() + timeout
        while True:
            with self.lock:
                if done():
                    return True
                waiter: asyncio.Future[None] = loop.create_future()
                self._waiting[waiter] = loop
            try:
                left = None if end is None else end - loop.time()
                if left is not None and left <= 0:
                    return False
                await asyncio.wait({waiter}, timeout=left)
            finally:
                with self.lock:
                    self._waiting.pop(waiter, None)


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
