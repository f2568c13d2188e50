"""The worker's side: the user's class, with methods that the controller calls.

They run in a concurrency group of their own, so that a method of the user's that takes long holds nothing up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, NamedTuple

import ray

from partition_actor.core.epochs import Epoch
from partition_actor.core.fleet import Phase
from partition_actor.errors import NoPlaceYet, PartitionError
from partition_actor.fleet.spec import FleetSpec
from partition_actor.member.background import run_in_thread
from partition_actor.member.coordinator import PartitionCoordinator

log = logging.getLogger(__name__)

CONCURRENCY_GROUP = "partition_actor_fleet"
CALLS_AT_ONCE = 4
"""Of the controller: a report that is waited for, and a join or a drain; and those of its successor."""
NEWS_INTERVAL = 0.05
"""Seconds between two reports, at least."""
LOAD_INTERVAL = 1.0
"""Seconds between two questions for a worker's load."""
JOIN_TIMEOUT = 60.0
"""Seconds in which a worker must get its place in the group."""


@dataclass(frozen=True)
class Post:
    """Where a worker belongs."""

    spec: FleetSpec
    slot: int
    number: int
    version: int


class WorkerReport(NamedTuple):
    """What a worker holds."""

    epoch: Epoch | None
    is_settled: bool
    """It may use its slot, and waits for nobody's hand-off."""
    load: float | None
    out: bool
    """It was drained or has left its group, though its controller did not ask for that."""
    is_superseded: bool
    """Another process has its member id."""


class Duty:
    """One worker's membership, for its controller."""

    def __init__(self, post: Post) -> None:
        spec = post.spec
        self.post = post
        self.coordinator = PartitionCoordinator(
            spec.member_id(post.slot), actor=spec.actor, namespace=spec.namespace, settings=spec.settings
        )
        self.coordinator._session.stays = not spec.per_node  # another takes over before its node ends
        self.coordinator.start()
        self._asked = self._has_joined = self._has_left = False
        self.construct: Callable[[], None] | None = None
        """What runs the user's constructor; None once it has returned."""
        self._constructing = threading.Lock()
        self.closing = threading.Event()
        self.closed = threading.Event()
        self._load: float | None = None
        self._reported = 0.0

    def whereabouts(self) -> tuple[str, int]:
        """The node and the process id."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def begin(self, worker: Any) -> tuple[str, int]:
        """Run the user's constructor, if it has not run; returns `whereabouts`. Raises what the constructor raises."""
        with self._constructing:  # the next controller asks again
            if self.construct is not None:
                try:
                    self.construct()
                except BaseException:
                    self.coordinator.stop()
                    raise
                self.construct = None
                self.keep_asking(worker)
        return self.whereabouts()

    def phase(self) -> Phase:
        """For a controller that has been restarted."""
        if self.construct is not None:
            return "starting"
        if self._has_left:
            return "draining"
        return "serving" if self._has_joined else "joining" if self._asked else "ready"

    def join(self) -> None:
        """Join the group; returns with a place there. Raises ``PartitionError``."""
        spec, session = self.post.spec, self.coordinator._session
        self._asked = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoPlaceYet)
            self.coordinator._join_group(spec.group, exclusive=spec.exclusive, slot=self.post.slot, slots_of=spec.slots)
        if not session.wakeups.wait(lambda: session.state(spec.group) != "joining", JOIN_TIMEOUT):
            raise PartitionError(f"it got no place in group {spec.group!r} within {JOIN_TIMEOUT:g} s")
        self._has_joined = True

    def report(self, known: WorkerReport | None, seconds: float) -> WorkerReport:
        """What it holds now: at once when that differs from what is `known`, else after so many seconds."""
        session = self.coordinator._session
        time.sleep(max(0.0, self._reported + NEWS_INTERVAL - time.monotonic()))  # one report of a burst of epochs
        session.wakeups.wait(lambda: known is None or self._holds() != known._replace(load=None), seconds)
        with session.lock:
            holds = self._holds()
        self._reported = time.monotonic()
        return holds._replace(load=self._load)

    def _holds(self) -> WorkerReport:
        group, session = self.post.spec.group, self.coordinator._session
        state, view = session.state(group), session.view(group)
        epoch = None if view is None else view.epoch
        is_settled = view is not None and not view.laggards and session.slot(group) is not None
        is_in = not self._has_joined or self._has_left or (session.active and not session.is_out(group))
        return WorkerReport(epoch, is_settled, None, not is_in, state == "superseded" and not self._has_left)

    def keep_asking(self, worker: Any) -> None:
        """Ask for the worker's load once a second, in a thread of its own: it may take its time."""
        load = self.post.spec.load
        if load is not None:
            ask = load if callable(load) else lambda worker: getattr(worker, load)()
            threading.Thread(target=self._keep_asking, args=(ask, worker), name="load of worker", daemon=True).start()

    def _keep_asking(self, ask: Callable[[Any], Any], worker: Any) -> None:
        failed = False
        while not self._has_left:
            try:
                value = ask(worker)
                self._load = float(asyncio.run(_result(value)) if inspect.isawaitable(value) else value)
                failed = False
            except Exception:
                log.log(logging.DEBUG if failed else logging.WARNING, "a worker cannot tell its load", exc_info=True)
                self._load, failed = None, True
            time.sleep(LOAD_INTERVAL)

    def may_close(self) -> bool:
        """Whether nobody has begun to close the worker; whoever has waits for `closed`."""
        with self.coordinator._session.lock:
            was_closing = self.closing.is_set()
            self.closing.set()
        return not was_closing

    def drain(self) -> None:
        """Hand all keys over and leave; returns when the callbacks have."""
        timeout = self.post.spec.drain_timeout
        self._has_left = True
        if not self.coordinator._stop(at_most=timeout):
            raise PartitionError(f"it has not handed over within {timeout:g} s")


