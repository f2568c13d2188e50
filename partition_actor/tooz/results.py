"""What tooz's callers get back: results and errors of tooz's own kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import tooz
from tooz import coordination

from partition_actor.errors import PartitionActorUnavailable, PartitionError

T = TypeVar("T")


@contextmanager
def tooz_errors() -> Iterator[None]:
    """Replace this library's errors by tooz's."""
    try:
        yield
    except PartitionActorUnavailable as error:
        raise coordination.OperationTimedOut(str(error)) from error
    except PartitionError as error:
        raise tooz.ToozError(str(error)) from error


class CompletedResult(coordination.CoordAsyncResult[T]):
    """The result of a call that has been made before this object exists: it is never pending."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._error: Exception | None = None
        try:
            with tooz_errors():
                self._value = call()
        except tooz.ToozError as error:
            self._error = error

    def get(self, timeout: float | None = None) -> T:
        """Return the call's value or raise its error."""
        if self._error is not None:
            raise self._error
        return self._value

    def done(self) -> bool:
        """Return True: the call has been made."""
        return True
