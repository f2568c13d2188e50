"""Runs users' callbacks: which, in which order and when is decided by ``core.member_driver``.

They run in threads of their own, so that a slow one delays neither a heartbeat nor another group's callbacks; or, if
sooner, in the thread that calls `run_pending`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from partition_actor.core.epochs import Epoch
from partition_actor.core.member_driver import Delivery, GuardedCall
from partition_actor.member.session import Session

log = logging.getLogger(__name__)

MAX_THREADS = 64
"""Groups of one member whose callbacks run at the same time."""
LOOP_CHECK_INTERVAL = 0.1
"""Seconds between two looks whether the event loop of an async callback still runs."""

_inside: ContextVar[tuple[Delivery | GuardedCall, ...]] = ContextVar("partition_actor_inside", default=())
"""The deliveries and guarded calls within which this code runs."""


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


@dataclass(frozen=True, slots=True)
class Elected:
    """What the callbacks of `elect` get: this process leads `group` from now on."""

    group: str
    fencing_token: int
    """It grows with every leader of this group."""


class KeyListener(Protocol):
    """What must hear of the keys that this member gains and loses in a group. Each step runs one callback."""

    group: str

    def tell_lost(self, everything: bool) -> Iterator[None]:
        """Let go of lost keys, or of `everything`. The next owner starts when this is over."""

    def tell_gained(self) -> Iterator[None]:
        """Take gained keys."""


class Callback:
    """A user's function. If it returns an awaitable, that runs on the event loop on which it was registered."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._loop = running_loop()

    def __call__(self, argument: Any) -> None:
        """Run it to its end, and log what it raises. ``KeyboardInterrupt`` is raised when the delivery is over."""
        try:
            result = self._function(argument)
            if inspect.isawaitable(result):
                self._run(_awaited(result))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                _interrupt.error = error
            _log_failure("callback %r failed", self._function)

    def _run(self, coroutine: Any) -> None:
        loop = self._loop
        if loop is None or not loop.is_running():
            asyncio.run(coroutine)
            return
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        while not wait([future], LOOP_CHECK_INTERVAL).done:
            if not loop.is_running():
                future.cancel()
                raise RuntimeError("its event loop was stopped while it ran")
        future.result()


_interrupt = threading.local()
"""`error`: the ``KeyboardInterrupt`` that a callback has met in this thread."""


def _log_failure(message: str, *arguments: object) -> None:
    with contextlib.suppress(BaseException):  # a handler of the program's may raise, and callbacks go on
        log.exception(message, *arguments)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@contextmanager
def inside(what: Delivery | GuardedCall) -> Iterator[None]:
    """Note that the code within belongs to a delivery or a guarded call.

    So do the tasks that it starts, and the threads of `run_in_thread` and ``asyncio.to_thread``; bare threads do not.
    """
    token = _inside.set((*(each for each in _inside.get() if not each.over), what))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # what it belongs to was thrown away, and is ended in another context
            _inside.reset(token)


