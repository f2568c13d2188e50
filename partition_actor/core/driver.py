"""Drives the membership state machine: events in, actions out.

Whoever runs a partition actor (the Ray actor, the simulation, tests) hands each event to the driver, and then carries
out its `actions`: answers these heartbeats and calls, stops watching these processes, asks for a proof. What is held,
for how long, and what a call waits for is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from partition_actor.core.epochs import Epoch, fencing_token
from partition_actor.core.events import Where, Why
from partition_actor.core.group import Group
from partition_actor.core.membership import TOLD_AT_ONCE, UNKNOWN_SESSION, Membership
from partition_actor.core.messages import Reply, Request, SessionKey, ShortRequest, ViewMessage, leader_name
from partition_actor.errors import PartitionActorReplaced
from partition_actor.settings import Settings

STATE = 1
"""The form of the state that one partition actor hands to the next. A reader ignores fields that it does not know."""

HANDED_OVER = "this partition actor has been replaced, and grants no lease any more: look its name up again"


@dataclass(slots=True)
class Actions:
    """What to do after an event."""

    answer: list[SessionKey]
    """Sessions whose held heartbeat is to be answered now, with `MembershipDriver.reply`."""
    results: list[tuple[Any, Any]]
    """``(call, result)`` of calls that wait no more; a result that is an exception is to be raised."""
    unwatch: list[SessionKey]
    """Sessions that are over: nobody need watch their processes any more."""
    prove: bool
    """Ask the GCS now whether it counts this node alive, after recording the longest lease if it has grown."""
    wake_at: float
    """When to call `MembershipDriver.timer` at the latest, on the partition actor's clock."""


class _Wait(NamedTuple):
    """What a call waits for. Of the calls that wait by one `key`, a later one never goes on before the first."""

    key: Hashable
    is_over: Callable[[float], bool]
    """Asked with the time."""


class _Answer(NamedTuple):
    """The latest subset of an exclusive group that a bare caller's session was told."""

    process: str
    until: float
    """When the caller may not work by it any more, on the partition actor's clock."""


T = TypeVar("T")
Steps = Generator[_Wait, None, T]
"""A call in steps: it yields what it waits for, and returns its result. Meanwhile time goes on: see `_now`."""


