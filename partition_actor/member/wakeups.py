"""Waiting for a condition, in threads and on event loops; everybody who waits asks again after each change."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Wakeups:
    """Those who wait for something to change. `lock` guards what their conditions read."""

    def __init__(self, lock: threading.RLock | None = None) -> None:
        self.lock = threading.RLock() if lock is None else lock
        self._changed = threading.Condition(self.lock)
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def wake(self) -> None:
        """Let everybody who waits ask again. Any thread may call this, with or without the lock."""
        with self.lock:
            self._changed.notify_all()
            for waiter, loop in self._waiting.items():
                with contextlib.suppress(RuntimeError):  # its loop has been closed
                    loop.call_soon_threadsafe(_finish, waiter)
            self._waiting.clear()

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done()`, which is called under the lock, at most `timeout` seconds; None: without end.

        Returns whether it is done.
        """
        with self._changed:
            return self._changed.wait_for(done, timeout)

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """`wait`, for asyncio."""
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