class Callbacks:
    """The group watchers and key listeners of one member, and the threads that run them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._watchers: dict[str, list[Callback]] = {}
        self._listeners: dict[str, list[KeyListener]] = {}
        self._process: Hashable = None
        self._threads = 0
        """How many run, and how many of them have not looked for a delivery yet."""
        self._starting = 0
        session.deliver = self._start_threads

    def add_watcher(self, group: str, function: Callable[[GroupEvent], Any]) -> None:
        """Call `function` with each change of the group's membership."""
        callback = Callback(function)
        with self._session.event() as driver:
            self._watchers.setdefault(group, []).append(callback)
            driver.listen(group)

    def add_listener(self, listener: KeyListener) -> None:
        """Tell `listener`, from now on and once, of the keys that this member gains and loses."""
        with self._session.event() as driver:
            listeners = self._listeners.setdefault(listener.group, [])
            if listener not in listeners:
                listeners.append(listener)
                driver.listen(listener.group)

    def remove_listener(self, listener: KeyListener) -> None:
        """Tell `listener` of nothing more."""
        with self._session.event() as driver:
            listeners = self._listeners.get(listener.group, [])
            if listener in listeners:
                listeners.remove(listener)
                driver.unlisten(listener.group)
            if not listeners:
                self._listeners.pop(listener.group, None)

    def refresh(self, group: str) -> None:
        """Let the group's listeners look at which keys are theirs now."""
        with self._session.event() as driver:
            driver.refresh(group)

    # -- running ------------------------------------------------------------------------------------------------

    def is_inside(self, group: str | None = None) -> bool:
        """Whether this code runs within a callback or guarded call of this member (and group), which must end first."""
        driver = self._session.driver
        with self._session.lock:
            return any(driver.is_running(each) and group in (None, each.group) for each in _inside.get())

    def run_pending(self) -> None:
        """Run what is pending in this thread, and wait for what runs elsewhere, at most `call_timeout`.

        Within a callback or a guarded call it does not wait, as that must return first. In a thread whose event loop
        runs it does nothing: a callback may need that loop, and would wait for its own caller.
        """
        if running_loop() is not None:
            return
        driver = self._session.driver
        with self._session.lock:
            awaited = driver.unfinished()
        while self._run_next():
            pass
        if not self.is_inside():
            self._session.wait(lambda: not set(awaited).intersection(driver.unfinished()))

    def next_steps(self) -> Iterator[bool] | None:
        """The next delivery, begun; each step runs one callback. None when nothing may run now."""
        steps = self._steps()
        return steps if next(steps) else None

    def _run_next(self) -> bool:
        """Run the next delivery; False when nothing may run now. Raises ``KeyboardInterrupt``."""
        steps = self.next_steps()
        for _ in steps or ():
            pass
        if (error := getattr(_interrupt, "error", None)) is not None:
            _interrupt.error = None
            raise error
        return steps is not None

    def _steps(self) -> Iterator[bool]:
        """Begin the next delivery: the first step says whether there is one."""
        session, delivery = self._session, None
        try:
            with session.lock:
                delivery = session.driver.next_delivery()
            yield delivery is not None
            if delivery is not None:
                for _ in self._run(delivery):
                    yield True
        finally:
            if delivery is not None:
                with session.event() as driver:
                    driver.returned(delivery)

    def _run(self, delivery: Delivery) -> Iterator[None]:
        session, group = self._session, delivery.group
        if delivery.elected is not None:
            if session.is_local or session.driver.is_led(delivery):
                with inside(delivery):
                    delivery.callback(Elected(group, delivery.elected))
                yield
            return
        for listener in list(self._listeners.get(group, ())):
            yield from _within(delivery, listener.tell_lost(delivery.all_lost))
        event = self._event(delivery)
        for callback in list(self._watchers.get(group, ())) if event is not None else ():
            with inside(delivery):
                callback(event)
            yield
        with session.event() as driver:
            driver.lost_returned(session.now(), delivery)
        for listener in list(self._listeners.get(group, ())):
            yield from _within(delivery, listener.tell_gained())

    def _event(self, delivery: Delivery) -> GroupEvent | None:
        change = delivery.change
        if change is None:
            return None
        if change.after is None:
            return GroupEvent(change.group, None, (), (self._session.member_id,))
        event = GroupEvent(change.group, change.after.epoch, tuple(change.joined), tuple(change.left))
        return event if event.joined or event.left else None

    def _start_threads(self) -> None:
        """Have a thread for each queue that may run. The caller holds the session's lock."""
        session = self._session
        if self._process != session.process():  # a forked child, where those threads do not exist
            self._process, self._threads, self._starting = session.process(), 0, 0
        while self._starting < session.driver.ready() and self._threads < MAX_THREADS:
            name = f"partition-actor-callbacks-{session.member_id}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError:  # this process may have no more threads: the next event tries again
                _log_failure("cannot start a thread for callbacks")
                return
            self._starting += 1
            self._threads += 1

    def _serve(self) -> None:
        """Run deliveries until none may run, whatever they raise."""
        with self._session.lock:
            self._starting -= 1
        goes_on = True
        while goes_on:
            try:
                goes_on = self._run_next()
            except BaseException:
                _log_failure("callbacks of member %r failed", self._session.member_id)
            if not goes_on:
                with self._session.lock:
                    goes_on = self._session.driver.ready() > 0
                    self._threads -= not goes_on


def _within(delivery: Delivery, steps: Iterator[None]) -> Iterator[None]:
    """The same steps, each run inside the delivery."""
    while True:
        with inside(delivery):
            if next(steps, steps) is steps:
                return
        yield
