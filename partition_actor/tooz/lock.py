"""A lock of the partition actor with tooz's methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tooz import locking

from partition_actor.member.lock import Lock
from partition_actor.tooz.results import tooz_errors


class RayLock(locking.Lock):
    """`lock` with tooz's methods and errors. Each `acquire` that succeeds needs one `release`.

    `heartbeat` is the driver's: it keeps all its locks alive.
    """

    def __init__(self, name: bytes | str, lock: Lock, heartbeat: Callable[[], Any]) -> None:
        super().__init__(name)  # type: ignore[arg-type]
        self._lock = lock
        self._heartbeat = heartbeat

    def acquire(self, blocking: bool | float = True, shared: bool = False, timeout: float | None = None) -> bool:
        """Take the lock; a number for `blocking` is a timeout in seconds. Waiters get it in the order of asking."""
        if not isinstance(blocking, bool):
            blocking, timeout = True, blocking
        wait = blocking and (timeout is None or timeout > 0)
        with tooz_errors():
            return self._lock.acquire(wait, timeout if wait else None, shared)

    def release(self) -> bool:
        """Give the lock back; False if it was not held: never taken, broken or lapsed."""
        with tooz_errors():
            return self._lock.release()

    def break_(self) -> bool:
        """Take the lock from its holders; returns when they know, so that it is never held twice."""
        with tooz_errors():
            return self._lock.break_()

    def is_still_owner(self) -> bool:
        """Return whether the lock is held by this object."""
        return self._lock.held

    @property
    def acquired(self) -> bool:
        """Whether the lock is held by this object."""
        return self._lock.held

    @property
    def fencing_token(self) -> int:
        """An int that grows with every hold of this lock; 0 while it is not held."""
        return self._lock.fencing_token

    def heartbeat(self) -> bool:
        """Send the driver's heartbeat; returns whether the lock is held."""
        self._heartbeat()
        return self._lock.held
