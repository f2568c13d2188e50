"""Locks in the single-instance mode, without Ray: they hold between the threads and tasks of one process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from partition_actor.core.epochs import Epoch, incarnation_at
from partition_actor.core.lock_table import LockTable
from partition_actor.core.member import MemberState
from partition_actor.errors import PartitionError
from partition_actor.member.lock import until
from partition_actor.settings import Settings

_KEY = ("alone", "")
_making = threading.Lock()


class LocalSession:
    """The locks of one process: a ``locking.Line`` whose partition actor is a ``LockTable`` beside it.

    Its lease never ends. Tokens grow from process to process with the wall clock.
    """

    patience = 0.0
    active = True
    failure: PartitionError | None = None
    _one: LocalSession | None = None

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.member_state = MemberState(*_KEY, Settings())
        self.member_state.exclusive_until = float("inf")
        self._changed = threading.Condition(self.lock)
        self._listeners: set[Callable[[], None]] = set()
        self._table = LockTable(set())
        self._epoch = (incarnation_at(time.time()), 0)
        self._process = os.getpid()

    @classmethod
    def of_this_process(cls) -> LocalSession:
        """The one of this process; a forked one has its own."""
        with _making:
            if cls._one is None or cls._one._process != os.getpid():
                cls._one = cls()
            return cls._one

    def forget_failure(self) -> None:
        """There are none."""

    def send_now(self) -> None:
        """Let the table take in what has changed, and tell what came of it."""
        with self._changed:
            locks = self.member_state.locks
            self._table.take(_KEY, locks.stated(), recovering=False, trusted=True)
            self._table.grant(lambda _: True, self._next_epoch)
            locks.take(self._table.answers(_KEY))
            self.member_state.answered += 1
            self._changed.notify_all()
            for listener in self._listeners:
                listener()

    def wait_for(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done`."""
        with self._changed:
            return self._changed.wait_for(done, timeout)

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done`, for asyncio."""
        return await until(self, done, timeout, self._listeners)

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """Answer as the actor's method of this name does: `break_lock` alone is asked for."""
        with self.lock:
            broken = self._table.break_(0.0, *arguments)
            self.send_now()
            self.send_now()  # which says that the holders know
            return len(broken)

    async def aask_now(self, method: str, *arguments: Any) -> Any:
        """`ask_now`, for asyncio."""
        return await asyncio.to_thread(self.ask_now, method, *arguments)

    def _next_epoch(self) -> Epoch:
        self._epoch = (self._epoch[0], self._epoch[1] + 1)
        return self._epoch
