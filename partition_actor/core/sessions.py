"""The partition actor's sessions: what members say, and what they are told.

The part of the partition actor's state machine between ``expiry``, which knows leases and time, and ``membership``,
which completes it with the calls of operators and of those who hold a bare handle. The rules named in comments are
those of ``docs/guarantees.md``.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from partition_actor.core.expiry import Expiry, SessionRecord
from partition_actor.core.group import Group
from partition_actor.core.group_watchers import entry_for_watcher
from partition_actor.core.messages import WHOLE, SessionKey
from partition_actor.core.reports import Report, ReportState
from partition_actor.errors import GroupFull, PartitionActorUnavailable


class Sessions(Expiry):
    """What members say, and what they are told. See ``Membership``."""

    # -- what members say ---------------------------------------------------------------------------------------

    def session(self, key: SessionKey) -> SessionRecord:
        """The session; where there is none, one of which nothing is known, and which leaves no trace here."""
        return self.sessions.get(key) or SessionRecord(key, joined_at=0.0, unclear=True)

    def sync(self, now: float, request: dict[str, Any]) -> SessionRecord | None:
        """Take in one request. None: it is older than one already seen, and is not to be answered.

        Raises ``GroupFull`` when it comes from a new session and `max_members` are served, and
        ``PartitionActorUnavailable`` when the member has heard of a later partition actor, until a proof shows that
        there is none.
        """
        key = (request["member"], request["session"])
        session = self.sessions.get(key)
        if session is not None and "same" in request and self._is_sign_of_life(now, session, request):
            return session
        self.tick(now)
        if request["incarnation"] > self.incarnation:
            self._outbid(now, request["incarnation"])
        session = self.sessions.get(key)
        if session is None and "same" in request:
            return self.session(key)  # the reply asks for a whole request
        session = session or self._admit(key, now)
        if request["seq"] <= session.seq:
            return None
        session.seq = request["seq"]
        if "same" not in request:
            session.stated = request
        session.unclear = session.stated_at != request.get("same", request["seq"])
        if session.unclear:
            session.received, session.lease, session.settled = now, 0.0, None
        else:
            self._take_request(now, key, session, {**session.stated, **request})
        return session

    def _take_request(self, now: float, key: SessionKey, session: SessionRecord, request: dict[str, Any]) -> None:
        session.interval = request["interval"]
        session.standings.clear()
        watched = (name for name, report in request["groups"].items() if report["want"] == "watch")
        self.watchers.watch(key, frozenset(watched))
        for name, report in request["groups"].items():
            known = Report.of(report, request, self.incarnation, session.drained.get(name, -1))
            self._take_report(now, key, session, name, known)
        for name in sorted(session.groups - request["groups"].keys()):
            self._quit(now, key, session, name)
        self._take_locks(key, session, request)
        self._renew(now, key, session)
        self.tick(now)
        session.settled = session.stated_at if self._is_settled(key, session) else None

    def _is_sign_of_life(self, now: float, session: SessionRecord, request: dict[str, Any]) -> bool:
        """Take in a request that says the same as one with which all was well, when nothing is due: most are such.

        The rest of the class would do no more with it than renew the lease.
        """
        if (
            request["same"] != session.settled
            or now >= self._due
            or request["incarnation"] != self.incarnation
            or request["seq"] <= session.seq
            or (self._news and session.key in self._news)
        ):
            return False
        session.seq = request["seq"]
        session.received, session.lease = now, self.ttl
        if self._overdue:
            self._overdue.pop(session.key, None)
        self._leases.renew(session.key, self._run(now), self._lease)
        return True

    def _is_settled(self, key: SessionKey, session: SessionRecord) -> bool:
        """Whether the session has the place that it wants in each group, knows all of it, and blocks nobody."""
        if session.barred or session.prompt or key in self.locks:
            return False
        return all(
            (group := self.groups.get(name)) is not None and group.is_settled(key, standing)
            for name, standing in session.standings.items()
        )

    def _take_locks(self, key: SessionKey, session: SessionRecord, request: dict[str, Any]) -> None:
        session.prompt = "prompt" in request
        if "locks" in request or key in self.locks:
            met = request["incarnation"] == self.incarnation
            recovering, trusted = self._recovery_end is not None, met and request["leased"]
            self.locks.take(key, request.get("locks", {}), recovering=recovering, trusted=trusted)

    def _outbid(self, now: float, incarnation: int) -> None:
        """Go beyond the incarnation of a partition actor of the past: its clock was ahead of ours.

        Of a partition actor to come it must not be: that one has taken this one's place. A proof from after the moment
        at which the incarnation was first heard of tells the two apart (rule 8).
        """
        if self._doubted is None or self._doubted[0] < incarnation:
            self._doubted = (incarnation, now)
        if not self.proven_since(self._doubted[1]):
            raise PartitionActorUnavailable(
                f"this partition actor (incarnation {self.incarnation}) must first make sure that it is still the "
                f"latest: this member has heard of {incarnation}"
            )
        self.incarnation, self._counter = incarnation + 1, 0

    def _quit(self, now: float, key: SessionKey, session: SessionRecord, name: str) -> None:
        """A member that does not mention a group holds nothing there; an older request may have said otherwise."""
        session.groups.discard(name)
        if name in self.groups:
            self.groups[name].drop_seat(key, now)

    def _take_report(self, now: float, key: SessionKey, session: SessionRecord, name: str, report: Report) -> None:
        known = (report.have, report.rev, report.wants_in, report.watches, report.unknown)
        standing = session.standings[name] = ReportState(*known)
        group = self.groups.get(name)
        if report.watches:
            if name in session.groups:
                self._quit(now, key, session, name)
            return
        if group is None:
            if not report.wants_in and report.have is None:
                return
            if report.conditional and self._recovery_end is None:
                standing.state = {"state": "missing"}
                return
            group = self._open(name, report.exclusive, now)
        session.groups.add(name)
        if group.mode_conflicts(report):
            group.joiners.pop(key, None)
            standing.state = {"state": "conflict", "exclusive": group.exclusive}
        elif report.conditional and report.wants_in and self._id_is_taken(group, key):
            group.joiners.pop(key, None)
            standing.state = {"state": "taken"}
        elif group.recovering:
            group.take_recovery_report(key, report, standing)
            self._news.update(self.watchers.of(name))
        elif key in group.seats:
            if report.metadata is not None:
                group.seats[key].metadata = report.metadata
            group.take_seated_report(now, key, report, barred=session.barred)
        elif report.wants_in and not session.barred:
            group.take_newcomer(now, key, report, standing, late=key in self._ended)

    def _id_is_taken(self, group: Group, key: SessionKey) -> bool:
        if group.recovering:  # nobody has a place yet
            return any(member == key[0] and session != key[1] for member, session in group.seats)
        return group.holder_of(key[0]) not in (None, key[1])

    def reply(self, now: float, session: SessionRecord, seq: int) -> dict[str, Any]:
        """The answer to request `seq` of a session, as things stand now."""
        if session.unclear:
            return self._reply(seq, 0.0, 0.0, True, False, {})
        key = session.key
        if session.settled is not None and not (self._news and key in self._news):
            return self._reply(seq, session.lease, self._proven_lease(session), False, False, {})
        entries = {name: entry for name in session.standings if (entry := self._entry(key, session, name))}
        resync = session.resync or key in self.locks.unsure
        term = self._exclusive_lease(key, session, entries)
        reply = self._reply(seq, session.lease, term, resync, session.want_views, entries)
        locks = self.locks.entries(key)
        return {**reply, "locks": locks} if locks else reply

    def _exclusive_lease(self, key: SessionKey, session: SessionRecord, entries: Container[str]) -> float:
        unsure = any(name not in entries and self._unsure(key, session, name) for name in session.standings)
        return 0.0 if unsure or key in self.locks.unsure else self._proven_lease(session)

    def _may_hold(self, key: SessionKey) -> bool:
        session = self.sessions[key]
        entries = [name for name in session.standings if self._entry(key, session, name)]
        return self._exclusive_lease(key, session, entries) > 0

    def _proven_lease(self, session: SessionRecord) -> float:
        """Rule 8: what the latest request is worth in exclusive groups, by the latest proof."""
        term = session.lease
        if self._proof is None:
            return 0.0
        return term if self._proof >= session.received else max(0.0, self._proof + term - session.received)

    @property
    def is_calm(self) -> bool:
        """Whether nothing has changed for anybody and no epoch is to be published: there is nothing to do for now."""
        return not self._news and not self._dirty and not self.locks.due

    def hold_for(self, session: SessionRecord) -> float:
        """Seconds for which a heartbeat may be held: no longer than the pace that the member knows, 0 with news."""
        if (session.settled is None or self._news) and self.has_news(session.key):
            return 0.0
        return min(self.interval, session.interval)

    def has_news(self, key: SessionKey) -> bool:
        """Whether a reply to the latest request of this session would say more than that all is as it was."""
        session = self.sessions.get(key)
        if session is None or session.unclear:
            return True
        if session.settled is not None and key not in self._news:
            return False
        if session.resync or session.prompt or key in self.locks.unsure or self.locks.entries(key):
            return True
        return any(self._entry(key, session, name) for name in session.standings)

    def _entry(self, key: SessionKey, session: SessionRecord, name: str) -> dict[str, Any] | None:
        standing, group = session.standings[name], self.groups.get(name)
        if standing.state is not None:
            return standing.state
        if standing.watches:
            # A group of before a restart may still be heard of.
            return entry_for_watcher(group, standing, is_certain=self._recovery_end is None)
        if group is None:
            return {"state": "out"}
        if group.recovering or standing.resync:
            return None
        seat = group.seats.get(key)
        if seat is None:
            if group.holder_of(key[0]) not in (None, key[1]):
                return {"state": "superseded"}
            return None if standing.wants_in else {"state": "out"}  # forgotten: it comes back
        if seat.acked is None or (group.epoch, seat.rev) == (standing.have, standing.rev):
            return None
        entry = {"view": group.view_for(key, None if standing.rev == WHOLE else standing.have)}
        return {**entry, "rejoined": True} if standing.rejoined else entry

    def _unsure(self, key: SessionKey, session: SessionRecord, name: str) -> bool:
        """Whether the session holds a view of an exclusive group that others here have not been waiting for.

        A lease would bring such a view back to life: it must come together with the next view.
        """
        standing, group = session.standings[name], self.groups.get(name)
        if group is None or not group.exclusive or standing.have is None or standing.watches:
            return False
        seat = group.seats.get(key)
        return seat is None or seat.acked is None or standing.want_views

    def _reply(
        self, seq: int, lease: float, exclusive_lease: float, resync: bool, views: bool, groups: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "seq": seq,
            "incarnation": self.incarnation,
            "lease": lease,
            "exclusive_lease": exclusive_lease,
            "interval": self.interval,
            "resync": resync,
            "views": views,
            "groups": groups,
        }

    def _admit(self, key: SessionKey, now: float) -> SessionRecord:
        if len(self.sessions) >= self.settings.max_members:
            raise GroupFull(
                f"member {key[0]!r}: this partition actor serves {len(self.sessions)} sessions and its setting "
                f"max_members is {self.settings.max_members}"
            )
        session = self.sessions[key] = SessionRecord(key, joined_at=now)
        self._set_pace()
        return session

    # -- the rest -----------------------------------------------------------------------------------------------

    def _open(self, name: str, exclusive: bool | None, now: float) -> Group:
        # Who joins a group as it is may have found an exclusive one that outlived the former coordinator.
        may_be_exclusive = exclusive or (exclusive is None and self._waited_at is None)
        waits = self._recovery_end is not None and (may_be_exclusive or (self.restarted and self._waited_at is None))
        group = self.groups[name] = Group(name, exclusive, self.settings, self._news, self._dirty, now)
        group.recovering = waits
        return group
