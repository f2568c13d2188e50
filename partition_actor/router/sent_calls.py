"""The calls that ``Router.call`` has sent, so that ``Router.get`` can send them again, and does so only once."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from partition_actor.errors import NotStarted, PartitionError
from partition_actor.member.sizes import bytes_of
from partition_actor.router.retry import RetryState
from partition_actor.router.routing_table import MemberActor, RoutingTable

MAX_CALLS = 10_000
"""How many calls of one router are remembered."""
MAX_BYTES = 64 * 2**20
"""About how much memory they take, with their arguments."""
OVERHEAD = 600
"""Bytes of a remembered call without its arguments."""
Find = Callable[[RetryState, RoutingTable, float, "float | None"], tuple[MemberActor, RoutingTable]]
"""``Router._find_after``."""
_lock = threading.RLock()
_stores: weakref.WeakSet[SentCalls] = weakref.WeakSet()
"""Of all routers of this process: another one may be asked for the result of a call."""


def _start_anew() -> None:
    """In a forked child: another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def task_of(reference: ray.ObjectRef[Any]) -> bytes:
    """The id of the task that returns this."""
    return reference.binary()[:-4]


def index_of(reference: ray.ObjectRef[Any]) -> int:
    """Which of the task's results this is, from 0."""
    return int.from_bytes(reference.binary()[-4:], "little") - 1


@dataclass(eq=False, slots=True)
class SentCall:
    """A call, and what it takes to send it again."""

    references: tuple[ray.ObjectRef[Any], ...]
    actor: MemberActor | None
    key: object
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int = OVERHEAD
    retried: Retried | None = None

    @property
    def is_released(self) -> bool:
        """Whether nobody else holds its references."""
        return all(sys.getrefcount(self.references[at]) <= _ALONE for at in range(len(self.references)))


_object = (object(),)
_ALONE = sys.getrefcount(_object[0])


class SentCalls:
    """The latest calls of one router whose results have not been taken, as many as `MAX_CALLS` and `MAX_BYTES` allow.

    One whose references are held by nobody else is forgotten with the next heartbeat. One that has been retried is
    remembered until then, whatever the bytes: otherwise another `get` would retry it again.
    """

    def __init__(self) -> None:
        self._calls: dict[bytes, SentCall] = {}
        self._bytes = 0
        with _lock:
            _stores.add(self)

    def add(self, call: SentCall) -> None:
        """Remember a call, and forget the oldest ones if there is no room."""
        call.size = OVERHEAD + bytes_of(call.args) + (bytes_of(call.kwargs.values()) if call.kwargs else 0)
        if call.size > MAX_BYTES:
            return
        forgotten: list[SentCall] = []  # freed without the lock: their arguments may be anything
        with _lock:
            self._calls[task_of(call.references[0])] = call
            self._bytes += call.size
            if self._bytes > MAX_BYTES or len(self._calls) > MAX_CALLS:
                for task, oldest in list(self._calls.items()):
                    if self._bytes <= MAX_BYTES * 7 // 8 and len(self._calls) <= MAX_CALLS * 7 // 8:
                        break
                    if oldest.retried is None and oldest is not call:
                        forgotten.append(self._pop(task))

    def find(self, reference: ray.ObjectRef[Any]) -> SentCall | None:
        """The call that this is a result of."""
        return self._calls.get(task_of(reference))

    def forget(self, reference: ray.ObjectRef[Any]) -> None:
        """Forget the call whose result has been taken."""
        task = task_of(reference)
        with _lock:
            forgotten = self._pop(task) if task in self._calls else None
        del forgotten

    def forget_released(self, tasks: list[bytes] | None = None) -> None:
        """Forget those of these tasks (by default, of all) whose references nobody else holds."""
        with _lock:
            forgotten = self._pop_released(list(self._calls) if tasks is None else tasks)
        if forgotten and tasks is None:  # on the background loop, which must not wait for what their arguments do
            threading.Thread(target=forgotten.clear, name="partition-actor-forget", daemon=True).start()

    def retried(self, reference: ray.ObjectRef[Any], new: SentCall) -> Retried:
        """What has become of a call that failed: what `new` says, unless somebody else has begun to retry it."""
        assert new.retried is not None
        with _lock:
            for store in list(_stores):
                call = store.find(reference)
                if call is not None and call.retried is not None:
                    return call.retried
            task = task_of(reference)
            if task in self._calls:
                self._pop(task)
            self._calls[task] = replace(new, args=(), kwargs={}, size=OVERHEAD)  # `retried` drops them when it is done
            self._bytes += OVERHEAD
            return new.retried

    def _pop(self, task: bytes) -> SentCall:
        call = self._calls.pop(task)
        self._bytes -= call.size
        return call

    def _pop_released(self, tasks: list[bytes]) -> list[SentCall]:
        return [self._pop(task) for task in tasks if (call := self._calls.get(task)) is not None and call.is_released]


def find_anywhere(reference: ray.ObjectRef[Any]) -> SentCall | None:
    """The call that this is a result of, by whichever router of this process."""
    with _lock:
        stores = list(_stores)
    return next((call for store in stores if (call := store.find(reference)) is not None), None)


class Retried:
    """The further tries of one call. All who ask for its result wait for the same try, and get the same."""

    def __init__(self, find: Find, state: RetryState, call: SentCall, pause: float, table: RoutingTable) -> None:
        self._find, self._state = find, state
        self._call: SentCall | None = call
        self._due, self._table = time.monotonic() + pause, table
        self._lock = threading.Lock()
        self._actor: MemberActor | None = None
        self._references: list[ray.ObjectRef[Any]] = []
        self._error: Exception | None = None

    def get(self, index: int, deadline: float | None) -> Any:
        """The result. Raises ``GetTimeoutError`` at `deadline`; whoever asks next goes on from there."""
        left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._lock.acquire(timeout=left):
            raise GetTimeoutError(f"{self._state}: no result in time")
        try:
            while self._error is None:
                if not self._references:
                    self._send(deadline)
                    continue
                left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
                try:
                    result = ray.get(self._references[index], timeout=None if deadline is None else left)
                except GetTimeoutError:
                    raise
                except RayError as error:
                    self._failed(error)
                else:
                    self._call = None
                    return result
            raise self._error.with_traceback(None)
        finally:
            self._lock.release()

    def _send(self, deadline: float | None) -> None:
        call = self._call
        assert call is not None
        try:
            self._actor, self._table = self._find(self._state, self._table, self._due, deadline)
            sent = self._actor.send(call.method, call.args, call.kwargs)
            self._references = list(sent) if isinstance(sent, list) else [sent]
        except NotStarted:
            raise
        except PartitionError as error:
            self._end(error)

    def _failed(self, error: RayError) -> None:
        reference, actor, call = self._references[0], self._actor, self._call
        assert actor is not None
        actor.forget(reference)
        if call is None:  # the result has been taken, and is lost
            self._end(error)
            return
        try:
            self._due = time.monotonic() + self._state.failed(error, reference, actor, self._table)
            self._references = []
        except (PartitionError, RayError) as final:
            self._end(final)

    def _end(self, error: Exception) -> None:
        self._error, self._call = error, None
