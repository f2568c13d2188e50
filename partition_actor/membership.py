"""The coordinator's state machine: sessions, their leases, the groups and their epochs.

Every method takes `now`, seconds on the coordinator's clock, and none looks at a clock, a thread or Ray: the same
code runs in the actor, in the tests and in the simulation. The rules named in comments are those of
``docs/guarantees.md``; what requests and replies look like is in ``protocol``.

How a driver uses it: hand requests to `sync` as they come; call `tick` after every call and when `deadline` has come;
then answer those in `take_news` who wait, with `reply`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from partition_actor.errors import GroupFull, GroupNotFound, MemberNotFound
from partition_actor.group import Group, Report, Standing
from partition_actor.handoff import Seat
from partition_actor.leases import LeaseQueue
from partition_actor.protocol import COUNTER_BITS, Epoch, SessionKey, check_same_mode
from partition_actor.settings import Settings


@dataclass(slots=True)
class Session:
    """What the coordinator knows of one life of one process under one member id."""

    joined_at: float
    seq: int = -1
    term: float = 0.0
    exclusive_term: float = 0.0
    groups: set[str] = field(default_factory=set)
    standings: dict[str, Standing] = field(default_factory=dict)
    """By group, what came of the latest request."""
    drained: dict[str, int] = field(default_factory=dict)
    """By group: joins asked for up to this `seq` do not count, an operator has drained the member."""
    barred: bool = False
    """An operator has forgotten it in an exclusive group: no lease any more; it may come back after it."""

    @property
    def want_views(self) -> bool:
        """Whether it must tell its views before it gets a lease."""
        return any(standing.want_views for standing in self.standings.values())

    @property
    def again(self) -> bool:
        """Whether its next request is wanted at once."""
        return any(standing.again for standing in self.standings.values())


class Membership:
    """Groups, sessions and leases of one coordinator.

    `incarnation` is higher than that of every coordinator of this name before. `restarted` says that there was one,
    so nobody is admitted for one longest lease (rule 7); `first` that there was none for certain: a coordinator that
    is neither waits in exclusive groups only.
    """

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
        self.sessions: dict[SessionKey, Session] = {}
        self._ended: OrderedDict[SessionKey, float] = OrderedDict()
        """Sessions that are over; a late message of theirs must not take a successor's place."""
        self._counter = 0
        self._leases: LeaseQueue[SessionKey] = LeaseQueue()
        self._proof: float | None = None
        self._last_tick = now
        self.stalled = 0.0
        self._next_sweep = now
        self._news: set[SessionKey] = set()
        self._dirty: dict[str, Group] = {}
        self._recovery_end = None if first and not restarted else now + self._grace(settings.max_ttl)

    # -- what members say ---------------------------------------------------------------------------------------

    def sync(self, now: float, request: dict[str, Any]) -> bool:
        """Take in one request. False: it is older than one already seen, and is not to be answered.

        Raises ``GroupFull`` when it comes from a new session and `max_members` are served.
        """
        self.tick(now)
        key = (request["member"], request["session"])
        session = self.sessions.get(key) or self._admit(key, now)
        if request["seq"] <= session.seq:
            return False
        session.seq = request["seq"]
        session.standings.clear()
        if request["incarnation"] > self.incarnation:
            self.incarnation, self._counter = request["incarnation"] + 1, 0
        met = request["incarnation"] == self.incarnation
        for name, report in request["groups"].items():
            self._take_report(now, key, session, name, Report.of(report, session.drained.get(name, -1), met))
        self._renew(now, key, session)
        self.tick(now)
        return True

    def _take_report(self, now: float, key: SessionKey, session: Session, name: str, report: Report) -> None:
        standing = session.standings[name] = Standing(have=report.have, rev=report.rev)
        group = self.groups.get(name)
        if group is None:
            if not report.wants_in and report.have is None:
                return
            group = self._open(name, bool(report.exclusive), now)
        session.groups.add(name)
        if group.mode_conflicts(report):
            standing.state = {"state": "conflict", "exclusive": group.exclusive}
        elif group.recovering:
            group.take_recovery_report(key, report, standing)
        elif key in group.seats:
            group.take_seated_report(now, key, report, barred=session.barred)
        elif report.wants_in:
            group.take_newcomer(now, key, report, standing, late=key in self._ended)

    def reply(self, now: float, key: SessionKey, seq: int) -> dict[str, Any]:
        """The answer to request `seq` of a session, as things stand now."""
        session = self.sessions.get(key)
        if session is None:
            return self._reply(seq, 0.0, 0.0, again=True)
        entries = {name: entry for name in session.standings if (entry := self._entry(key, session, name))}
        return self._reply(
            seq,
            session.term,
            session.exclusive_term,
            again=session.again,
            views=session.want_views,
            groups=entries,
        )

    def has_news(self, key: SessionKey) -> bool:
        """Whether a reply to the latest request of this session would say more than that all is as it was."""
        session = self.sessions.get(key)
        return session is None or session.again or any(self._entry(key, session, name) for name in session.standings)

    def _entry(self, key: SessionKey, session: Session, name: str) -> dict[str, Any] | None:
        standing, group = session.standings[name], self.groups.get(name)
        if standing.state is not None:
            return standing.state
        if group is None:
            return {"state": "out"}
        if group.recovering or standing.again:
            return None
        seat = group.seats.get(key)
        if seat is None:
            taken = group.holder_of(key[0]) not in (None, key[1])
            return {"state": "superseded" if taken else "out"}
        if seat.acked is None or (group.epoch, seat.rev) == (standing.have, standing.rev):
            return None
        entry = {"view": group.view_for(key)}
        return {**entry, "rejoined": True} if standing.rejoined else entry

    def _reply(self, seq: int, term: float, exclusive_term: float, **rest: Any) -> dict[str, Any]:
        return {
            "seq": seq,
            "incarnation": self.incarnation,
            "term": term,
            "exclusive_term": exclusive_term,
            "next": self.interval,
            "again": False,
            "views": False,
            "groups": {},
            **rest,
        }

    def _admit(self, key: SessionKey, now: float) -> Session:
        if len(self.sessions) >= self.settings.max_members:
            raise GroupFull(
                f"member {key[0]!r}: this coordinator serves {len(self.sessions)} sessions and its setting "
                f"max_members is {self.settings.max_members}"
            )
        session = self.sessions[key] = Session(joined_at=now)
        return session

    def _renew(self, now: float, key: SessionKey, session: Session) -> None:
        """Rule 1, and of rule 8 the part that the coordinator's own standing bounds."""
        session.term = session.exclusive_term = 0.0
        refused = session.want_views or session.barred or self._fenced(now, key, session)
        if not refused:
            session.term = self.ttl
            if self._proof is not None:
                session.exclusive_term = min(self.ttl, max(0.0, self._proof + self.ttl - now))
        if not refused or key not in self._leases:
            self._leases.renew(key, self._run(now), self._grace(self.ttl))

    def _fenced(self, now: float, key: SessionKey, session: Session) -> bool:
        """Rule 6: a hand-off that takes too long ends the lease of the one that holds it up."""
        for name in session.groups:
            since = self.groups[name].lagging_since(key) if name in self.groups else None
            if since is not None and now > since + max(self.settings.handoff_timeout, self.interval):
                return True
        return False

    # -- what callers of a bare handle and operators ask --------------------------------------------------------

    def join(self, now: float, group: str, key: SessionKey, weight: int, metadata: Any, exclusive: bool | None) -> None:
        """Seat a session that has no state machine of its own; it is done with whatever it did before.

        Raises ``GroupModeConflict`` and ``GroupFull``.
        """
        self.tick(now)
        found = self.groups.get(group)
        if found is not None:
            check_same_mode(group, found.exclusive, exclusive)
        session = self.sessions.get(key) or self._admit(key, now)
        found = found or self._open(group, bool(exclusive), now)
        session.groups.add(group)
        session.drained.pop(group, None)
        seat = found.seats.get(key) or found.joiners.get(key)
        if found.recovering:
            found.joiners[key] = Seat(weight, metadata)
        elif seat is None or not found.has_place(key):
            found.take_place(key, Seat(weight, metadata), now)
        else:
            seat.weight = weight
            seat.metadata = seat.metadata if metadata is None else metadata
            found.take_place(key, seat, now)
        self._renew(now, key, session)
        self.tick(now)

    def is_drained(self, group: str, key: SessionKey) -> bool:
        """Whether an operator has drained this session and it has not asked to join since."""
        session = self.sessions.get(key)
        return session is not None and group in session.drained

    def use(self, now: float, group: str, key: SessionKey) -> dict[str, Any] | None:
        """The view of a seat for a caller that is done with its former one, or None while the group recovers.

        None also when the place is still to be published. The caller's lease is renewed.
        """
        self.tick(now)
        found = self.find(group)
        session = self.sessions.get(key)
        seat = found.seats.get(key)
        if found.recovering or found.epoch is None or session is None or seat is None or seat.acked is None:
            return None
        found.ack(key, found.epoch)
        if key not in found.seats:
            return None
        self._renew(now, key, session)
        return found.view_for(key)

    def settled(self, group: str) -> bool:
        """Whether everything asked for so far in `group` is part of the published epoch."""
        found = self.groups.get(group)
        return found is None or (not found.recovering and found.dirty_since is None)

    def heartbeat(self, now: float, key: SessionKey) -> dict[str, Any]:
        """Renew the lease of a bare caller: ``{"groups": {group: epoch}, "next": seconds, "known": bool}``."""
        self.tick(now)
        session = self.sessions.get(key)
        if session is not None:
            self._renew(now, key, session)
        names = () if session is None else session.groups
        epochs = {name: self.groups[name].epoch for name in names if name in self.groups}
        return {"groups": epochs, "next": self.interval, "known": session is not None}

    def leave(self, now: float, group: str, key: SessionKey) -> None:
        """Take a session that says it has stopped working out of a group. Raises ``GroupNotFound``."""
        found = self.find(group)
        found.drop_seat(key, now)
        session = self.sessions.get(key)
        if session is not None:
            session.groups.discard(group)
            session.standings.pop(group, None)
            if not session.groups:
                self._end(key, now)
        self.tick(now)

    def drain(self, now: float, group: str, member: str) -> None:
        """Let a member hand its keys over and then leave. Raises ``GroupNotFound``, ``MemberNotFound``."""
        found, key = self._placed(group, member)
        session = self.sessions[key]
        session.drained[group] = session.seq
        found.give_up_place(key, now)
        self.tick(now)

    def forget(self, now: float, group: str, member: str) -> None:
        """Take a member off the ring now. Raises ``GroupNotFound``, ``MemberNotFound``.

        In an exclusive group its keys wait until its lease has ended: an operator's word proves nothing.
        """
        found, key = self._placed(group, member)
        if found.exclusive:
            self.sessions[key].barred = True
            found.give_up_place(key, now)
        else:
            found.drop_seat(key, now)
        self.tick(now)

    def release(self, now: float, key: SessionKey) -> None:
        """The process of this session is known to be dead (never: its node is silent)."""
        self._end(key, now)
        self.tick(now)

    def prove(self, at: float) -> None:
        """The GCS counted this coordinator's node alive at or after `at`: rule 8."""
        self._proof = at if self._proof is None else max(self._proof, at)

    def proven_since(self, at: float) -> bool:
        """Whether the last proof is not older than `at`."""
        return self._proof is not None and self._proof >= at

    def find(self, group: str) -> Group:
        """The group of this name. Raises ``GroupNotFound``."""
        found = self.groups.get(group)
        if found is None:
            raise GroupNotFound(f"group {group!r}: nobody has joined a group of this name")
        return found

    # -- time ---------------------------------------------------------------------------------------------------

    @property
    def interval(self) -> float:
        """Seconds between two heartbeats of a member, at the present number of members."""
        return self.settings.interval_for(len(self.sessions))

    @property
    def ttl(self) -> float:
        """Length in seconds of a lease granted now."""
        return self.settings.ttl_for(len(self.sessions))

    def lease_left(self, now: float, key: SessionKey) -> float:
        """Seconds until the lease of a session is over as the coordinator counts, its margin included."""
        return self._leases.end(key) - self._run(now)

    def recovering(self, now: float) -> bool:
        """Whether this coordinator still waits for the leases of a former one to end."""
        return self._recovery_end is not None and self._run(now) < self._recovery_end

    def tick(self, now: float) -> None:
        """Do what is due: end leases, end the recovery, publish epochs."""
        self._mind_stall(now)
        run = self._run(now)
        for key in self._leases.expire(run):
            self._end(key, now)
        if self._recovery_end is not None and run >= self._recovery_end:
            self._recovery_end = None
            for group in self.groups.values():
                if group.recovering:
                    group.recovered(now)
        for group in list(self._dirty.values()):
            due = group.publish_due
            if due is not None and due <= now:
                group.publish(self._next_epoch(), now)
        if now >= self._next_sweep:
            self._next_sweep = now + self.settings.ttl
            self._sweep(now)

    def deadline(self) -> float:
        """When `tick` has something to do next at the latest, on the coordinator's clock."""
        moments = [self._last_tick + self.settings.hold / 2]
        moments += [due for group in self._dirty.values() if (due := group.publish_due) is not None]
        lease = self._leases.next_end()
        moments += [at + self.stalled for at in (lease, self._recovery_end) if at is not None]
        return min(moments)

    def take_news(self) -> set[SessionKey]:
        """The sessions that something has changed for since the last call."""
        news = set(self._news)
        self._news.clear()
        return news

    def _next_epoch(self) -> Epoch:
        self._counter += 1
        if self._counter >> COUNTER_BITS:
            self.incarnation, self._counter = self.incarnation + 1, 1
        return (self.incarnation, self._counter)

    def _grace(self, term: float) -> float:
        return term * (1 + self.settings.clock_rate_margin)

    def _run(self, now: float) -> float:
        """The time that this coordinator has really been running: leases do not end while it is stopped."""
        return now - self.stalled

    def _mind_stall(self, now: float) -> None:
        """A coordinator that was itself stopped must not expire those whose heartbeats lie unread in its queue."""
        idle = now - self._last_tick
        if idle > self.settings.hold:
            self.stalled += idle
        self._last_tick = max(now, self._last_tick)

    # -- the rest -----------------------------------------------------------------------------------------------

    def _open(self, name: str, exclusive: bool, now: float) -> Group:
        waits = self._recovery_end is not None and (exclusive or self.restarted)
        group = self.groups[name] = Group(name, exclusive, self.settings, self._news, self._dirty, now)
        group.recovering = waits
        return group

    def _placed(self, group: str, member: str) -> tuple[Group, SessionKey]:
        found = self.find(group)
        session = found.holder_of(member)
        if session is None:
            raise MemberNotFound(f"group {group!r} has no member {member!r}; it has {sorted(found.desired)[:10]}")
        return found, (member, session)

    def _end(self, key: SessionKey, now: float) -> None:
        session = self.sessions.pop(key, None)
        if session is None:
            return
        self._leases.drop(key)
        self._ended[key] = now
        for name in session.groups:
            if name in self.groups:
                self.groups[name].drop_seat(key, now)
        self._news.add(key)

    def _sweep(self, now: float) -> None:
        keep = 2 * self._grace(self.settings.max_ttl)
        while self._ended and next(iter(self._ended.values())) + keep < now:
            self._ended.popitem(last=False)
        for name, group in list(self.groups.items()):
            unused = not (group.seats or group.joiners or group.recovering or group.dirty_since is not None)
            if unused and group.empty_since is not None and now > group.empty_since + keep:
                del self.groups[name]