async def _result(value: Any) -> Any:
    return await value


def worker_class(cls: type) -> type:
    """The class of a fleet's actors: `cls`, whose constructor gets a started ``PartitionCoordinator`` first.

    The constructor runs as a method does: Ray runs the methods of an actor with concurrency groups in other threads
    than its ``__init__``. If it raised there, Ray 2.60 would abort the process, which has threads by then.
    """
    is_async = bool(inspect.getmembers(cls, inspect.iscoroutinefunction))

    def prepare(self: Any, post: Post, *args: Any, **kwargs: Any) -> None:
        duty = Duty(post)
        duty.construct = partial(cls.__init__, self, duty.coordinator, *args, **kwargs)  # type: ignore[misc]
        object.__setattr__(self, _DUTY, duty)  # also where the class refuses or counts attributes

    def begin(self: Any) -> tuple[str, int]:
        return _duty(self).begin(self)

    async def abegin(self: Any) -> tuple[str, int]:
        return _duty(self).begin(self)

    def whereabouts(self: Any) -> tuple[str, int]:
        return _duty(self).whereabouts()

    def phase(self: Any) -> str:
        return _duty(self).phase()

    def join(self: Any) -> None:
        _duty(self).join()

    def report(self: Any, known: WorkerReport | None, seconds: float) -> WorkerReport:
        return _duty(self).report(known, seconds)

    def drain(self: Any) -> None:
        _duty(self).drain()

    def close(self: Any) -> None:
        duty = _duty(self)
        if not duty.may_close():
            duty.closed.wait()
        else:
            try:
                if callable(getattr(self, "close", None)):
                    self.close()
            finally:
                duty.closed.set()

    async def aclose(self: Any) -> None:
        duty = _duty(self)
        if not duty.may_close():
            await run_in_thread(duty.closed.wait)
        else:
            try:
                result = self.close() if callable(getattr(self, "close", None)) else None
                if inspect.isawaitable(result):
                    await result
            finally:
                duty.closed.set()

    in_group = ray.method(concurrency_group=CONCURRENCY_GROUP)
    methods: dict[str, Any] = {"__init__": prepare, "_partition_actor_begin": abegin if is_async else begin}
    for function in (whereabouts, phase, join, report, drain, *(() if is_async else (close,))):
        methods[f"_partition_actor_{function.__name__}"] = in_group(_in_thread(function) if is_async else function)
    if is_async:
        methods["_partition_actor_close"] = aclose  # on the loop of the user's other methods
    made = type(cls.__name__, (cls,), methods)
    made.__module__, made.__qualname__, made.__doc__ = cls.__module__, cls.__qualname__, cls.__doc__
    return made


_DUTY = "_partition_actor_duty"


def _duty(worker: Any) -> Duty:
    duty: Duty = object.__getattribute__(worker, _DUTY)
    return duty


def _in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def run(*args: Any) -> Any:
        return await run_in_thread(function, *args)

    return run
