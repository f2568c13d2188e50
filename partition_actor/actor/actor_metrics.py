"""The partition actor's metrics: what is recorded every few seconds, from its events and its state.

It never holds up the event loop: it records a few milliseconds' worth, and goes on after what else is waiting.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sized

from partition_actor import clock
from partition_actor.actor.fleets import Fleets
from partition_actor.actor.load import Load
from partition_actor.core.epochs import Epoch
from partition_actor.core.events import Event
from partition_actor.core.membership import Membership
from partition_actor.core.messages import SessionKey, leader_name, slot_of
from partition_actor.metrics import Recorder, recording_interval

log = logging.getLogger(__name__)

SLICE = 0.002
"""Seconds of recording after which others have their turn."""
NAMED = 1000
"""Groups that have series of their own. Ray (2.60) keeps 2,000 sets of tags of a metric and throws others together."""
OTHERS = "(other groups)"
"""In place of a group's name when there are more than `NAMED`."""


class ActorMetrics:
    """Records the metrics of one partition actor, whose shell knows its `load`, `fleets` and heartbeats `held`."""

    def __init__(self, membership: Membership, load: Load, held: Sized, fleets: Fleets, recorder: Recorder) -> None:
        self._membership, self._load, self._held, self._recorder = membership, load, held, recorder
        self._fleets = fleets
        self._restarts: dict[str, int] = {}
        """By fleet, the restarts that are recorded."""
        self._cursor = 0
        """The id of the first event that is not recorded yet."""
        self._heartbeats = 0
        """Heartbeats that are recorded."""
        self._epochs: dict[str, Epoch] = {}
        """By group, the latest epoch that is counted."""
        self._named: set[str] = set()
        self._lagging: set[str] = set()
        """By name or `OTHERS`, those of which a hand-off was recorded last time."""
        self._waiting_since: dict[tuple[SessionKey, int], float] = {}
        """By session and ticket, when it was first seen to wait for a lock."""

    async def keep_recording(self) -> None:
        """Record for as long as that works, and while the settings want it."""
        while self._recorder.works:
            await asyncio.sleep(recording_interval())
            try:
                if self._membership.settings.metrics:
                    await self._record()
            except Exception:
                log.exception("not all metrics are recorded this time")

    async def _record(self) -> None:
        until = time.perf_counter() + SLICE
        for _ in self.steps(clock.now()):
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE

    def steps(self, now: float) -> Iterator[None]:
        """Record everything once, in steps that take some microseconds each."""
        self._recorder.begin()
        yield from self._record_events()
        yield from self._record_groups(now)
        yield from self._record_locks(now)
        yield from self._record_fleets(now)
        self._record_numbers(now)

    def _record_events(self) -> Iterator[None]:
        events, recorder = self._membership.events, self._recorder
        start, kept = events.since(self._cursor)
        changes: Counter[tuple[str, str]] = Counter()
        epochs: Counter[str] = Counter()
        if self._cursor and start > self._cursor:
            changes["", "missed"] = start - self._cursor
        self._cursor = start + len(kept)
        for event in kept:
            what, seconds = event.cause.what, event.cause.seconds
            group = "" if event.group is None else self._name(event.group)
            changes[group, what] += 1
            epochs[group] += self._is_new_epoch(event)
            if seconds is not None and what == "handed_over":
                recorder.observe("handoff_seconds", seconds, group=group)
            elif seconds is not None and what in ("died", "expired"):
                recorder.observe("failover_detection_seconds", seconds, group=group, what=what)
            yield
        for (group, happened), count in changes.items():
            recorder.add("changes", count, group=group, what=happened)
            yield
        for group, count in epochs.items():
            recorder.add("epochs", count, group=group)
            yield

    def _is_new_epoch(self, event: Event) -> bool:
        """Whether it is the first event of an epoch: those of one epoch follow each other."""
        if event.group is None or event.epoch is None or event.epoch <= self._epochs.get(event.group, (0, 0)):
            return False
        self._epochs[event.group] = event.epoch
        return True

    def _name(self, group: str) -> str:
        """What a tag calls a group."""
        if group not in self._named:
            if len(self._named) >= NAMED:
                return OTHERS
            self._named.add(group)
        return group

    def _record_groups(self, now: float) -> Iterator[None]:
        groups, recorder = self._membership.groups, self._recorder
        others, lags = 0, dict.fromkeys(self._lagging, 0.0)
        for name in list(groups):
            if (group := groups.get(name)) is None:
                continue
            tag, handoff = self._name(name), group.handoff(now)
            if tag == name:
                recorder.set("members", len(group.members), group=name)
            else:
                others += len(group.members)
            if handoff is not None:
                lags[tag] = max(lags.get(tag, 0.0), handoff["seconds"])
            yield
        if len(groups) > NAMED:
            recorder.set("members", others, group=OTHERS)
        for tag, seconds in lags.items():
            recorder.set("longest_lag_seconds", seconds, group=tag)
            yield
        self._lagging = {tag for tag, seconds in lags.items() if seconds}
        for name in (self._named | self._epochs.keys()) - groups.keys():
            if name in self._named:  # else the last value would stay for a while
                recorder.set("members", 0, group=name)
            self._named.discard(name)
            self._epochs.pop(name, None)
            yield

    def _record_locks(self, now: float) -> Iterator[None]:
        before, self._waiting_since = self._waiting_since, {}
        locks, leaders = self._membership.locks.locks, leader_name("")
        for name in list(locks):
            if name in locks and not name.startswith(leaders) and slot_of(name) is None:
                for claim in locks[name].waiters:
                    ticket = (claim.key, claim.ticket)
                    self._waiting_since[ticket] = before.get(ticket, now)
            yield
        longest = now - min(self._waiting_since.values(), default=now)
        self._recorder.set("lock_waiters", len(self._waiting_since))
        self._recorder.set("lock_wait_seconds", longest)

    def _record_fleets(self, now: float) -> Iterator[None]:
        recorder, before, self._restarts = self._recorder, self._restarts, {}
        for name, fleet in list(self._fleets.noted(now).items()):
            tags = {"group": fleet.group, "fleet": name}
            recorder.set("fleet_size", fleet.size, **tags)
            recorder.set("fleet_serving", fleet.serving, **tags)
            recorder.set("fleet_ready", int(fleet.ready), **tags)
            recorder.set("fleet_updating", int(fleet.updating), **tags)
            recorder.set("fleet_update_failed", int(fleet.update_failed), **tags)
            if fleet.load is not None:
                recorder.set("fleet_load", fleet.load, **tags)
            recorded = before.get(name, 0)
            recorder.add("fleet_restarts", fleet.counted - (recorded if recorded <= fleet.counted else 0), **tags)
            self._restarts[name] = fleet.counted
            yield

    def _record_numbers(self, now: float) -> None:
        membership, load, recorder = self._membership, self._load, self._recorder
        recorder.add("heartbeats", load.heartbeats - self._heartbeats)
        self._heartbeats = load.heartbeats
        recorder.set("held_calls", len(self._held))
        recorder.set("lateness_seconds", load.late())
        recorder.set("step_seconds", load.longest_step())
        recorder.set("sessions", len(membership.sessions))
        recorder.set("max_members", membership.settings.max_members)
        recorder.set("groups", len(membership.groups))
        recorder.set("recovering", int(membership.recovering(now)))
