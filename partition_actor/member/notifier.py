"""Tells users' callbacks what has changed, and the state machine when they have returned (rule 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from partition_actor import clock
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import Change
from partition_actor.member.callbacks import Callback, CallbackQueue, GroupEvent

# Timers may be early by the resolution of a clock.
_TICK = 0.001


class Watched(Protocol):
    """What has to hear of the keys that this member gains and loses: a ``Partition``, mostly."""

    @property
    def group(self) -> str:
        """The group that it is about."""

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to hear."""

    def tell_lost(self) -> None:
        """Hear of lost keys; they are the next owner's when this has returned."""

    def tell_gained(self) -> None:
        """Hear of gained keys."""


class Notifier:
    """The watchers and partitions of one member.

    `adopted` is called with a group and an epoch when the callbacks for what was lost up to that epoch have returned;
    `ends` gives the end of the lease on a group's view, on the member's clock.
    """

    def __init__(
        self, member_id: str, adopted: Callable[[str, Epoch], None], ends: Callable[[str], float | None]
    ) -> None:
        self._member_id = member_id
        self._acknowledge = adopted
        self._ends = ends
        self._queue = CallbackQueue(f"partition-actor-callbacks-{member_id}")
        self._watchers: dict[str, list[Callback]] = {}
        self._partitions: dict[str, list[Watched]] = {}
        self._lapse: asyncio.TimerHandle | None = None
        self._lapsed: set[str] = set()

    def watch(self, group: str, callback: Callable[[GroupEvent], Any]) -> None:
        """Call `callback` with each change of the group's membership."""
        self._watchers.setdefault(group, []).append(Callback(callback))

    def add(self, partition: Watched) -> None:
        """Tell `partition` of what this member gains and loses."""
        self._partitions.setdefault(partition.group, []).append(partition)

    def refresh(self, group: str) -> None:
        """Let the group's partitions look again at what is theirs."""
        self._queue.post(partial(self._tell, group))

    def take(self, changes: Iterable[Change]) -> None:
        """Take in what a reply has changed. Call it on the event loop."""
        for change in changes:
            if self._watchers.get(change.group) or self._watched(change.group):
                self._queue.post(partial(self._deliver, change))
            elif change.after is not None:
                self._acknowledge(change.group, change.after.epoch)
        self._guard_lapse()

    def post(self, job: Callable[[], None]) -> None:
        """Run a job where the callbacks run, after those that are pending."""
        self._queue.post(job)

    def run_pending(self) -> None:
        """Run the callbacks that are pending in the caller's thread; see ``CallbackQueue.run_pending``."""
        self._queue.run_pending()

    def open(self) -> None:
        """Run callbacks again after a `close`."""
        self._queue.open()

    def close(self, last: Callable[[], Any]) -> None:
        """Run what is pending, tell the partitions of what is lost by now, run `last`, and nothing after that."""
        for group in list(self._partitions):
            self.refresh(group)
        self._queue.post(last)
        self._queue.close()

    def _watched(self, group: str) -> list[Watched]:
        return [partition for partition in self._partitions.get(group, ()) if partition.is_watched]

    def _deliver(self, change: Change) -> None:
        for partition in self._watched(change.group):
            partition.tell_lost()
        event = self._event(change)
        if event.joined or event.left:
            for callback in self._watchers.get(change.group, ()):
                callback(event)
        if change.after is not None:
            self._acknowledge(change.group, change.after.epoch)
        for partition in self._watched(change.group):
            partition.tell_gained()

    def _event(self, change: Change) -> GroupEvent:
        if change.after is None:
            return GroupEvent(change.group, None, (), (self._member_id,))
        return GroupEvent(change.group, change.after.epoch, tuple(change.joined), tuple(change.left))

    def _tell(self, group: str) -> None:
        for partition in self._watched(group):
            partition.tell_lost()
            partition.tell_gained()

    def _guard_lapse(self) -> None:
        """Tell the partitions when the lease ends without another reply, and when it runs again."""
        if self._lapse is not None:
            self._lapse.cancel()
        now = clock.now()
        ends = {group: end for group in list(self._partitions) if self._watched(group) and (end := self._ends(group))}
        for group, end in ends.items():
            if end > now and group in self._lapsed:
                self._lapsed.discard(group)
                self.refresh(group)
        ahead = [end for end in ends.values() if end > now]
        if ahead:
            self._lapse = asyncio.get_running_loop().call_later(min(ahead) - now + _TICK, self._on_lapse)

    def _on_lapse(self) -> None:
        now = clock.now()
        for group in list(self._partitions):
            end = self._ends(group)
            if end is not None and end <= now:
                self._lapsed.add(group)
                self.refresh(group)
        self._guard_lapse()
