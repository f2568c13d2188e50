"""The partition actor's state machine: sessions, their leases, the groups and their epochs.

Every method takes `now`, seconds on the partition actor's clock. An event ends with `tick`, which does what has become
due; much of it in several steps, so that no event takes long. ``driver`` carries the answers out. The rules named in
comments are those of ``docs/guarantees.md``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any

from partition_actor.core.epochs import COUNTER_BITS, Epoch
from partition_actor.core.events import Cause, Events, Where, Why, why
from partition_actor.core.group import Group, Report, ReportState
from partition_actor.core.group_watchers import GroupWatchers
from partition_actor.core.handoff import Participant
from partition_actor.core.lock_table import LockChange, LockChangeKind, LockClaim, LockTable
from partition_actor.core.messages import (
    WHOLE,
    GroupEntry,
    GroupReport,
    Reply,
    Request,
    SessionKey,
    ShortRequest,
    Slot,
    ViewMessage,
    check_same_mode,
    leader_name,
    slot_of,
)
from partition_actor.core.timers import LeaseQueue, Timers
from partition_actor.errors import GroupFull, GroupNotFound, MemberNotFound, PartitionActorUnavailable
from partition_actor.settings import Settings

STEP = 250
"""Participants of the groups whose epochs one `tick` publishes, about: some milliseconds of work."""
TOLD_AT_ONCE = 64
"""Groups of which one reply tells. The next reply, which comes at once, tells of others."""
MEMBERS_COMPARED = 4
"""Members of two rings whose comparison, which works out a hand-off, takes as long as telling of a group."""


@dataclass(slots=True)
class SessionRecord:
    """What the partition actor knows of one session."""

    key: SessionKey
    joined_at: float
    seq: int = -1
    received: float = 0.0
    """When its latest request came."""
    interval: float = 0.0
    """Seconds between two heartbeats, as far as the member knows."""
    lease: float = 0.0
    """Seconds of lease that its latest request is worth."""
    steady: int | None = None
    """The `seq` of its latest whole request, if all was well then: one that says the same only renews the lease."""
    needs_resync: bool = False
    """Its latest request refers to one that is unknown here, or the session has ended: the next has to be whole."""
    groups: set[str] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)
    """Groups in which it holds up a hand-off for too long, so that its lease there is not renewed (rule 6)."""
    fence_at: float = 0.0
    """Until then it holds up no hand-off for too long."""
    states: dict[str, ReportState] = field(default_factory=dict)
    """By group, what came of its latest report."""
    reports: dict[str, GroupReport] = field(default_factory=dict)
    """By group, its latest report."""
    unsettled: dict[str, None] = field(default_factory=dict)
    """Groups in which not everything is as the session wants and knows it: only these are looked at again. Of those
    that come first it was told least recently."""
    whole: Request | None = None
    """Its latest whole request."""
    drained: dict[str, int] = field(default_factory=dict)
    """By group: joins asked for up to this `seq` do not count, since an operator has drained the member."""
    prompt: bool = False
    """Its latest request is to be answered at once."""
    held: bool = False
    """Its latest request is held, to be answered when there is news."""
    barred: bool = False
    """An operator has forgotten it in an exclusive group: it gets no lease any more, and may come back after that."""
    where: Where = field(default_factory=Where)
    waits: dict[str, bool] = field(default_factory=dict)
    """Groups in which it wants a place and gets none while its node drains, and whether it had one before."""
    stays: bool = False
    """It is being replaced, and keeps its place on a draining node meanwhile."""
    ending: frozenset[str] = frozenset()
    """Groups whose ring it left because its process is about to end."""

    def watches(self, group: str) -> bool:
        """Whether it follows a group without being a member."""
        return group in self.reports and self.reports[group]["want"] == "watch"

    @property
    def resync(self) -> bool:
        """Whether it is to send its next request at once."""
        return any(self.states[name].resync for name in self.looked_at())

    def looked_at(self) -> list[str]:
        """The groups of which a reply may have something to say."""
        return [name for name in self.unsettled if name in self.states]


UNKNOWN_SESSION = SessionRecord(("", ""), joined_at=0.0, needs_resync=True)
"""In place of one that is not known: it is to say everything."""


class Membership:
    """Groups, sessions and leases of one partition actor.

    `incarnation` is higher than that of every partition actor of this name before. `restarted` says that there was one,
    so nobody is admitted for one longest lease (rule 7). `first` says that there was none for certain. A partition
    actor that is neither waits in exclusive groups only. `longest` is the longest lease that one before may have
    granted, in seconds; None: nobody knows. `records`: the longest lease is recorded before it is granted; see `prove`.
    `settings_version`: how often the settings have changed. `longest_told`: the longest ttl of all settings before.
    `state`: what the one before has handed over, by `state`; with it nobody waits, and nothing is forgotten (rule 13).
    """

    def __init__(
        self,
        settings: Settings,
        incarnation: int,
        now: float,
        *,
        first: bool = False,
        restarted: bool = False,
        longest: float | None = None,
        records: bool = False,
        settings_version: int = 0,
        longest_told: float = 0.0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.settings_version = settings_version
        self.longest_told = max(settings.ttl, longest_told)
        """Seconds: the longest ttl by which a bare caller may work; nobody tells it that it has become shorter."""
        self.incarnation = incarnation
        self.started_at = now
        self.restarted = restarted
        self.groups: dict[str, Group] = {}
        self.sessions: dict[SessionKey, SessionRecord] = {}
        self.watchers = GroupWatchers()
        self.longest_allowed = self.longest_told if records else max(self.longest_told, settings.max_ttl)
        """Seconds: no lease is longer. A longer one has first to be recorded, and the record to be proven."""
        self.longest_wanted: float
        """Seconds: the lease for the present number of members, to be recorded if it is longer than is allowed."""
        self._least_wanted = 0.0
        self.interval: float
        """Seconds between two heartbeats of a member, at about the present number of members."""
        self.ttl: float
        """Length in seconds of a lease granted now."""
        self._lease: float
        """The same, with the margin for clock rates."""
        self._bare_lease: float
        """The same of a bare caller."""
        self._set_pace()
        self._ended: OrderedDict[SessionKey, float] = OrderedDict()
        """When each session ended; a late message of theirs must not take a successor's id over."""
        self.dead: set[SessionKey] = set()
        """Those of them that were closed, or whose process is dead: a late message does not bring them back at all."""
        self._unheard: set[SessionKey] = set()
        """Sessions that were handed over and have yet to be told that their lease is renewed. They are told at once."""
        self._counter = 0
        self._leases: LeaseQueue[SessionKey] = LeaseQueue()
        self._gone: dict[SessionKey, tuple[SessionRecord, list[str], Cause]] = {}
        """Sessions of dead processes, the groups that they have yet to be taken out of, and why they ended."""
        self._draining: dict[str, float | None] = {}
        """The nodes that are draining, and when each ends at the latest, if that is known."""
        self._stays_until: dict[str, float] = {}
        """By draining node: until then those that are being replaced keep their places there."""
        self._to_drain: dict[str, None] = {}
        """Groups in which members on draining nodes may still have to be taken off the ring."""
        self._overdue: dict[SessionKey, float] = {}
        """Sessions whose lease was found to have ended, and when: see `_end_overdue`."""
        self._fences: Timers[tuple[SessionKey, str]] = Timers()
        """When the lease of a fenced session is over in a group, in seconds that this partition actor has run."""
        self._overdue_fences: dict[tuple[SessionKey, str], float] = {}
        """Those that were found to be over, and when."""
        self._proof: float | None = None
        self._doubted: tuple[int, float] | None = None
        self._last_tick = now
        self._due = now
        """Until then, as the last `tick` found, nothing is to be done but what events bring."""
        self.stalled = 0.0
        """Seconds for which the partition actor did not run; leases do not end meanwhile."""
        self._next_sweep = now
        self.kept: set[str] = set()
        """Groups that somebody made by hand: they are not forgotten for being empty."""
        self._news: set[SessionKey] = set()
        self.is_ending = False
        """It has withdrawn every lease, and grants none any more: rule 11."""
        self._out: list[SessionKey] = []
        """While ending: the sessions whose lease may be out, or has ended since."""
        self.events = Events(incarnation, self._where)
        self._lock_changes: list[LockChange] = []
        self.locks = LockTable(self._news, self._lock_changes)
        self._changed: dict[str, Group] = {}
        self._timers: Timers[str] = Timers()
        """When a group has an epoch to publish or something to tell."""
        wait = self._grace(settings.max_ttl if longest is None else longest)
        self._recovery_end = None if (first and not restarted) or state is not None else now + wait
        self._waited_at: float | None = None
        """When the wait of rule 7 was found to be over."""
        self._former_end = now if self._recovery_end is None else self._recovery_end
        """When every lease is over that a former partition actor has granted, in seconds that this one has run."""
        if state is not None:
            started: Why = ("it goes on for a former one, with {} sessions", len(state["sessions"]))
            self._restore(state, now)
        elif self._recovery_end is None:
            started = ("no lease of a former partition actor can be out",)
        else:
            started = ("it waits {:.1f} s for leases that a former partition actor may have granted", wait)
        self.events.record(now, Cause("started", started))

    def _where(self, key: SessionKey) -> Where | None:
        session = self.sessions.get(key) or self._gone.get(key, (None,))[0]
        return None if session is None else session.where

    # -- time ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due: end leases, end the recovery, publish epochs, grant locks.

        Of many epochs it publishes some; `deadline` then asks for the next call at once, after what else is waiting.
        """
        self._mind_stall(now)
        run = self._run(now)
        self._overdue.update(dict.fromkeys(self._leases.expire(run), now))
        self._overdue_fences.update(dict.fromkeys(self._fences.fire(run), now))
        if self._overdue or self._overdue_fences:
            self._end_overdue(now)
        if self._recovery_end is not None and run >= self._recovery_end:
            self._end_recovery(now)
        self._remove_gone(now)
        self._mind_stays(now)
        self._drain_some(now)
        self._set_timers(now)
        work = 0
        while work < STEP and (name := self._timers.pop(now)) is not None:
            if name in self.groups:
                work += 1 + len(self.groups[name].participants)
                self._publish(self.groups[name], now)
        self._set_timers(now)
        if self.locks.due and self._recovery_end is None:
            self.locks.grant(self._may_hold, self._next_epoch)
        if self._lock_changes:
            self._record_locks(now)
        if now >= self._next_sweep:
            self._next_sweep = now + self.settings.ttl
            self._sweep(now)
        self._due = min(self.deadline(), self._next_sweep)

    def deadline(self) -> float:
        """When to call `tick` next at the latest, on the partition actor's clock."""
        moments = [self._last_tick + self.settings.hold / 2]
        wait = self._recovery_end if self._waited_at is None else None
        moments += [at + self.stalled for at in (self._leases.next_end(), self._fences.next(), wait) if at is not None]
        if (timer := self._timers.next()) is not None:
            moments.append(timer)
        moments += self._stays_until.values()
        if self._changed or self._gone or self._to_drain:
            moments.append(self._last_tick)
        return min(moments)

    def _set_timers(self, now: float) -> None:
        """Take in what has changed in some groups; the next `tick` takes in others."""
        for name in list(islice(self._changed, STEP)):
            group = self._changed.pop(name)
            if group.handed_over:
                group.record_handoffs(now)
            group.tell_waiting(now)
            self._timers.set(name, group.due)

    def _publish(self, group: Group, now: float) -> None:
        due = group.publish_due
        if due is not None and due <= now:
            self._take_off_draining(group, now)
            group.publish(self._next_epoch(), now)
            self._news.update(self.watchers.of(group.name))
        group.tell_waiting(now)
        self._timers.set(group.name, group.due)

    def _mind_stall(self, now: float) -> None:
        """A partition actor that was itself stopped must not expire those whose heartbeats lie unread in its queue."""
        late = now - self._last_tick - self.settings.hold / 2  # `deadline` asks for a tick by then
        harmless = max(self.settings.hold / 2, self.settings.ttl / 8)  # costs nobody its lease
        if late > harmless:
            self.stalled += late - harmless
        self._last_tick = max(now, self._last_tick)

    def _run(self, now: float) -> float:
        """Seconds for which this partition actor has really run."""
        return now - self.stalled

    def _sweep(self, now: float) -> None:
        keep = 2 * self._grace(max(self.settings.max_ttl, self.longest_allowed))
        while self._ended and next(iter(self._ended.values())) + keep < now:
            self.dead.discard(self._ended.popitem(last=False)[0])
        for name, group in list(self.groups.items()):
            unused = not (group.participants or group.joiners) and group.is_published
            if unused and name not in self.kept and group.empty_since is not None and now > group.empty_since + keep:
                del self.groups[name]

    def _next_epoch(self) -> Epoch:
        self._counter += 1
        if self._counter >> COUNTER_BITS:
            self.incarnation, self._counter = self.incarnation + 1, 1
        return (self.incarnation, self._counter)

    # -- rule 8: the proof that this is the latest partition actor ------------------------------------------------

    def prove(self, at: float, recorded: float = 0.0) -> None:
        """The GCS counted this partition actor's node alive at or after `at`, and had a lease of `recorded` on record.

        So the next partition actor, which starts later, reads that record.
        """
        self._proof = at if self._proof is None else max(self._proof, at)
        self._news.update(self._unheard)
        if recorded > self.longest_allowed:
            self.longest_allowed = recorded
            self._set_pace()

    def proven_since(self, at: float) -> bool:
        """Whether the last proof is not older than `at`."""
        return self._proof is not None and self._proof >= at

    def _advance_incarnation(self, now: float, incarnation: int) -> None:
        """Go beyond the `incarnation` of a predecessor whose clock was ahead of ours.

        Beyond a successor's it must not go, for that one has taken this one's place. A proof from after this one first
        heard of the incarnation tells the two apart.
        """
        if self._doubted is None or self._doubted[0] < incarnation:
            self._doubted = (incarnation, now)
        if not self.proven_since(self._doubted[1]):
            raise PartitionActorUnavailable(
                f"this partition actor (incarnation {self.incarnation}) must first make sure that it is still the "
                f"latest: this member has heard of {incarnation}"
            )
        self.incarnation, self._counter = incarnation + 1, 0

    # -- rule 7: after a restart ----------------------------------------------------------------------------------

    def recovering(self, now: float) -> bool:
        """Whether this partition actor still waits for the leases of a former one to end."""
        return self._recovery_end is not None and self._run(now) < self._recovery_end

    @property
    def locks_unknown(self) -> bool:
        """Whether somebody may hold a lock that this partition actor has not heard of."""
        return self._recovery_end is not None

    def former_are_over(self, now: float) -> bool:
        """Whether every lease is over that a former partition actor has granted."""
        return self._run(now) >= self._former_end

    def _end_recovery(self, now: float) -> None:
        if self._waited_at is None:
            self._waited_at = now
        proven = self.proven_since(self._waited_at)
        for group in self.groups.values():
            if group.recovering and (proven or not group.exclusive):
                group.recovered(now)
        if proven and self._recovery_end is not None:
            self._recovery_end = None
            over = ("every lease of a former partition actor is over",)
            self.events.record(now, Cause("recovered", over, now - self.started_at))

    # -- rule 13: the state that the next partition actor goes on with ---------------------------------------------

    def state(self, now: float) -> dict[str, Any]:
        """All that is known, as builtins, for the next partition actor. This one must do nothing after it.

        Times are ages, or what is left, in seconds: the next one may be on another clock. It must not recover: nobody
        knows yet what survivors hold. Raises ``PartitionActorUnavailable`` while it ends.
        """
        self._refuse_if_ending()
        assert self._recovery_end is None
        self.tick(now)
        self._sweep(now)
        while self._gone:
            self._remove_gone(now)
        for group in self.groups.values():
            if not group.is_published:
                group.publish(self._next_epoch(), now)
                self._news.update(self.watchers.of(group.name))
            group.record_handoffs(now)
        leases = {**dict.fromkeys(self._overdue, 0.0), **self._leases.left(self._run(now))}
        return {
            "incarnation": self.incarnation,
            "settings": self.settings.to_dict(),
            "settings_version": self.settings_version,
            "longest_told": self.longest_told,
            "former": max(self._grace(self.longest_allowed), self._former_end - self._run(now)),
            "sessions": [self._session_state(now, session, leases) for session in self.sessions.values()],
            "ended": [(key, now - at, key in self.dead) for key, at in self._ended.items()],
            "groups": {name: group.state(now) for name, group in self.groups.items()},
            "kept": sorted(self.kept),
            "draining": self.draining_nodes(now),
            "stays_until": {node: at - now for node, at in self._stays_until.items()},
            "locks": self.locks.state(now),
            "events": self.events.state(now),
        }

    def _session_state(self, now: float, session: SessionRecord, leases: Mapping[SessionKey, float]) -> dict[str, Any]:
        fenced = {name: self._fences.moment((session.key, name)) for name in session.fenced}
        return {
            "key": session.key,
            "age": now - session.joined_at,
            "seq": session.seq,
            "received": now - session.received,
            "interval": session.interval,
            "lease": session.lease,
            "left": leases.get(session.key),
            "groups": sorted(session.groups),
            "unsettled": [name for name in session.unsettled if name in session.groups],
            "fenced": {name: 0.0 if at is None else max(0.0, at - self._run(now)) for name, at in fenced.items()},
            "drained": dict(session.drained),
            "barred": session.barred,
            "waits": dict(session.waits),
            "stays": session.stays,
            "where": (session.where.node, session.where.pid),
            "ending": sorted(session.ending),
        }

    def _restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with the `state` of the former partition actor."""
        self.events.restore(state["events"], now)
        self.incarnation = max(self.incarnation, state["incarnation"] + 1)
        self.settings_version = state["settings_version"] + (self.settings.to_dict() != state["settings"])
        self.longest_told = max(self.longest_told, state["longest_told"])
        self.longest_allowed = max(self.longest_allowed, self.longest_told)  # it is recorded before the first proof
        self._former_end = now + state["former"]
        for each in state["sessions"]:
            key = tuple(each["key"])
            session = self.sessions[key] = SessionRecord(key, now - each["age"], each["seq"], now - each["received"])
            session.interval, session.lease, session.barred = each["interval"], each["lease"], each["barred"]
            if session.seq >= 0:  # what its requests refer to is not handed over
                session.needs_resync = True
                self._unheard.add(key)
            session.groups, session.unsettled = set(each["groups"]), dict.fromkeys(each["unsettled"])
            session.drained, session.ending = each["drained"], frozenset(each["ending"])
            session.waits, session.stays = dict(each.get("waits", {})), each.get("stays", False)
            session.where = Where(*each["where"])
            session.fenced = set(each["fenced"])
            for name, left in each["fenced"].items():
                self._fences.set((key, name), now + left)
            if each["left"] is not None:
                step = self._lease / 16  # few lengths of leases: see ``LeaseQueue``
                self._leases.renew(key, now, step * ceil(each["left"] / step))
        for key, age, is_dead in state["ended"]:
            self._ended[tuple(key)] = now - age
            if is_dead:
                self.dead.add(tuple(key))
        for name, each in state["groups"].items():
            group = self.groups[name] = Group(
                name, each["exclusive"], self.settings, self._note, self._changed, now, self.events
            )
            group.restore(each, now)
        self.kept = set(state["kept"])
        draining: Mapping[str, float | None] = state.get("draining", {})
        self._draining = {node: None if left is None else now + left for node, left in draining.items()}
        self._stays_until = {node: now + left for node, left in state.get("stays_until", {}).items()}
        self._to_drain = dict.fromkeys(self.groups if draining else ())
        self.locks.restore(state["locks"], now)
        self._set_pace()

    # -- rule 11: the end in good order ---------------------------------------------------------------------------

    def end(self, now: float) -> None:
        """Withdraw every lease, and grant none any more. May be repeated."""
        if not self.is_ending:
            self.is_ending = True
            told = ("it was told to end, and has withdrawn the leases of {} sessions", len(self.sessions))
            self.events.record(now, Cause("ending", told))
            self._out = [key for key in self.sessions if self._is_out(key)]
            for session in self.sessions.values():
                session.lease, session.steady = 0.0, None
            self._news.update(self.sessions)
        self.tick(now)

    def is_settled(self) -> bool:
        """Whether every lease in exclusive groups is over that this partition actor, or one before it, has granted."""
        while self._out and not self._has_yet_to_let_go(self._out[-1]):
            self._out.pop()
        return self.is_ending and not self._out and (self._recovery_end is None or self._waited_at is not None)

    def settles_within(self, now: float) -> float:
        """Seconds after which `is_settled` at the latest, unless this partition actor is itself stopped."""
        wait = self._recovery_end if self._waited_at is None else None
        left = [self.lease_left(now, key) for key in self._out]
        return max(left + ([] if wait is None else [wait - self._run(now)]), default=0.0)

    def _is_out(self, key: SessionKey) -> bool:
        return key in self._leases and not self._is_plain(key)

    def _has_yet_to_let_go(self, key: SessionKey) -> bool:
        """Whether a session that was out is so still. A member out of its groups may still work there: its leases are
        withdrawn, so it acknowledges everything."""
        return key in self._leases and (self.sessions[key].seq >= 0 or not self._is_plain(key))

    def _is_plain(self, key: SessionKey) -> bool:
        """Whether a session is in no exclusive group, and neither holds nor waits for a lock."""
        names = self.sessions[key].groups if key in self.sessions else ()
        return key not in self.locks and not any(name in self.groups and self.groups[name].exclusive for name in names)

    def _refuse_if_ending(self) -> None:
        if self.is_ending:
            raise PartitionActorUnavailable(
                "this partition actor is being shut down, and grants no lease any more: look its name up again later"
            )

    def _open(self, name: str, exclusive: bool | None, now: float) -> Group:
        # A join that names no mode may mean an exclusive group that has outlived the former partition actor.
        may_be_exclusive = exclusive or (exclusive is None and self._waited_at is None)
        waits = self._recovery_end is not None and (may_be_exclusive or (self.restarted and self._waited_at is None))
        group = self.groups[name] = Group(name, exclusive, self.settings, self._note, self._changed, now, self.events)
        group.recovering = waits
        return group

    # -- leases (rules 1, 5 and 6) --------------------------------------------------------------------------------

    def lease_left(self, now: float, key: SessionKey) -> float:
        """Seconds until the lease of a session is over here, the margin included."""
        return max(0.0, self._leases.end(key) - self._run(now)) if key in self._leases else 0.0

    def _set_pace(self) -> None:
        """For a number of members rounded up by a sixteenth at most, so that there are few lengths of leases."""
        members = len(self.sessions)
        step = 1 << max(0, members.bit_length() - 5)
        members = min(-(-members // step) * step, self.settings.max_members)
        self.interval = self.settings.interval_for(members)
        self.ttl = self.settings.ttl_for(members)
        self.longest_wanted = max(self.ttl, self._least_wanted)
        if self.ttl > self.longest_allowed:
            self.ttl = self.longest_allowed
            self.interval = self.settings.hold * (self.ttl / self.settings.ttl)
        self._lease = self._grace(self.ttl)
        self._bare_lease = self._grace(max(self.ttl, self.longest_told))

    def want_lease(self, seconds: float) -> None:
        """Have a lease of so many seconds recorded, whether or not one is granted."""
        self._least_wanted = max(self._least_wanted, seconds)
        self._set_pace()

    def configure(self, now: float, settings: Settings, version: int) -> None:
        """Go on with other settings, which ``Settings.changed`` allows: leases granted before run on as they were.

        Their ttl must be allowed by now: bare callers are told of it. `version`: how often the settings have changed.
        Raises ``PartitionActorUnavailable`` while it ends.
        """
        self._refuse_if_ending()
        assert settings.ttl <= self.longest_allowed
        self._mind_stall(now)
        before, self.settings, self.settings_version = self.settings.to_dict(), settings, version
        for group in self.groups.values():
            group.settings = settings
        changes = ", ".join(
            f"{name} from {before[name]} to {value}"
            for name, value in settings.to_dict().items()
            if value != before[name]
        )
        self.events.record(now, Cause("settings", ("{}", changes)))
        self.longest_told = max(self.longest_told, settings.ttl)
        self._set_pace()
        self.tick(now)

    def bare_lease_over(self, received: float) -> float:
        """When the lease that a bare caller's call of then was worth is over for certain, on this actor's clock."""
        return received + self._bare_lease

    def _grace(self, lease: float) -> float:
        return lease * (1 + self.settings.clock_rate_margin)

    def _renew(self, now: float, key: SessionKey, session: SessionRecord) -> None:
        """Rule 1. What rule 8 takes off the lease is known when the reply is made."""
        if self.is_ending:
            session.received = now
            return
        self._fence(now, key, session)
        refused = session.barred or self._is_late(now, self.locks.broken_since(key))
        session.received, session.lease = now, 0.0 if refused else self.ttl
        if not refused:
            self._overdue.pop(key, None)
        if not refused or (key not in self._leases and key not in self._overdue):
            self._leases.renew(key, self._run(now), self._bare_lease if session.whole is None else self._lease)

    def _fence(self, now: float, key: SessionKey, session: SessionRecord) -> None:
        """Rule 6: a hand-off that takes too long ends the lease, in that group, of the one that holds it up."""
        if now < session.fence_at and not session.fenced:
            return
        looked_at = (session.unsettled.keys() | session.fenced) & session.groups
        lagging = {name: since for name in looked_at if (since := self._lagging_since(key, session, name)) is not None}
        session.fence_at = min(lagging.values(), default=now) + self.settings.handoff_timeout
        late = {name for name, since in lagging.items() if self._is_late(now, since)}
        for name in session.fenced - late:
            self._unfence(key, session, name)
            session.prompt = True
        for name in late - session.fenced:
            session.fenced.add(name)
            self._fences.set((key, name), self._leases.end(key) if key in self._leases else self._run(now))
            group, seconds = self.groups[name], now - lagging[name]
            late_by = ("it has held up a hand-off for {:.1f} s, so its lease here is renewed no more", seconds)
            self.events.record(now, Cause("fenced", late_by, seconds), key, name, group.epoch)

    def _lagging_since(self, key: SessionKey, session: SessionRecord, name: str) -> float | None:
        if name not in self.groups:
            return None
        # Replies tell of some groups at a time. A bare caller is told when it calls.
        return self.groups[name].lagging_since(key, once_told=name in session.states)

    def _is_late(self, now: float, since: float | None) -> bool:
        return since is not None and now > since + max(self.settings.handoff_timeout, self.interval)

    def _unfence(self, key: SessionKey, session: SessionRecord, name: str) -> None:
        session.fenced.discard(name)
        self._fences.set((key, name), None)
        self._overdue_fences.pop((key, name), None)

    def _end_overdue(self, now: float) -> None:
        """End the sessions whose lease is over, and take those out of a group whose lease is over there.

        In exclusive groups that needs a proof (rule 8): a later partition actor may have renewed the lease.
        """
        for key, since in list(self._overdue.items()):
            if self._is_plain(key) or self.proven_since(since):
                self._end(key, now)
        for (key, name), since in list(self._overdue_fences.items()):
            if self.proven_since(since):
                session = self.sessions[key]
                held_up = ("it held up a hand-off for too long, and its lease here is over",)
                cause = Cause("expired", held_up, now - session.received, session.where)
                self._leave_group(now, key, session, name, cause)

    def _admit(self, key: SessionKey, now: float, *, has_place: bool = False) -> SessionRecord:
        """A new session; one that `has_place` had it from a former partition actor, and newcomers do not take it."""
        if len(self.sessions) >= self.settings.max_members and not has_place:
            raise GroupFull(
                f"member {key[0]!r}: this partition actor serves {len(self.sessions)} sessions and its setting "
                f"max_members is {self.settings.max_members}"
            )
        session = self.sessions[key] = SessionRecord(key, joined_at=now)
        self._set_pace()
        return session

    def _end(self, key: SessionKey, now: float, cause: Cause | None = None, *, for_good: bool = False) -> None:
        """End a session; if no `cause` is given, because its lease is over.

        One that ends `for_good` leaves its groups little by little. Until then others wait for it, which is safe.
        """
        session = self.sessions.get(key)
        if session is None:
            return
        cause = (cause or self._expiry(now, session))._replace(where=session.where)
        session.needs_resync, session.steady = True, None
        self._unheard.discard(key)
        self._leases.drop(key)
        self._overdue.pop(key, None)
        self._record_locks(now)
        self.locks.end(key)
        self._record_locks(now, cause)
        self._ended[key] = now
        self._ended.move_to_end(key)
        self.watchers.watch(key, frozenset())
        if for_good:
            self._gone[key] = session, sorted(session.groups, reverse=True), cause
        else:
            for name in sorted(session.groups):
                self._leave_group(now, key, session, name, cause)
        del self.sessions[key]
        self._set_pace()
        self._news.add(key)

    def _remove_gone(self, now: float) -> None:
        for _ in range(STEP):
            if not self._gone:
                return
            key, (session, names, cause) = next(iter(self._gone.items()))
            if names:
                self._leave_group(now, key, session, names.pop(), cause)
            else:
                del self._gone[key]

    def _expiry(self, now: float, session: SessionRecord) -> Cause:
        age = now - session.received
        if self.is_ending:
            return Cause("expired", ("the partition actor ends, and it has not confirmed that it let go",), age)
        if session.barred:
            return Cause("expired", ("an operator had forgotten it, so its lease was not renewed",), age)
        if session.lease <= 0.0 and self.locks.broken_since(session.key) is not None:
            return Cause("expired", ("it has not confirmed that it lost a broken lock, so its lease has ended",), age)
        return Cause("expired", ("no heartbeat for {:.1f} s", age), age)

    def _record_locks(self, now: float, end: Cause | None = None) -> None:
        """Record what has happened to locks, leaders and slots; `end`: because a session has ended."""
        for what, claim, token in self._lock_changes:
            if (slot := slot_of(claim.name)) is not None:
                self._record_slot(now, slot, what, claim, token, end)
                continue
            leads = claim.name.startswith(leader_name(""))
            group, lock = (claim.name.removeprefix(leader_name("")), None) if leads else (None, claim.name)
            if what in ("granted", "known"):
                text = "it holds the lock, with token {}" + (", since before the start" if what == "known" else "")
                cause = Cause("leader" if leads else "lock_granted", (text, token))
                self.events.record(now, cause, claim.key, group, None, lock)
            elif what == "broken":
                cause = Cause("lock_broken", ("an operator broke its hold",))
                self.events.record(now, cause, claim.key, None, None, claim.name)
            elif leads:
                self.events.record(
                    now, Cause("leader", ("{} led: {}", claim.key[0], _lost(claim, what, end))), None, group
                )
            elif what == "lost" and claim.broken_at is None:
                cause = Cause("lock_lost", ("{}", _lost(claim, what, end)))
                self.events.record(now, cause, claim.key, None, None, lock)
        self._lock_changes.clear()

    def _record_slot(
        self, now: float, slot: Slot, what: LockChangeKind, claim: LockClaim, token: int, end: Cause | None
    ) -> None:
        group = slot.space if slot.space in self.groups else None
        if what in ("granted", "known"):
            text = "it has slot {} of {}, with token {}" + (", since before the start" if what == "known" else "")
            self.events.record(now, Cause("slot", (text, slot.number, slot.space, token)), claim.key, group)
        elif what == "broken" or (what == "lost" and claim.broken_at is None):
            lost = ("it had slot {} of {}: {}", slot.number, slot.space, _lost(claim, what, end))
            self.events.record(now, Cause("slot_lost", lost), claim.key, group)

    # -- heartbeats: what members say -----------------------------------------------------------------------------

    def renew(self, now: float, request: ShortRequest) -> SessionRecord | None:
        """Renew the lease for a request that says the same as one with which all was well, if nothing is due.

        Most heartbeats are such, and `sync` would do no more with them. None: let `sync` take the request.
        """
        session = self.sessions.get((request["member"], request["session"]))
        if (
            session is None
            or request["same"] != session.steady
            or now >= self._due
            or request["incarnation"] != self.incarnation
            or request["seq"] <= session.seq
            or (self._news and session.key in self._news)
        ):
            return None
        session.seq = request["seq"]
        session.received, session.lease = now, self.ttl
        if self._overdue:
            self._overdue.pop(session.key, None)
        self._leases.renew(session.key, self._run(now), self._lease)
        return session

    def sync(self, now: float, request: Request | ShortRequest, where: Where | None = None) -> SessionRecord | None:
        """Take in one request. None: a later one has come, or the session is over for good; it is not to be answered.

        `where`: its process, if this request tells it.
        Raises ``GroupFull`` when it comes from a new session and `max_members` are served, and
        ``PartitionActorUnavailable`` when the member has heard of a later partition actor, until a proof shows that
        there is none.
        """
        key = (request["member"], request["session"])
        if key in self.dead:
            return None
        self._mind_stall(now)
        if request["incarnation"] > self.incarnation:
            self._advance_incarnation(now, request["incarnation"])
        session = self.sessions.get(key)
        base = 0 if "same" in request else max(request.get("locks_base", 0), request.get("groups_base", 0))
        if session is None and ("same" in request or base):
            return UNKNOWN_SESSION  # the reply asks for a request that says everything
        if session is None:
            self._refuse_if_ending()
            has_place = self._recovery_end is not None and "same" not in request and _survives(request)
            session = self._admit(key, now, has_place=has_place)
        if request["seq"] <= session.seq:
            return None
        self.locate(key, where)
        session.seq = request["seq"]
        if "same" not in request:
            # It may tell changes since a request that this partition actor has never received.
            known = 0 if session.whole is None else session.whole["seq"]
            session.whole = None if base > known else request
            if session.whole is not None:
                self._take_statement(now, key, session, request)
        whole = session.whole
        if whole is None or ("same" in request and request["same"] != whole["seq"]):
            session.needs_resync = True
            session.received, session.lease, session.steady = now, 0.0, None
            self.tick(now)
        else:
            session.needs_resync = False
            self._take_request(now, key, session, {**whole, "incarnation": request["incarnation"]}, "same" in request)
            self.tick(now)
            session.steady = whole["seq"] if self._is_steady(key, session, request) else None
        return session

    def _take_statement(self, now: float, key: SessionKey, session: SessionRecord, request: Request) -> None:
        """Note what a whole request says of the groups: of all, or of those that have changed."""
        if session.stays != request.get("stays", False):
            session.stays = not session.stays
            self._to_drain.update(dict.fromkeys(session.groups if self._drains(session) else ()))
        told = request["groups"]
        gone = {name for name, report in told.items() if report is None}
        if not request.get("groups_base"):
            gone |= (session.groups | session.states.keys()) - told.keys()
        for name in sorted(gone):
            self._leave_group(now, key, session, name)
            session.unsettled.pop(name, None)
            session.reports.pop(name, None)
            session.states.pop(name, None)
        for name, report in told.items():
            if report is not None:
                before = session.reports.get(name)
                if before is not None and "metadata" in before and "metadata" not in report:
                    report = {**report, "metadata": before["metadata"]}  # said once, for as long as the session lasts
                session.reports[name] = report
        session.unsettled.update(dict.fromkeys(name for name in told if name not in gone))
        self.watchers.watch(key, frozenset(name for name in session.unsettled if session.watches(name)))

    def _take_request(
        self, now: float, key: SessionKey, session: SessionRecord, request: Request, is_known: bool
    ) -> None:
        """Take in a whole request, or (`is_known`) one that says the same as a whole one before."""
        session.interval = request["interval"]
        told = () if is_known else request["groups"]
        back = [] if self._drains(session) else list(islice(session.waits, STEP))
        later = set(session.waits).difference(back, told) if back else set()
        session.unsettled.update(dict.fromkeys(back))
        for name in [name for name in session.unsettled if name in session.reports]:
            if name in later or (name not in told and self._is_taken_in(key, session, name)):
                continue
            report = Report.of(session.reports[name], request, self.incarnation, session.drained.get(name, -1))
            self._take_report(now, key, session, name, report)
        for name in back:
            session.waits.pop(name, None)
        session.prompt = "prompt" in request or bool(back and session.waits)  # the next one takes others in
        if ("locks" in request or key in self.locks) and not (is_known and key not in self.locks.unverified):
            trusted = request["incarnation"] == self.incarnation and request["leased"]
            stated, whole = request.get("locks", {}), not request.get("locks_base")
            self.locks.take(key, stated, whole=whole, recovering=self.locks_unknown, trusted=trusted)
        if self.is_ending and request.get("withdrawn"):
            self._leases.drop(key)
        self._renew(now, key, session)

    def _is_taken_in(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether the session takes part in a group as its latest report says, so that it need not be read again."""
        group, state = self.groups.get(name), session.states.get(name)
        participant = None if group is None or group.recovering else group.participants.get(key)
        if participant is None or participant.leaving or state is None:
            return False
        return state.entry is None and not (state.resync or state.want_views or state.rejoined)

    def _take_report(self, now: float, key: SessionKey, session: SessionRecord, name: str, report: Report) -> None:
        said, watches = report.said, report.said["want"] == "watch"
        known = (said["have"], said["rev"], report.wants_in, watches, said.get("unknown", False))
        state = session.states[name] = ReportState(*known)
        group, conditional = self.groups.get(name), "conditional" in said
        if watches:
            if name in session.groups:
                self._leave_group(now, key, session, name)
            return
        if group is None:
            if not report.wants_in and said["have"] is None:
                return
            if conditional and self._recovery_end is None:
                state.entry = {"state": "missing"}
                return
            if self._drains(session) and not (said["have"] is not None and self._recovery_end is not None):
                if report.wants_in:
                    session.waits.setdefault(name, False)
                return
            group = self._open(name, said["exclusive"], now)
        session.groups.add(name)
        if group.mode_conflicts(report):
            group.joiners.pop(key, None)
            state.entry = {"state": "conflict", "exclusive": group.exclusive}
        elif conditional and report.wants_in and self._id_is_taken(group, key):
            group.joiners.pop(key, None)
            state.entry = {"state": "taken"}
        elif group.recovering:
            group.take_recovery_report(key, report, state, barred=self._drains(session))
            self._news.update(self.watchers.of(name))
        elif key in group.participants:
            if said.get("metadata") is not None:
                group.participants[key].metadata = said["metadata"]
            group.take_report(now, key, report, barred=session.barred or self._drains(session))
        elif report.wants_in and self._drains(session):
            session.waits.setdefault(name, False)
        elif report.wants_in and not session.barred:
            group.admit(now, key, report, state, late=key in self._ended, waited=session.waits.get(name, False))
        if group.is_on_ring(key):
            session.waits.pop(name, None)

    def _is_superseded(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether another session has this one's id for good. One that waits for its first place may take it over."""
        group, state = self.groups.get(name), session.states[name]
        had_place = session.waits.get(name, True) or state.have is not None or key in self._ended
        return group is not None and had_place and group.is_superseded(key)

    def _id_is_taken(self, group: Group, key: SessionKey) -> bool:
        if group.recovering:  # nobody is on the ring yet
            return any(member == key[0] and session != key[1] for member, session in group.participants)
        return group.session_of(key[0]) not in (None, key[1])

    def _leave_group(
        self, now: float, key: SessionKey, session: SessionRecord, name: str, cause: Cause | None = None
    ) -> None:
        """A member that does not mention a group holds nothing there; an older request may have said otherwise."""
        session.groups.discard(name)
        session.waits.pop(name, None)
        if name in session.fenced:
            self._unfence(key, session, name)
        if name in self.groups:
            cause = cause or Cause("left", ("it left the group",), None, session.where)
            self.groups[name].goes(key, cause, now, was_ending=name in session.ending)
            self.groups[name].remove(key, now)

    def _is_steady(self, key: SessionKey, session: SessionRecord, request: Request | ShortRequest) -> bool:
        """Whether the session is on the ring as it wants in each group, knows all of it, and blocks nobody."""
        for name in [*(session.unsettled if "same" in request else request["groups"])]:
            group, state = self.groups.get(name), session.states.get(name)
            is_steady = group is not None and state is not None and group.is_steady(key, state)
            if is_steady or self._waits(key, session, name):
                session.unsettled.pop(name, None)
        told = not (session.unsettled or session.prompt or key in self._unheard)
        return told and not (self.is_ending or session.barred) and self.locks.is_settled(key)

    # -- heartbeats: what members are told ------------------------------------------------------------------------

    def _note(self, key: SessionKey, group: str) -> None:
        """Something has changed for a session in a group."""
        self._news.add(key)
        session = self.sessions.get(key)
        if session is not None and (group in session.states or group in session.groups):
            session.unsettled.setdefault(group)

    def take_news(self) -> set[SessionKey]:
        """The sessions for which something has changed since the last call."""
        news = set(self._news)
        self._news.clear()
        for key in news & self.sessions.keys():
            self.sessions[key].steady = None
        return news

    def hold_for(self, session: SessionRecord) -> float:
        """Seconds for which to hold a heartbeat: no longer than the interval that the member knows, 0 with news."""
        if (session.steady is None or self._news) and self.has_news(session.key):
            return 0.0
        return min(self.interval, session.interval)

    def has_news(self, key: SessionKey) -> bool:
        """Whether a reply to the latest request of this session would say more than that nothing has changed."""
        session = self.sessions.get(key)
        if session is None or session.needs_resync:
            return True
        if self.is_ending:  # a member that knows has nothing more to learn here
            return session.prompt or session.whole is None or "withdrawn" not in session.whole
        if session.steady is not None and key not in self._news:
            return False
        if key in self._unheard and self._proven_lease(session) > 0:
            return True
        if session.resync or session.prompt or key in self.locks.unverified or self.locks.answers(key):
            return True
        return any(self._has_entry(key, session, name) for name in session.looked_at())

    def reply(self, now: float, session: SessionRecord, seq: int) -> Reply:
        """The answer to request `seq` of a session, as things stand now."""
        key = session.key
        reply: Reply = {
            "seq": seq,
            "incarnation": self.incarnation,
            "lease": session.lease,
            "exclusive_lease": 0.0,
            "interval": self._interval_for(session),
            "resync": False,
            "views": False,
            "groups": {},
        }
        if self.settings_version:
            reply["settings"] = self.settings_version
        if self._drains(session):
            reply["draining"] = True
        if self.is_ending:
            reply["withdrawn"] = True
        if session.needs_resync:
            reply["lease"], reply["resync"] = 0.0, True
        elif session.steady is not None and not (self._news and key in self._news):
            reply["exclusive_lease"] = self._proven_lease(session)
        else:
            looked_at = session.looked_at()
            reply["groups"], has_more = self._entries(now, key, session, looked_at)
            if has_more:
                reply["more"] = True
            reply["exclusive_lease"] = self._exclusive_lease(key, session)
            unverified = {name for name in looked_at if self._is_unverified(key, session, name)}
            if fenced := session.fenced | (unverified - reply["groups"].keys()):
                reply["fenced"] = sorted(fenced)
            reply["resync"] = session.resync or key in self.locks.unverified
            reply["views"] = any(session.states[name].want_views for name in looked_at)
            if answers := self.locks.answers(key):
                reply["locks"] = answers
                if slots := self.locks.slots_told(key):
                    reply["slots"] = slots
        if reply["exclusive_lease"] > 0:
            self._unheard.discard(key)
        if self._recovery_end is not None and self.recovering(now) and not session.needs_resync:
            reply["wait"] = self._recovery_end - self._run(session.received)
        return reply

    def _interval_for(self, session: SessionRecord) -> float:
        """What a reply says: a lease that was granted before leases grew may not outlast a longer interval."""
        if session.lease < self.ttl and session.interval:
            return min(self.interval, session.interval)
        return self.interval

    def _exclusive_lease(self, key: SessionKey, session: SessionRecord) -> float:
        return 0.0 if key in self.locks.unverified else self._proven_lease(session)

    def _may_hold(self, key: SessionKey) -> bool:
        """Whether the next reply to a session brings a lease, without which a lock is of no use to it."""
        return self._exclusive_lease(key, self.sessions[key]) > 0

    def _proven_lease(self, session: SessionRecord) -> float:
        """Rule 8: what the latest request is worth in exclusive groups, by the latest proof."""
        lease = session.lease
        if self._proof is None:
            return 0.0
        return lease if self._proof >= session.received else max(0.0, self._proof + lease - session.received)

    def _is_unverified(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether the session holds a view of an exclusive group that others here have not been waiting for.

        A lease would bring such a view back to life, so it must come together with the next view.
        """
        state, group = session.states[name], self.groups.get(name)
        if group is None or not group.exclusive or state.have is None or state.watches:
            return False
        participant = group.participants.get(key)
        return participant is None or participant.acked is None or state.have < participant.acked or state.want_views

    def _has_entry(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether a reply has something to say of a group."""
        state, group = session.states[name], self.groups.get(name)
        if state.entry is not None:
            return True
        if state.watches:
            if group is None:  # one of before a restart may still be heard of
                return self._recovery_end is None and not state.unknown
            return group.view_for_watcher(state) is not None
        is_to_wait = state.have is not None and self._drains(session)
        if group is None:  # one that wants in opens it
            return not state.wants_in or is_to_wait
        if group.recovering or state.resync:
            return False
        participant = group.participants.get(key)
        if participant is None:  # one that was forgotten and wants in comes back
            return not state.wants_in or is_to_wait or self._is_superseded(key, session, name)
        if group.epoch is None:
            return False
        return participant.acked is not None and (group.epoch, participant.rev) != (state.have, state.rev)

    def _entries(
        self, now: float, key: SessionKey, session: SessionRecord, looked_at: list[str]
    ) -> tuple[dict[str, GroupEntry], bool]:
        """What a reply says of groups: of some, if there is something to say of many; and whether that is so."""
        entries: dict[str, GroupEntry] = {}
        work = 0
        for name in looked_at:
            if not self._has_entry(key, session, name):
                continue
            if work >= TOLD_AT_ONCE:
                return entries, True
            group = self.groups.get(name)
            compared = 0 if group is None else group.compared
            entries[name] = self._entry(key, session, name)
            work += 1
            if group is not None:
                work += (group.compared - compared) * (1 + len(group.members) // MEMBERS_COMPARED)
                group.note_told(key, now)
            session.unsettled[name] = session.unsettled.pop(name)
        return entries, False

    def _entry(self, key: SessionKey, session: SessionRecord, name: str) -> GroupEntry:
        """What a reply says of a group of which it has something to say."""
        state, group = session.states[name], self.groups.get(name)
        if state.entry is not None:
            return state.entry
        if state.watches:
            view = None if group is None else group.view_for_watcher(state)
            return {"state": "unknown"} if view is None else {"view": view}
        if group is None or key not in group.participants:
            if self._is_superseded(key, session, name):
                return {"state": "superseded"}
            return {"state": "joining" if state.wants_in and self._drains(session) else "out"}
        entry: GroupEntry = {"view": group.view_for(key, None if state.rev == WHOLE else state.have)}
        if state.rejoined:
            entry["rejoined"] = True
        return entry

    # -- callers of a bare handle ---------------------------------------------------------------------------------

    def join(
        self,
        now: float,
        group: str,
        key: SessionKey,
        weight: int,
        metadata: bytes | None,
        exclusive: bool | None,
        where: Where | None = None,
    ) -> None:
        """Put a session that has no state machine of its own on the ring; it is done with whatever it did before.

        `where`: its process, if that is known. One on a draining node gets no new place.
        Raises ``GroupModeConflict``, ``GroupFull``, and ``PartitionActorUnavailable`` while it ends.
        """
        self._mind_stall(now)
        found = self.groups.get(group)
        if self.is_ending and key in self.sessions and found is not None:  # the call says that it has stopped working
            self._leave_group(now, key, self.sessions[key], group)
            self.tick(now)
        self._refuse_if_ending()
        if found is not None:
            check_same_mode(group, found.exclusive, exclusive)
        session = self.sessions.get(key) or self._admit(key, now)
        self.locate(key, where)
        found = found or self._open(group, exclusive, now)
        session.groups.add(group)
        session.drained.pop(group, None)
        participant = found.participants.get(key) or found.joiners.get(key)
        if self._drains(session) and not found.is_on_ring(key):
            found.remove(key, now)
        elif found.recovering:
            found.joiners[key] = Participant(weight, metadata)
        elif session.barred and found.exclusive:
            pass  # its lease has to end first
        elif participant is None or not found.is_on_ring(key):
            found.put_on_ring(key, Participant(weight, metadata), now)
        else:
            participant.weight = weight
            participant.metadata = participant.metadata if metadata is None else metadata
            found.put_on_ring(key, participant, now)
        self._renew(now, key, session)
        self.tick(now)

    def use(self, now: float, group: str, key: SessionKey) -> ViewMessage | None:
        """The view of a participant for a caller that is done with its former one; the caller's lease is renewed.

        None while the group recovers, while the join is still to be published, and when the lease is not renewed
        because the session was forgotten. Raises ``GroupNotFound``.
        """
        self._mind_stall(now)
        self._refuse_if_ending()
        found, session = self.find(group), self.sessions.get(key)
        participant = found.participants.get(key)
        view = None
        waits = found.recovering or participant is None or participant.acked is None
        if not waits and session is not None and found.epoch is not None:
            found.ack(key, found.epoch)
            session.unsettled.pop(group, None)
            if key in found.participants:
                self._renew(now, key, session)
                view = found.view_for(key) if session.lease > 0 else None
        self.tick(now)
        return view

    def heartbeat(self, now: float, key: SessionKey) -> dict[str, Any]:
        """Renew the lease of a bare caller: ``{"groups": {group: epoch}, "next": seconds, "known": bool}``."""
        self._mind_stall(now)
        self._refuse_if_ending()
        session = self.sessions.get(key)
        if session is not None:
            self._renew(now, key, session)
        self.tick(now)
        names = () if session is None else session.groups
        epochs = {name: self.groups[name].epoch for name in names if name in self.groups}
        return {"groups": epochs, "next": self.interval, "known": session is not None}

    def leave(self, now: float, group: str, key: SessionKey) -> None:
        """Take a session that says it has stopped working out of a group. Raises ``GroupNotFound``."""
        found, session = self.find(group), self.sessions.get(key)
        if session is None:
            found.remove(key, now)
        else:
            self._leave_group(now, key, session, group)
            session.states.pop(group, None)
            session.unsettled.pop(group, None)
            if not session.groups:
                self._end(key, now)
        self.tick(now)

    # -- ends of processes ----------------------------------------------------------------------------------------

    def ending(self, now: float, key: SessionKey) -> None:
        """The process of this session is about to end: let it hand over what it still can."""
        session = self.sessions.get(key)
        if session is None:
            return
        cause = Cause("ending", ("Ray says that its process is about to end",), None, session.where)
        session.ending |= {name for name in session.groups if name in self.groups and self.groups[name].is_on_ring(key)}
        for name in sorted(session.ending):
            if name in self.groups and self.groups[name].is_on_ring(key):
                self._drain(now, self.groups[name], key, cause)

    # -- draining nodes -------------------------------------------------------------------------------------------

    def locate(self, key: SessionKey, where: Where | None) -> None:
        """The process of a session, for operators, and because its node may be draining."""
        session = self.sessions.get(key)
        if session is None or where is None:
            return
        has_moved = session.where.node != where.node
        session.where.node, session.where.pid = where.node, where.pid
        if has_moved and self._draining:
            self._to_drain.update(dict.fromkeys(session.groups))

    def draining(self, now: float, nodes: Mapping[str, float | None], dead: Set[str] = frozenset()) -> None:
        """These nodes are draining, and no others: by hex id, the seconds until each ends at the latest, or None.

        Members on them hand their keys over, but for those of groups that have no member elsewhere, and newcomers there
        get no place. Those that are being replaced keep theirs for half of these seconds, as they were told first, or
        without end. If a drain was taken back, they join again. `dead`: nodes that have ended, so that nobody joins
        again there; they are forgotten when their last sessions are.
        """
        self._set_stays(now, nodes)
        before, occupied = self._draining, {session.where.node for session in self.sessions.values()}
        ended = {node: before[node] for node in before.keys() & dead & occupied}
        self._draining = ended | {node: None if left is None else now + left for node, left in nodes.items()}
        if (self._draining.keys() ^ before.keys()) & occupied:
            self._to_drain.update(dict.fromkeys(self.groups))
        over = before.keys() - self._draining.keys()
        for key, session in self.sessions.items() if over & occupied else ():
            if session.where.node in over:
                session.prompt = True  # its next heartbeat comes at once, and it joins by that
                self._news.add(key)
        self.tick(now)

    def draining_nodes(self, now: float) -> dict[str, float | None]:
        """The nodes that are draining, and how many seconds each has left, if that is known."""
        return {node: None if end is None else max(0.0, end - now) for node, end in self._draining.items()}

    def _set_stays(self, now: float, nodes: Mapping[str, float | None]) -> None:
        before, self._stays_until = self._stays_until, {}
        for node, left in nodes.items():
            if node in before or node not in self._draining:
                until = float("inf") if left is None else now + left / 2
                self._stays_until[node] = min(until, before.get(node, until))
        if before.keys() - self._stays_until.keys():  # they have ended, or drain no more
            self._to_drain.update(dict.fromkeys(self.groups))

    def _mind_stays(self, now: float) -> None:
        """Let rule 14 apply to those on draining nodes that have not been replaced in time."""
        for node in [node for node, until in self._stays_until.items() if now >= until]:
            del self._stays_until[node]
            self._to_drain.update(dict.fromkeys(self.groups))

    def _may_stay(self, session: SessionRecord) -> bool:
        return session.stays and session.where.node in self._stays_until

    def _drains(self, session: SessionRecord) -> bool:
        """Whether the node of a session is draining."""
        return session.where.node in self._draining

    def _drain_some(self, now: float) -> None:
        work = 0
        while work < STEP and self._to_drain:
            name, _ = self._to_drain.popitem()  # from its end: at its front holes would add up
            if name in self.groups:
                work += 1 + len(self.groups[name].next_ring)
                self._take_off_draining(self.groups[name], now)

    def _take_off_draining(self, group: Group, now: float) -> None:
        """Take the members on draining nodes off the ring, if there are others: else its keys would have no owner."""
        if not self._draining:
            return
        keys = ((member, session) for member, (_, session) in group.next_ring.items())
        living = [self.sessions[key] for key in keys if key in self.sessions]
        leaving = [session for session in living if self._drains(session)]
        has_others = len(leaving) < len(living)
        for session in [each for each in leaving if not self._may_stay(each)] if has_others else ():
            end = self._draining[session.where.node or ""]
            told: Why = ("its node is draining",) if end is None else ("its node is draining, for {:.0f} s", end - now)
            group.goes(session.key, Cause("drained", told, None, session.where), now)
            group.take_off_ring(session.key, now)
            if session.seq >= 0:  # a bare caller joins by its next call
                session.waits[group.name] = True

    def _waits(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether a session on a draining node knows that it has no place in a group where it wants one."""
        state, group = session.states.get(name), self.groups.get(name)
        if state is None or name not in session.waits or not self._drains(session):
            return False
        if state.entry is not None or state.have is not None or not state.wants_in:
            return False
        waits = group is None or not (group.recovering or key in group.participants)
        return waits and not self._is_superseded(key, session, name)

    def close(self, now: float, key: SessionKey) -> None:
        """The session says that it has stopped working, and will not come back."""
        self._finish(now, key, Cause("left", ("it said that it has stopped",)))

    def died(
        self, now: float, key: SessionKey, reason: Why = ("its process is dead",), seconds: float | None = None
    ) -> None:
        """The process of this session is known to be dead (never: its node is silent). Rule 5.

        `reason` tells who said so, and `seconds` how long it took to be certain.
        """
        self._finish(now, key, Cause("died", reason, seconds))

    def _finish(self, now: float, key: SessionKey, cause: Cause) -> None:
        self._end(key, now, cause, for_good=True)
        self._ended[key] = now
        self._ended.move_to_end(key)
        self.dead.add(key)
        self.tick(now)

    # -- operators ------------------------------------------------------------------------------------------------

    def drain(self, now: float, group: str, member: str) -> None:
        """Let a member hand its keys over and then leave. Raises ``GroupNotFound``, ``MemberNotFound``."""
        found, key = self._find_member(group, member)
        self._drain(now, found, key, Cause("drained", ("an operator drained it",), None, self.sessions[key].where))

    def _drain(self, now: float, group: Group, key: SessionKey, cause: Cause) -> None:
        session = self.sessions[key]
        session.drained[group.name] = session.seq
        if group.name in session.states:
            session.states[group.name].wants_in = False
            session.unsettled.setdefault(group.name)
        group.goes(key, cause, now)
        group.take_off_ring(key, now)
        self.tick(now)

    def forget(self, now: float, group: str, member: str) -> None:
        """Take a member off the ring now. Raises ``GroupNotFound``, ``MemberNotFound``.

        In an exclusive group its keys wait until its lease has ended: an operator's word proves nothing.
        """
        found, key = self._find_member(group, member)
        session = self.sessions[key]
        found.goes(key, Cause("forgotten", ("an operator forgot it",), None, session.where), now)
        if found.exclusive:
            session.barred, session.steady = True, None
            found.take_off_ring(key, now)
        else:
            found.remove(key, now)
            if group in session.states:
                session.states[group].resync = True
                session.unsettled.setdefault(group)
        self.tick(now)

    def make_group(self, now: float, group: str) -> bool:
        """Make a group that stays without members until it is deleted; False when there is one already."""
        made = group not in self.groups
        if made:
            self._open(group, False, now)
        self.kept.add(group)
        self.tick(now)
        return made

    def delete_group(self, now: float, group: str) -> bool:
        """Forget a group; False when it has members. Raises ``GroupNotFound``."""
        found = self.find(group)
        empty = not (found.participants or found.joiners or found.next_ring)
        if empty:
            del self.groups[group]
            self._changed.pop(group, None)
            self.kept.discard(group)
        self.tick(now)
        return empty

    def break_lock(self, now: float, name: str) -> list[LockClaim]:
        """Take a lock from its holders; returns their claims. It is free when they know, or lose their lease."""
        broken = self.locks.break_(now, name)
        self.tick(now)
        return broken

    def have_reported(self, group: Group) -> bool:
        """Whether each member of a group has reported to this partition actor. Callers by a handle need not."""
        return not group.recovering and self._unheard.isdisjoint(group.sessions.items())

    @property
    def may_hand_over(self) -> bool:
        """Whether no member that survived, or was handed over, has yet to hear that its lease is renewed.

        Else several replacements in a row could outlast a lease.
        """
        return self._recovery_end is None and not self._unheard

    def find(self, group: str) -> Group:
        """The group of this name. Raises ``GroupNotFound``."""
        found = self.groups.get(group)
        if found is None:
            raise GroupNotFound(f"group {group!r}: nobody has joined a group of this name")
        return found

    def _find_member(self, group: str, member: str) -> tuple[Group, SessionKey]:
        found = self.find(group)
        session = found.session_of(member)
        if session is None or (member, session) in self._gone:
            raise MemberNotFound(f"group {group!r} has no member {member!r}; it has {sorted(found.next_ring)[:10]}")
        return found, (member, session)


def _survives(request: Request) -> bool:
    """Whether a session that is not known has held something that a former partition actor gave it."""
    reports, locks = request["groups"].values(), request.get("locks", {}).values()
    has_view = any(report is not None and report["have"] is not None for report in reports)
    return has_view or any(lock is not None and lock["token"] for lock in locks)


def _lost(claim: LockClaim, what: LockChangeKind, end: Cause | None) -> str:
    """Why a lock is held no more."""
    if claim.broken_at is not None:
        return "an operator broke its hold"
    if what == "released":
        return "it has let go"
    return "the lease under which it held it had ended" if end is None else why(end)
