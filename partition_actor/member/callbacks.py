"""What users' callbacks are told, in which order and in which thread.

They run one at a time in a thread of their own, so that a slow one never delays a heartbeat. When the callbacks for
what was lost have returned, the member acknowledges the epoch (rule 3).
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from partition_actor import clock
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import Change
from partition_actor.member.session import Session

log = logging.getLogger(__name__)

# Timers may fire early by the resolution of a clock.
_TICK = 0.001


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


class KeyListener(Protocol):
    """What must hear of the keys that this member gains and loses in a group."""

    group: str

    @property
    def is_listening(self) -> bool:
        """Whether it needs to hear now."""

    def tell_lost(self) -> None:
        """Let go of lost keys. The next owner starts when this has returned."""

    def tell_gained(self) -> None:
        """Take gained keys."""


class Callback:
    """A user's function. If it returns an awaitable, that runs on the event loop on which it was registered."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._loop = _running_loop()

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
        if _running_loop() is None:
            self._run_all()

    def close(self) -> None:
        """Take no more jobs until `open`. The queue's thread runs the pending ones and ends."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()

    def open(self) -> None:
        """Take jobs again after a `close`."""
        with self._arrived:
            self._closed = False

    def _run_all(self) -> None:
        with self._running:
            while self._jobs:
                try:
                    self._jobs.popleft()()
                except Exception:
                    log.exception("a job of %s failed", self._name)

    def _serve(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._jobs or self._closed)
                if self._closed and not self._jobs:
                    self._thread = None
                    return
            self._run_all()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Notifier:
    """The group watchers and key listeners of one member.

    It acknowledges an epoch to `session` when the callbacks for what was lost up to that epoch have returned.
    """

    def __init__(self, session: Session, queue: CallbackQueue) -> None:
        self._session = session
        self._queue = queue
        self._watchers: dict[str, list[Callback]] = {}
        self._listeners: dict[str, list[KeyListener]] = {}
        self._lapse_timer: asyncio.TimerHandle | None = None
        self._lapsed: set[str] = set()

    def add_watcher(self, group: str, callback: Callable[[GroupEvent], Any]) -> None:
        """Call `callback` with each change of the group's membership."""
        self._watchers.setdefault(group, []).append(Callback(callback))

    def add_listener(self, listener: KeyListener) -> None:
        """Tell `listener` of the keys that this member gains and loses."""
        with self._session.lock:
            self._listeners.setdefault(listener.group, []).append(listener)

    def remove_listener(self, listener: KeyListener) -> None:
        """Tell `listener` nothing any more."""
        with self._session.lock:
            others = [each for each in self._listeners.get(listener.group, ()) if each is not listener]
            self._listeners[listener.group] = others
            if not others:
                del self._listeners[listener.group]

    def refresh(self, group: str) -> None:
        """Let the group's listeners look at which keys are theirs now."""
        self._queue.post(partial(self._refresh, group))

    def take(self, changes: Iterable[Change]) -> None:
        """Run the callbacks for what a reply has changed. Call it on the background loop."""
        for change in changes:
            if self._watchers.get(change.group) or self._listening(change.group):
                self._queue.post(partial(self._deliver, change))
            elif change.after is not None:
                self._acknowledge(change.group, change.after.epoch)
        self._await_lapse()

    def close(self, last: Callable[[], Any]) -> None:
        """Run what is pending, tell the listeners what is lost by now, run `last`, and nothing after that."""
        for group in list(self._listeners):
            self.refresh(group)
        self._queue.post(last)
        self._queue.close()

    def _listening(self, group: str) -> list[KeyListener]:
        return [listener for listener in self._listeners.get(group, ()) if listener.is_listening]

    def _deliver(self, change: Change) -> None:
        for listener in self._listening(change.group):
            listener.tell_lost()
        event = self._event(change)
        if event.joined or event.left:
            for callback in self._watchers.get(change.group, ()):
                callback(event)
        if change.after is not None:
            self._acknowledge(change.group, change.after.epoch)
        for listener in self._listening(change.group):
            listener.tell_gained()

    def _event(self, change: Change) -> GroupEvent:
        if change.after is None:
            return GroupEvent(change.group, None, (), (self._session.member_id,))
        return GroupEvent(change.group, change.after.epoch, tuple(change.joined), tuple(change.left))

    def _refresh(self, group: str) -> None:
        for listener in self._listening(group):
            listener.tell_lost()
            listener.tell_gained()

    def _await_lapse(self) -> None:
        """Refresh groups whose lease runs again, and set a timer for the next lease that ends without a reply."""
        if self._lapse_timer is not None:
            self._lapse_timer.cancel()
        now = clock.now()
        ends = {
            group: end for group in list(self._listeners) if self._listening(group) and (end := self._lease_end(group))
        }
        for group, end in ends.items():
            if end > now and group in self._lapsed:
                self._lapsed.discard(group)
                self.refresh(group)
        ahead = [end for end in ends.values() if end > now]
        if ahead:
            loop = asyncio.get_running_loop()
            self._lapse_timer = loop.call_later(min(ahead) - now + _TICK, self._on_lapse)

    def _on_lapse(self) -> None:
        now = clock.now()
        for group in list(self._listeners):
            end = self._lease_end(group)
            if end is not None and end <= now:
                self._lapsed.add(group)
                self.refresh(group)
        self._await_lapse()

    def _acknowledge(self, group: str, epoch: Epoch) -> None:
        with self._session.lock:
            ackers = self._session.member_state.acknowledge(group, epoch)
        if ackers:
            self._session.send_ack(ackers)

    def _lease_end(self, group: str) -> float | None:
        member_state = self._session.member_state
        with self._session.lock:
            view = member_state.view(group)
            return None if view is None else member_state.acts_until(view)
