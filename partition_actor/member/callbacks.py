"""Runs users' callbacks one at a time, in a thread of their own, so that a slow one never delays a heartbeat."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from partition_actor.core.epochs import Epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GroupEvent:
    """A change of a group's membership, as `watch_group` callbacks get it."""

    group: str
    epoch: Epoch | None
    """``(incarnation, counter)``; None when this member has left the group."""
    joined: tuple[str, ...]
    """Ids that joined, sorted. Another process under the same id is no change."""
    left: tuple[str, ...]
    """Ids that left, sorted; this member's own when it has left."""


class Callback:
    """A user's function. If it returns an awaitable, that runs on the event loop on which it was registered."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def __call__(self, argument: Any) -> None:
        """Run it to its end, and log what it raises."""
        try:
            result = self._function(argument)
            if inspect.isawaitable(result):
                if self._loop is None or self._loop.is_closed():
                    asyncio.run(_awaited(result))
                else:
                    asyncio.run_coroutine_threadsafe(_awaited(result), self._loop).result()
        except Exception:
            log.exception("callback %r failed", self._function)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


class CallbackQueue:
    """Runs jobs in order, each once: in its own thread or, if sooner, in the thread that calls `run_pending`.

    Its own thread starts with the first job.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._arrived = threading.Condition()
        self._running = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, job: Callable[[], None]) -> None:
        """Run `job` soon, and log what it raises. Any thread may call this."""
        with self._arrived:
            if self._closed:
                return
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._arrived.notify()

    def run_pending(self) -> None:
        """Run the pending jobs in this thread, after the job that is running.

        It does nothing in a thread whose event loop is running: a job may need that loop, and would wait for its own
        caller. The queue's thread runs the jobs then.
        """
        if not _on_running_loop():
            self._run_all()

    def _run_all(self) -> None:
        with self._running:
            while self._run_one():
                pass

    def close(self) -> None:
        """Take no more jobs until `open`. The queue's thread runs the pending ones and ends."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()

    def open(self) -> None:
        """Take jobs again after a `close`."""
        with self._arrived:
            self._closed = False

    def _run_one(self) -> bool:
        with self._arrived:
            job = self._jobs.popleft() if self._jobs else None
        if job is None:
            return False
        try:
            job()
        except Exception:
            log.exception("a job of %s failed", self._name)
        return True

    def _serve(self) -> None:
        while True:
            with self._arrived:
                while not self._jobs and not self._closed:
                    self._arrived.wait()
                if not self._jobs:
                    self._thread = None
                    return
            self._run_all()


def _on_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
