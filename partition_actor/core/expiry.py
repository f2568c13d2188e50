"""The partition actor's leases and what time brings: leases end, recovery ends, epochs are published.

The rules named in comments are those of ``docs/guarantees.md``. Pure: `now` is seconds on the partition actor's clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.group_watchers import Watchers
from partition_actor.core.lock_table import LockTable
from partition_actor.core.messages import COUNTER_BITS, Epoch, SessionKey
from partition_actor.core.reports import ReportState
from partition_actor.core.timers import Alarms, LeaseQueue
from partition_actor.settings import Settings


@dataclass(slots=True)
class SessionRecord:
    """What the partition actor knows of one life of one process under one member id."""

    key: SessionKey
    joined_at: float
    seq: int = -1
    received: float = 0.0
    """When its latest request came."""
    interval: float = 0.0
    """Seconds between two heartbeats, as far as the member knows."""
    lease: float = 0.0
    """Seconds of lease that its latest request is worth."""
    settled: int | None = None
    """The `seq` of its latest whole request, when all was well: one that says the same is a mere sign of life."""
    unclear: bool = False
    """What it refers to is not known here, or no longer as it has ended: its next request has to be whole."""
    groups: set[str] = field(default_factory=set)
    standings: dict[str, ReportState] = field(default_factory=dict)
    """By group, what came of the latest request."""
    stated: dict[str, Any] = field(default_factory=dict)
    """Its latest whole request."""
    drained: dict[str, int] = field(default_factory=dict)
    """By group: joins asked for up to this `seq` do not count, an operator has drained the member."""
    prompt: bool = False
    """Its latest request is to be answered at once."""
    barred: bool = False
    """An operator has forgotten it in an exclusive group: no lease any more; it may come back after it."""

    @property
    def stated_at(self) -> int:
        """The `seq` of its latest whole request; -1 before the first."""
        return int(self.stated.get("seq", -1))

    @property
    def want_views(self) -> bool:
        """Whether it must tell its views before it gets a lease."""
        return any(standing.want_views for standing in self.standings.values())

    @property
    def resync(self) -> bool:
        """Whether its next request is wanted at once."""
        return any(standing.resync for standing in self.standings.values())


class Expiry(ABC):
    """Sessions, their leases, and the epochs of their groups. See ``Membership``."""

    def __init__(
        self,
        settings: Settings,
        incarnation: int,
        now: float,
        *,
        first: bool = False,
        restarted: bool = False,
    ) -> None:
        self.settings = settings
        self.incarnation = incarnation
        self.started_at = now
        self.restarted = restarted
        self.groups: dict[str, Group] = {}
        self.sessions: dict[SessionKey, SessionRecord] = {}
        self.watchers = Watchers()
        self.interval: float
        """Seconds between two heartbeats of a member, at about the present number of members."""
        self.ttl: float
        """Length in seconds of a lease granted now."""
        self._lease: float
        """The same, with the margin for clock rates."""
        self._set_pace()
        self._ended: OrderedDict[SessionKey, float] = OrderedDict()
        """Sessions that are over; a late message of theirs must not take a successor's place."""
        self._counter = 0
        self._leases: LeaseQueue[SessionKey] = LeaseQueue()
        self._overdue: dict[SessionKey, float] = {}
        """Sessions of exclusive groups whose lease was found to have ended, and when: see `_end_overdue`."""
        self._proof: float | None = None
        self._doubted: tuple[int, float] | None = None
        self._last_tick = now
        self._due = now
        """Before that moment, `tick` found when it last ran, it has nothing to do but what calls bring."""
        self.stalled = 0.0
        self._next_sweep = now
        self.kept: set[str] = set()
        """Groups that somebody made for good: they are not forgotten for being empty."""
        self._news: set[SessionKey] = set()
        self.locks = LockTable(self._news)
        self._dirty: dict[str, Group] = {}
        self._alarms: Alarms[str] = Alarms()
        """When a group has an epoch to publish or something to tell."""
        self._recovery_end = None if first and not restarted else now + self._grace(settings.max_ttl)
        self._waited_at: float | None = None
        """When the wait of rule 7 was found to be over."""

    def prove(self, at: float) -> None:
        """The GCS counted this partition actor's node alive at or after `at`: rule 8."""
        self._proof = at if self._proof is None else max(self._proof, at)

    def proven_since(self, at: float) -> bool:
        """Whether the last proof is not older than `at`."""
        return self._proof is not None and self._proof >= at

    def _set_pace(self) -> None:
        """For a number of members rounded up by a sixteenth at most: so there are few lengths of leases at a time."""
        members = len(self.sessions)
        step = 1 << max(0, members.bit_length() - 5)
        members = min(-(-members // step) * step, self.settings.max_members)
        self.interval = self.settings.interval_for(members)
        self.ttl = self.settings.ttl_for(members)
        self._lease = self._grace(self.ttl)

    def lease_left(self, now: float, key: SessionKey) -> float:
        """Seconds until the lease of a session is over as the partition actor counts, its margin included."""
        return max(0.0, self._leases.end(key) - self._run(now)) if key in self._leases else 0.0

    def recovering(self, now: float) -> bool:
        """Whether this partition actor still waits for the leases of a former one to end."""
        return self._recovery_end is not None and self._run(now) < self._recovery_end

    def tick(self, now: float) -> None:
        """Do what is due: end leases, end the recovery, publish epochs."""
        self._mind_stall(now)
        run = self._run(now)
        self._overdue.update(dict.fromkeys(self._leases.expire(run), now))
        if self._overdue:
            self._end_overdue(now)
        if self._recovery_end is not None and run >= self._recovery_end:
            self._end_recovery(now)
        self._set_alarms(now)
        for name in self._alarms.ring(now):
            if name in self.groups:
                self._see_to(self.groups[name], now)
        self._set_alarms(now)
        if self.locks.due and self._recovery_end is None:
            self.locks.grant(self._may_hold, self._next_epoch)
        if now >= self._next_sweep:
            self._next_sweep = now + self.settings.ttl
            self._sweep(now)
        self._due = min(self.deadline(), self._next_sweep)

    def _set_alarms(self, now: float) -> None:
        for group in self._dirty.values():
            group.tell_untold(now)
            self._alarms.set(group.name, group.due)
        self._dirty.clear()

    def _see_to(self, group: Group, now: float) -> None:
        due = group.publish_due
        if due is not None and due <= now:
            group.publish(self._next_epoch(), now)
            self._news.update(self.watchers.of(group.name))
        group.tell_untold(now)
        self._alarms.set(group.name, group.due)

    @abstractmethod
    def _may_hold(self, key: SessionKey) -> bool:
        """Whether the next reply to a session brings a lease, without which a lock is of no use to it."""

    def _end_overdue(self, now: float) -> None:
        """End the sessions whose lease is over; those of exclusive groups once this partition actor is proven (rule 8).

        Until then a later partition actor may have renewed the lease.
        """
        for key, since in list(self._overdue.items()):
            groups = [self.groups[name] for name in self.sessions[key].groups if name in self.groups]
            plain = key not in self.locks and not any(group.exclusive for group in groups)
            if plain or self.proven_since(since):
                self._end(key, now)

    def _end_recovery(self, now: float) -> None:
        if self._waited_at is None:
            self._waited_at = now
        proven = self.proven_since(self._waited_at)
        for group in self.groups.values():
            if group.recovering and (proven or not group.exclusive):
                group.recovered(now)
        if proven:
            self._recovery_end = None

    def deadline(self) -> float:
        """When `tick` has something to do next at the latest, on the partition actor's clock."""
        moments = [self._last_tick + self.settings.hold / 2]
        wait = self._recovery_end if self._waited_at is None else None
        moments += [at + self.stalled for at in (self._leases.next_end(), wait) if at is not None]
        if (alarm := self._alarms.next()) is not None:
            moments.append(alarm)
        return min(moments)

    def take_news(self) -> set[SessionKey]:
        """The sessions that something has changed for since the last call."""
        news = set(self._news)
        self._news.clear()
        for key in news & self.sessions.keys():
            self.sessions[key].settled = None
        return news

    def _next_epoch(self) -> Epoch:
        self._counter += 1
        if self._counter >> COUNTER_BITS:
            self.incarnation, self._counter = self.incarnation + 1, 1
        return (self.incarnation, self._counter)

    def _grace(self, term: float) -> float:
        return term * (1 + self.settings.clock_rate_margin)

    def _run(self, now: float) -> float:
        """The time that this partition actor has really been running: leases do not end while it is stopped."""
        return now - self.stalled

    def _mind_stall(self, now: float) -> None:
        """A partition actor that was itself stopped must not expire those whose heartbeats lie unread in its queue."""
        idle = now - self._last_tick
        if idle > self.settings.hold:
            self.stalled += idle
        self._last_tick = max(now, self._last_tick)

    # -- leases -------------------------------------------------------------------------------------------------

    def _renew(self, now: float, key: SessionKey, session: SessionRecord) -> None:
        """Rule 1. What rule 8 takes off the lease is known when the reply is made."""
        refused = session.barred or self._fenced(now, key, session)
        session.received, session.lease = now, 0.0 if refused else self.ttl
        if not refused:
            self._overdue.pop(key, None)
        if not refused or (key not in self._leases and key not in self._overdue):
            self._leases.renew(key, self._run(now), self._lease)

    def _fenced(self, now: float, key: SessionKey, session: SessionRecord) -> bool:
        """Rule 6: a hand-off that takes too long ends the lease of the one that holds it up."""
        lagging = [self.groups[name].lagging_since(key) for name in session.groups if name in self.groups]
        for since in (*lagging, self.locks.broken_since(key)):
            if since is not None and now > since + max(self.settings.handoff_timeout, self.interval):
                return True
        return False

    def _end(self, key: SessionKey, now: float) -> None:
        session = self.sessions.pop(key, None)
        if session is None:
            return
        session.unclear, session.settled = True, None
        self._set_pace()
        self._leases.drop(key)
        self._overdue.pop(key, None)
        self.locks.end(key)
        self._ended[key] = now
        self.watchers.watch(key, frozenset())
        for name in sorted(session.groups):
            if name in self.groups:
                self.groups[name].drop_seat(key, now)
        self._news.add(key)

    def _sweep(self, now: float) -> None:
        keep = 2 * self._grace(self.settings.max_ttl)
        while self._ended and next(iter(self._ended.values())) + keep < now:
            self._ended.popitem(last=False)
        for name, group in list(self.groups.items()):
            unused = not (group.seats or group.joiners or group.recovering or group.dirty_since is not None)
            if unused and name not in self.kept and group.empty_since is not None and now > group.empty_since + keep:
                del self.groups[name]
