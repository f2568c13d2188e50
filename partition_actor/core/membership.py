"""The partition actor's state machine: sessions, their leases, the groups and their epochs.

Every method takes `now`, seconds on the partition actor's clock, and none looks at a clock, a thread or Ray: the same
code runs in the actor, in the tests and in the simulation. The rules named in comments are those of
``docs/guarantees.md``; what requests and replies look like is in ``protocol``.

How a driver uses it: hand requests to `sync` as they come; call `tick` after every call and when `deadline` has come;
then answer those in `take_news` who wait, with `reply`. Tell it with `prove` that its node still counts as alive: no
lease of an exclusive group is granted or ended without.
"""

from __future__ import annotations

from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.handoff import Seat
from partition_actor.core.messages import SessionKey, check_same_mode
from partition_actor.core.sessions import Sessions
from partition_actor.errors import GroupNotFound, MemberNotFound


class Membership(Sessions):
    """Groups, sessions and leases of one coordinator.

    `incarnation` is higher than that of every partition actor of this name before. `restarted` says that there was one,
    so nobody is admitted for one longest lease (rule 7); `first` that there was none for certain: a partition actor
    that is neither waits in exclusive groups only.
    """

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
        found = found or self._open(group, exclusive, now)
        session.groups.add(group)
        session.drained.pop(group, None)
        seat = found.seats.get(key) or found.joiners.get(key)
        if found.recovering:
            found.joiners[key] = Seat(weight, metadata)
        elif session.barred and found.exclusive:
            pass  # its lease has to end first
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
        """The view of a seat for a caller that is done with its former one; the caller's lease is renewed.

        None while the group recovers, while the place is still to be published, and when the lease is not renewed
        because the session was forgotten or holds up a hand-off in another group.
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
        return found.view_for(key) if session.lease > 0 else None

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
        if group in session.standings:
            session.standings[group].wants_in = False
        found.give_up_place(key, now)
        self.tick(now)

    def forget(self, now: float, group: str, member: str) -> None:
        """Take a member off the ring now. Raises ``GroupNotFound``, ``MemberNotFound``.

        In an exclusive group its keys wait until its lease has ended: an operator's word proves nothing.
        """
        found, key = self._placed(group, member)
        session = self.sessions[key]
        if found.exclusive:
            session.barred, session.settled = True, None
            found.give_up_place(key, now)
        else:
            found.drop_seat(key, now)
            if group in session.standings:
                session.standings[group].resync = True
        self.tick(now)

    def make_group(self, now: float, group: str) -> bool:
        """Make a group that is there without members, until it is deleted; False when there is one already."""
        self.tick(now)
        made = group not in self.groups
        if made:
            self._open(group, False, now)
        self.kept.add(group)
        return made

    def delete_group(self, now: float, group: str) -> bool:
        """Forget a group; False when it has members. Raises ``GroupNotFound``."""
        self.tick(now)
        found = self.find(group)
        if found.seats or found.joiners or found.desired:
            return False
        del self.groups[group]
        self._dirty.pop(group, None)
        self.kept.discard(group)
        return True

    def break_lock(self, now: float, name: str) -> int:
        """Take a lock from whoever holds it; returns how many did. It is free when they know, or lose their lease."""
        broken = self.locks.break_(now, name)
        self.tick(now)
        return broken

    @property
    def locks_unknown(self) -> bool:
        """Whether somebody may hold a lock that this partition actor has not heard of."""
        return self._recovery_end is not None

    def ending(self, now: float, key: SessionKey) -> None:
        """The process of this session is about to end: what it can still hand over need not wait for that."""
        session = self.sessions.get(key)
        for group in sorted(session.groups if session else ()):
            if group in self.groups and self.groups[group].has_place(key):
                self.drain(now, group, key[0])

    def release(self, now: float, key: SessionKey) -> None:
        """The process of this session is known to be dead (never: its node is silent)."""
        self._end(key, now)
        self.tick(now)

    def find(self, group: str) -> Group:
        """The group of this name. Raises ``GroupNotFound``."""
        found = self.groups.get(group)
        if found is None:
            raise GroupNotFound(f"group {group!r}: nobody has joined a group of this name")
        return found

    def _placed(self, group: str, member: str) -> tuple[Group, SessionKey]:
        found = self.find(group)
        session = found.holder_of(member)
        if session is None:
            raise MemberNotFound(f"group {group!r} has no member {member!r}; it has {sorted(found.desired)[:10]}")
        return found, (member, session)
