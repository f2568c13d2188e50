"""What tooz's callers get back: results and errors of tooz's own kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import tooz
from tooz import coordination

from partition_actor.errors import PartitionActorUnavailable, PartitionError

P = ParamSpec("P")
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


def completed(method: Callable[P, T]) -> Callable[P, coordination.CoordAsyncResult[T]]:
    """Let a method that blocks return tooz's asynchronous result, which is then always done."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> coordination.CoordAsyncResult[T]:
        future: Future[T] = Future()
        try:
            with tooz_errors():
                future.set_result(method(*args, **kwargs))
        except tooz.ToozError as error:
            future.set_exception(error)
        return coordination.CoordinatorResult(future)

    return call