class MembershipDriver:
    """Events of one partition actor. The methods that return ``Steps`` are calls: see `begin`."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.has_actions = True
        """Whether there may be something to do since the last `actions`: not after a heartbeat without news."""
        self._waiting: dict[Hashable, list[tuple[_Wait, Any, Steps[Any]]]] = {}
        self._proof_needed: float | None = None
        """Some call waits, or waited, for a proof from then or later."""
        self._results: list[tuple[Any, Any]] = []
        self._answers: dict[SessionKey, _Answer] = {}
        self.is_handed_over = False
        """Its state is the next partition actor's: this one says and does nothing any more."""
        self._now = 0.0
        """The time at which a call takes its present step."""

    def actions(self, now: float) -> Actions:
        """What to do now."""
        membership = self.membership
        while self._waiting and self._resume(now):
            pass
        self.has_actions = False
        results, self._results = self._results, []
        if self.is_handed_over:
            return Actions([], results, [], False, float("inf"))
        answer: list[SessionKey] = []
        unwatch: list[SessionKey] = []
        for key in sorted(membership.take_news()):
            session = membership.sessions.get(key)
            if session is None:
                unwatch.append(key)
                self._answers.pop(key, None)
            if session is None or (session.held and membership.has_news(key)):
                answer.append(key)
        prove = self._proof_needed is not None and not membership.proven_since(self._proof_needed)
        prove = prove or membership.longest_wanted > membership.longest_allowed
        return Actions(answer, results, unwatch, prove, membership.deadline())

    def timer(self, now: float) -> None:
        """The moment `Actions.wake_at` has come."""
        if self.is_handed_over:
            return
        self.membership.tick(now)
        self.has_actions = True

    def proof(self, now: float, at: float, recorded: float = 0.0) -> None:
        """The GCS counted this partition actor's node alive at or after `at`: rule 8. See ``Membership.prove``."""
        if self.is_handed_over:
            return
        self.membership.prove(at, recorded)
        self.timer(now)

    # -- heartbeats and ends of processes -----------------------------------------------------------------------

    def request(self, now: float, request: Request | ShortRequest, where: Where | None = None) -> float | None:
        """Take in a heartbeat; returns the seconds for which to hold it, at most. 0: answer it now, with `reply`.

        It overtakes one of the same session that is still held. None: a later one has come before it; there is no
        reply. `where`: its process, if it tells it.
        Raises what ``Membership.sync`` raises, and ``PartitionActorReplaced`` after `hand_over`.
        """
        self._refuse_if_handed_over()
        membership = self.membership
        if "same" in request and (session := membership.renew(now, request)) is not None:
            session.held = True
            return min(membership.interval, session.interval)
        self.has_actions = True
        session = membership.sync(now, request, where)
        if session is None:  # of a dead process: hold it off
            return membership.interval if (request["member"], request["session"]) in membership.dead else None
        seconds = membership.hold_for(session)
        session.held = seconds > 0
        return seconds

    def heartbeat_due(self, key: SessionKey) -> float | None:
        """When the next heartbeat of a session is due, as far as it knows; None: nobody knows."""
        session = self.membership.sessions.get(key)
        return session.received + session.interval if session is not None and session.interval else None

    def reply(self, now: float, key: SessionKey, seq: int) -> Reply | None:
        """The answer to heartbeat `seq` of a session; None when a later one has overtaken it, or after `hand_over`."""
        if self.is_handed_over:
            return None
        session = self.membership.sessions.get(key)
        if session is None:
            return None if key in self.membership.dead else self.membership.reply(now, UNKNOWN_SESSION, seq)
        if session.seq != seq:
            return None
        session.held = False
        return self.membership.reply(now, session, seq)

    def groups_to_tell(self, key: SessionKey) -> int:
        """Of how many groups the reply to a session's heartbeat has something to say, at most."""
        session = self.membership.sessions.get(key)
        return 0 if session is None else min(len(session.unsettled), TOLD_AT_ONCE)

    def is_accepted(self, key: SessionKey) -> bool:
        """Whether the latest heartbeat of a session was taken in, so that its process is to be watched."""
        session = self.membership.sessions.get(key)
        return session is not None and not session.needs_resync and not session.resync

    def has_joined(self, key: SessionKey) -> bool:
        """Whether a session takes part in some group, so that it has taken its predecessor's place by now."""
        session = self.membership.sessions.get(key)
        return session is not None and bool(session.groups)

    def locate(self, key: SessionKey, node: str, pid: int | None) -> None:
        """The process of a session: the hex id of its node and its pid there, if that is known."""
        self.membership.locate(key, Where(node or None, pid))
        self.has_actions = True

    def draining(self, now: float, nodes: Mapping[str, float | None], dead: Set[str] = frozenset()) -> None:
        """These nodes are draining, and no others; see ``Membership.draining``."""
        if self.is_handed_over:
            return
        self.membership.draining(now, nodes, dead)
        self.has_actions = True

    def died(
        self,
        now: float,
        key: SessionKey,
        process: str = "",
        why: Why = ("its process is dead",),
        seconds: float | None = None,
    ) -> None:
        """The process of a session is certainly dead: rule 5. For `process` see `get_subset`.

        `why` and `seconds`: who said so, and how long it took to be certain.
        A session of which another process may still work by its latest subset lives on until its lease ends.
        """
        if self.is_handed_over:
            return
        self.replaced(now, key, process)
        if self._may_answer(now, key, process):
            self.membership.died(now, key, why, seconds)

    def replaced(self, now: float, key: SessionKey, process: str) -> None:
        """This process of a bare caller is certainly dead, and the next one of its session has its place."""
        if key in self._answers and self._answers[key].process == process and not self.is_handed_over:
            del self._answers[key]
        self.has_actions = True

    def ending(self, now: float, key: SessionKey) -> None:
        """The process of a session is about to end."""
        if self.is_handed_over:
            return
        self.membership.ending(now, key)
        self.has_actions = True

    def close(self, now: float, key: SessionKey) -> None:
        """A session says that it has stopped working, and will not come back."""
        self._refuse_if_handed_over()
        self.membership.close(now, key)
        self.has_actions = True

    # -- calls of a bare handle ---------------------------------------------------------------------------------

    def heartbeat(self, now: float, key: SessionKey) -> dict[str, Any]:
        """Renew the lease of a bare caller; see ``Membership.heartbeat``."""
        self._refuse_if_handed_over()
        self.has_actions = True
        return self.membership.heartbeat(now, key)

    def get_subset(
        self,
        group: str,
        key: SessionKey,
        weight: int,
        exclusive: bool | None = None,
        process: str = "",
        where: Where | None = None,
    ) -> Steps[ViewMessage | None]:
        """The view that the caller may act on, or None: nothing. A drained session does not join.

        `where`: the caller's process, if that is known for certain.
        `process` tells apart the processes that use one session. By its call a process says that it is done with its
        own former subset, and not that others are with theirs: it waits until they are dead or their lease is over.
        """
        received = self._now
        yield from self._alone(key, process)
        session = self.membership.sessions.get(key)
        if session is None or group not in session.drained:
            self.membership.join(self._now, group, key, weight, None, exclusive, where)
        yield self._published(group)
        if self._needs_proof(group):
            self._proof_needed = received
            yield _Wait("proof", lambda _: self.membership.proven_since(received))
            yield from self._alone(key, process)
            view = self.membership.use(self._now, group, key)
            if view is not None:
                # A call in another group, received later, may have been answered before this one.
                until = max(self.membership.bare_lease_over(received), self._last_answer_over(key, process))
                self._answers[key] = _Answer(process, until)
            return view
        return self.membership.use(self._now, group, key)

    def _alone(self, key: SessionKey, process: str) -> Steps[None]:
        """Until no other process may still work by the latest subset of a session. It keeps its place meanwhile."""
        if not self._may_answer(self._now, key, process):
            self.membership.heartbeat(self._now, key)
        while not self._may_answer(self._now, key, process):
            yield _Wait(("process", key, process), lambda now: self._may_answer(now, key, process))

    def _may_answer(self, now: float, key: SessionKey, process: str) -> bool:
        """Whether no other process may still work by the latest subset of this session."""
        latest = self._answers.get(key)
        return latest is None or latest.process == process or now >= latest.until

    def _last_answer_over(self, key: SessionKey, process: str) -> float:
        latest = self._answers.get(key)
        return latest.until if latest is not None and latest.process == process else float("-inf")

    def _needs_proof(self, group: str) -> bool:
        """Rule 8: only the latest partition actor may answer a bare caller in an exclusive group."""
        return self.membership.find(group).exclusive

    def join(
        self,
        group: str,
        key: SessionKey,
        weight: int,
        metadata: bytes | None,
        exclusive: bool | None,
        process: str = "",
        where: Where | None = None,
    ) -> Steps[dict[str, Any]]:
        """``{"epoch", "token", "exclusive", "members"}``, once the join is published.

        `process` and `where`: see `get_subset`.
        """
        yield from self._alone(key, process)
        self.membership.join(self._now, group, key, weight, metadata, exclusive, where)
        yield self._published(group)
        found = self.membership.find(group)
        token = fencing_token(found.epoch) if found.epoch else 0
        return {"epoch": found.epoch, "token": token, "exclusive": found.exclusive, "members": dict(found.members)}

    # -- calls of operators and of anybody ----------------------------------------------------------------------

    def find(self, group: str) -> Steps[Group]:
        """The group, once it is published."""
        membership = self.membership
        if membership.restarted and group not in membership.groups:  # its members may have still to report
            yield _Wait(("known", group), lambda now: group in membership.groups or not membership.recovering(now))
        membership.find(group)
        yield self._published(group)
        return membership.find(group)

    def change(self, name: str, group: str, *arguments: Any) -> Steps[Epoch | None]:
        """`leave`, `drain` or `forget` of ``Membership``: the epoch that shows the change, or None."""
        yield from self.find(group)
        getattr(self.membership, name)(self._now, group, *arguments)
        yield self._published(group)
        found = self.membership.groups.get(group)
        return None if found is None else found.epoch

    def make_group(self, now: float, group: str) -> bool:
        """See ``Membership.make_group``."""
        self._refuse_if_handed_over()
        self.has_actions = True
        return self.membership.make_group(now, group)

    def delete_group(self, group: str) -> Steps[bool]:
        """See ``Membership.delete_group``."""
        yield from self.find(group)
        return self.membership.delete_group(self._now, group)

    def break_lock(self, name: str) -> Steps[int]:
        """How many held the lock, once they know that they do not, or have lost their lease."""
        yield self._lock_known(name)
        broken = self.membership.break_lock(self._now, name)
        holders = self.membership.locks.holders
        yield _Wait(object(), lambda _: not any(claim is holder for claim in broken for holder in holders(name)))
        return len(broken)

    def get_leader(self, group: str) -> Steps[SessionKey | None]:
        """The session that leads a group, or None."""
        name = leader_name(group)
        yield self._lock_known(name)
        return next((claim.key for claim in self.membership.locks.holders(name) if claim.broken_at is None), None)

    def configure(self, settings: Settings, version: int) -> Steps[None]:
        """Change the settings, once a lease as long as their ttl is recorded; see ``Membership.configure``."""
        if settings.ttl > self.membership.longest_allowed:
            self.membership.want_lease(settings.ttl)
            yield _Wait(object(), lambda _: self.membership.longest_allowed >= settings.ttl)
        self.membership.configure(self._now, settings, version)

    def end(self, now: float) -> float:
        """Begin the end in good order: see ``Membership.end``. Returns the seconds that it takes at most."""
        self._refuse_if_handed_over()
        self.has_actions = True
        self.membership.end(now)
        return self.membership.settles_within(now)

    def settled(self) -> Steps[None]:
        """Wait until no lease that somebody may act on is out: the process may end."""
        yield _Wait("settled", lambda _: self.membership.is_settled())

    # -- rule 13: the hand-over to the next partition actor ----------------------------------------------------------

    def hand_over(self) -> Steps[dict[str, Any]]:
        """The whole state, for `take_over` of the next partition actor, once all members have reported to this one.

        From then on this one grants, answers and changes nothing: every call raises ``PartitionActorReplaced``.
        """
        state = yield from self.copy_state()
        self.is_handed_over = True
        for waiting in self._waiting.values():
            self._results += [(call, PartitionActorReplaced(HANDED_OVER)) for _, call, _ in waiting]
        self._waiting.clear()
        return state

    def copy_state(self) -> Steps[dict[str, Any]]:
        """The same, while this one goes on: to try out whether the next one can begin with it."""
        yield _Wait(object(), lambda _: self.membership.may_hand_over)
        state = self.membership.state(self._now)
        state["answers"] = [(key, each.process, each.until - self._now) for key, each in self._answers.items()]
        return state

    def take_over(self, now: float, state: Mapping[str, Any]) -> None:
        """Go on for the partition actor of which the membership has this `state`."""
        for key, process, left in state["answers"]:
            self._answers[tuple(key)] = _Answer(process, now + left)

    def _refuse_if_handed_over(self) -> None:
        if self.is_handed_over:
            raise PartitionActorReplaced(HANDED_OVER)

    # -- calls that wait ----------------------------------------------------------------------------------------

    def _published(self, group: str) -> _Wait:
        """Until everything asked for so far in a group is published."""
        groups = self.membership.groups
        return _Wait(("published", group), lambda _: group not in groups or groups[group].is_published)

    def _lock_known(self, name: str) -> _Wait:
        """Until nobody may hold a lock who has still to report it, as after a restart."""
        membership = self.membership
        return _Wait(("lock", name), lambda _: not membership.locks_unknown or bool(membership.locks.holders(name)))

    def begin(self, now: float, call: Any, steps: Steps[Any]) -> None:
        """Begin a call, or go on with it: `actions` has its result, under the token `call` of the caller's choice."""
        self._now, self.has_actions = now, True
        if self.is_handed_over:
            self._results.append((call, PartitionActorReplaced(HANDED_OVER)))
            return
        try:
            while (wait := next(steps)).is_over(now):
                pass
        except StopIteration as end:
            self._results.append((call, end.value))
        except Exception as error:
            self._results.append((call, error))
        else:
            self._waiting.setdefault(wait.key, []).append((wait, call, steps))

    def _resume(self, now: float) -> bool:
        """Go on with the calls whose wait is over; returns whether there were any."""
        over: list[tuple[_Wait, Any, Steps[Any]]] = []
        for key, waiting in list(self._waiting.items()):
            while waiting and waiting[0][0].is_over(now):
                over.append(waiting.pop(0))
            if not waiting:
                del self._waiting[key]
        for _, call, steps in over:
            self.begin(now, call, steps)
        return bool(over)

    def cancel(self, call: Any) -> None:
        """Nobody wants the result of a call any more: it takes no further step."""
        for waiting in self._waiting.values():
            waiting[:] = [each for each in waiting if each[1] is not call]
