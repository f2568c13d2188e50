"""The smaller parts of the ``ray://`` backend of tooz: ids, errors, results and locks. See ``tooz_driver``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import tooz
from tooz import coordination, locking

from partition_actor.errors import PartitionActorUnavailable, PartitionError
from partition_actor.member.local_session import AnySession
from partition_actor.member.lock import Lock

T = TypeVar("T")


def text_of(name: bytes | str) -> str:
    """An id as the partition actor knows it, whether tooz's user gave bytes or str."""
    if isinstance(name, str):
        return name
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise tooz.ToozError(f"id: got {name!r}, expected text in UTF-8") from None


@contextmanager
def translated() -> Iterator[None]:
    """Raise tooz's errors for ours."""
    try:
        yield
    except PartitionActorUnavailable as error:
        raise coordination.OperationTimedOut(str(error)) from error
    except PartitionError as error:
        raise tooz.ToozError(str(error)) from error


class Done(coordination.CoordAsyncResult[T]):
    """The result of a call that has been made already: nothing is left pending here."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._error: Exception | None = None
        try:
            with translated():
                self._value = call()
        except tooz.ToozError as error:
            self._error = error

    def get(self, timeout: float | None = None) -> T:
        """The value, or what was raised."""
        if self._error is not None:
            raise self._error
        return self._value

    def done(self) -> bool:
        """Always."""
        return True


class RayLock(locking.Lock):
    """A lock of the partition actor: see ``partition_actor.Lock``. Each `acquire` that succeeded needs one
    `release`."""

    def __init__(self, line: AnySession, heartbeat: Callable[[], Any], name: bytes | str) -> None:
        super().__init__(name)  # type: ignore[arg-type]
        self._heartbeat = heartbeat
        self._lock = Lock(line, text_of(name))

    def acquire(self, blocking: bool | float = True, shared: bool = False, timeout: float | None = None) -> bool:
        """Take the lock; a number for `blocking` is a timeout. Those who wait get it in the order of their asking."""
        if not isinstance(blocking, bool):
            blocking, timeout = True, blocking
        wait = blocking and (timeout is None or timeout > 0)
        with translated():
            return self._lock.acquire(wait, timeout if wait else None, shared)

    def release(self) -> bool:
        """Give it back; False when it was not held, because it was never taken, was broken or has lapsed."""
        with translated():
            return self._lock.release()

    def break_(self) -> bool:
        """Take it from whoever holds it; returns when those know, so that nobody holds it beside another."""
        with translated():
            return self._lock.break_()

    def is_still_owner(self) -> bool:
        """Whether it is held."""
        return self._lock.held

    @property
    def acquired(self) -> bool:
        """Whether it is held."""
        return self._lock.held

    @property
    def fencing_token(self) -> int:
        """An int that grows with every hold of this lock; 0 while it is not held."""
        return self._lock.fencing_token

    def heartbeat(self) -> bool:
        """Whether it is held; beats the driver's heart, by which all its locks live."""
        self._heartbeat()
        return self._lock.held
