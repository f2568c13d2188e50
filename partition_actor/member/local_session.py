"""The session of the single-instance mode, without Ray: every key is this process's own.

Locks hold between the threads and tasks of the process, in all of its ``PartitionCoordinator`` objects.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from partition_actor.core.epochs import Epoch, incarnation_at
from partition_actor.core.lock_table import LockTable
from partition_actor.core.member import MemberState
from partition_actor.core.member_driver import Delivery, MemberDriver
from partition_actor.core.share import Share
from partition_actor.member.session import Session, Transport
from partition_actor.member.wakeups import Wakeups
from partition_actor.ring import KeyIndex, Ring
from partition_actor.settings import Settings

_KEY = ("local", "")
_making = threading.Lock()


class _ProcessLocks:
    """The locks of one process: a lock table, and the state machine of the one session that uses it.

    Its lease never ends. Tokens grow from process to process with the wall clock.
    """

    _current: _ProcessLocks | None = None

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.wakeups = Wakeups()
        self.member_state = MemberState(*_KEY, Settings())
        self.member_state.exclusive_until = float("inf")
        self._table = LockTable(set())
        incarnation = incarnation_at(time.time())
        self._epochs: Iterator[Epoch] = ((incarnation, counter) for counter in itertools.count(1))

    @classmethod
    def of_this_process(cls) -> _ProcessLocks:
        """Those of this process; a forked process has its own."""
        with _making:
            if cls._current is None or cls._current.pid != os.getpid():
                cls._current = cls()
            return cls._current

    def exchange(self) -> None:
        """Let the table take in what has changed, and the state machine what came of it."""
        with self.wakeups.lock:
            locks = self.member_state.locks
            self._table.take(_KEY, locks.stated(), whole=True, recovering=False, trusted=True)
            self._table.grant(lambda _: True, lambda: next(self._epochs))
            locks.take(self._table.answers(_KEY), {})
            self.member_state.answered += 1
            self.wakeups.wake()

    def break_lock(self, name: str) -> int:
        """Take a lock from those who hold it; returns how many did."""
        with self.wakeups.lock:
            broken = self._table.break_(0.0, name)
            self.exchange()
            self.exchange()  # which says that the holders know
            return len(broken)


class EveryKey(Share):
    """The share of a process that owns every key; no key is hashed."""

    def has(self, key: object) -> bool:
        """True."""
        return True

    def of(self, keys: Iterable[Any]) -> list[Any]:
        """All of `keys`."""
        return list(keys)

    def of_index(self, index: KeyIndex[Any]) -> list[Any]:
        """All keys of the index."""
        return list(index)


class _LocalTransport(Transport):
    @property
    def wakeups(self) -> Wakeups:
        """Those who wait for a lock, in the whole process."""
        return _ProcessLocks.of_this_process().wakeups


class LocalSession(Session):
    """The session of the single-instance mode. It is never active, owns every key, and its locks are always there."""

    is_local = True

    def __init__(self, member_id: str) -> None:
        super().__init__(member_id, _LocalTransport(), Settings())
        self.call_timeout = 0.0
        self.driver.start("local", os.getpid())
        self._share = EveryKey(member_id, Ring([member_id]).arcs(member_id))
        self.slots: dict[str, int] = {}
        """By group, the slot that was asked for: nobody else has it."""

    @property
    def member_state(self) -> MemberState:
        """The state machine for locks, one for the process; it knows no group."""
        return _ProcessLocks.of_this_process().member_state

    @property
    def active(self) -> bool:
        """False: there is no partition actor."""
        return False

    def start(self) -> None:
        """Nothing to do."""

    def stop(self, waits: bool = True, at_most: float | None = None) -> bool:
        """Give all slots back."""
        self.slots.clear()
        return True

    def check_active(self) -> None:
        """Nothing to do: locks are always there."""

    def members(self, group: str) -> list[str]:
        """This member."""
        return [self.member_id]

    def owner(self, group: str, key: object) -> str | None:
        """This member."""
        return self.member_id

    def share(self, group: str) -> Share:
        """Every key."""
        return self._share

    def token(self, group: str) -> int:
        """0: there are no epochs."""
        return 0

    def holds(self, member_state: MemberState, ticket: int) -> bool:
        """Whether a lock is held in this process."""
        return member_state is self.member_state and member_state.holds(0.0, ticket)

    def slot(self, group: str) -> int | None:
        """The slot that was asked for, or 0 in place of any."""
        return self.slots.get(group)

    def elect(self, group: str, callback: Any) -> None:
        """Tell `callback` that this process leads the group."""
        if callback is not None:
            with self.event() as driver:
                assert driver.session is not None
                driver.post(Delivery(group, driver.session, elected=0, callback=callback))

    @contextmanager
    def event(self) -> Iterator[MemberDriver]:
        """Hand the driver an event within this; in a forked child it begins anew."""
        with super().event() as driver:
            driver.start("local", os.getpid())
            yield driver

    def leads(self, group: str) -> bool:
        """True."""
        return True

    def send_now(self) -> None:
        """Take in what has changed in locks."""
        _ProcessLocks.of_this_process().exchange()

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """What the partition actor's method would return; the only one ever asked for is ``break_lock``."""
        return _ProcessLocks.of_this_process().break_lock(*arguments)
