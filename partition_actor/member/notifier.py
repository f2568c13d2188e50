"""Runs users' callbacks for what has changed, and acknowledges the epoch when they have returned (rule 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from partition_actor import clock
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import Change
from partition_actor.member.callbacks import Callback, CallbackQueue, GroupEvent

# Timers may fire early by the resolution of a clock.
_TICK = 0.001


class KeyListener(Protocol):
    """What must hear of the keys that this member gains and loses in a group."""

    @property
    def group(self) -> str:
        """The group."""

    @property
    def is_listening(self) -> bool:
        """Whether it needs to hear now."""

    def tell_lost(self) -> None:
        """Let go of lost keys. The next owner starts when this has returned."""

    def tell_gained(self) -> None:
        """Take gained keys."""


class Notifier:
    """The group watchers and key listeners of one member.

    It calls `acknowledge` with a group and an epoch when the callbacks for what was lost up to that epoch have
    returned. `lease_end` gives the end of the lease on a group's view, on the member's clock.
    """

    def __init__(
        self, member_id: str, acknowledge: Callable[[str, Epoch], None], lease_end: Callable[[str], float | None]
    ) -> None:
        self._member_id = member_id
        self._acknowledge = acknowledge
        self._lease_end = lease_end
        self._queue = CallbackQueue(f"partition-actor-callbacks-{member_id}")
        self._watchers: dict[str, list[Callback]] = {}
        self._listeners: dict[str, list[KeyListener]] = {}
        self._lapse_timer: asyncio.TimerHandle | None = None
        self._lapsed: set[str] = set()

    def add_watcher(self, group: str, callback: Callable[[GroupEvent], Any]) -> None:
        """Call `callback` with each change of the group's membership."""
        self._watchers.setdefault(group, []).append(Callback(callback))

    def add_listener(self, listener: KeyListener) -> None:
        """Tell `listener` of the keys that this member gains and loses."""
        self._listeners.setdefault(listener.group, []).append(listener)

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

    def post(self, job: Callable[[], None]) -> None:
        """Run a job in the thread for callbacks, after those that are pending."""
        self._queue.post(job)

    def run_pending(self) -> None:
        """Run the pending callbacks in the caller's thread; see ``CallbackQueue.run_pending``."""
        self._queue.run_pending()

    def open(self) -> None:
        """Run callbacks again after a `close`."""
        self._queue.open()

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
            return GroupEvent(change.group, None, (), (self._member_id,))
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
