"""Drives one member: its sessions, callbacks, guarded calls, candidacies and slots. Events in, actions out.

Whoever runs a member (the process of a ``PartitionCoordinator``, the simulation) hands each event to the driver, and
then carries out its `actions`. What the member may work on, when it acknowledges an epoch, which callbacks may run and
when a session is closed is decided here. The rules named in comments are those of ``docs/guarantees.md``.

A session is *current* from `start` to `stop`. Then it is *leaving*: it still sends heartbeats, until it is out of its
groups. Then it is *closing*, until its callbacks and guarded calls have returned, and the partition actor is told that
the session is closed. Meanwhile the next session may have been started.

Each group has a queue of deliveries, which run one at a time and in order; so has each group's election. Queues do not
wait for each other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakSet

from partition_actor.core.epochs import Epoch
from partition_actor.core.lock_requests import LockRequest
from partition_actor.core.member import Change, MemberState
from partition_actor.core.messages import Reply, Request, ShortRequest, leader_name, slot_name
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.settings import Settings

ACK_SPACING = 0.0005
"""Seconds between two acks, about half of what the partition actor needs to tell one member the news. With less, acks
arrive in between; with more, the hand-off waits for them."""

Queue = tuple[Literal["group", "leader"], str]
"""A group's changes, or its election."""


@dataclass(eq=False, slots=True)
class Delivery:
    """One run of callbacks: those for lost keys and for the change, then those for gained keys; or one of `elect`."""

    group: str
    session: MemberState
    change: Change | None = None
    """What is told to those who watch the group; None: nothing."""
    epoch: Epoch | None = None
    """What may be acknowledged when the callbacks for lost keys have returned."""
    all_lost: bool = False
    """The lease or the session has ended: whatever the member had is lost, even what it has got back since."""
    over: bool = False
    """It has returned."""
    elected: int | None = None
    """The fencing token with which `callback` is told that this process leads the group; None: a change."""
    callback: Any = None

    @property
    def queue(self) -> Queue:
        """The queue in which it waits its turn."""
        return ("group" if self.elected is None else "leader", self.group)


@dataclass(eq=False)
class GuardedCall:
    """A call that runs on keys of an exclusive group, given by their texts. It is over when nobody refers to it."""

    group: str
    session: MemberState
    keys: list[str]
    over: bool = False
    """It has returned."""


@dataclass(eq=False, slots=True)
class Candidacy:
    """One group that this process wants to lead."""

    session: MemberState
    ticket: int
    callbacks: list[list[Any]] = field(default_factory=list)
    """``[callback, token of the lead that it was told of last]``."""


@dataclass(eq=False, slots=True)
class SlotWish:
    """The slot that a session wants while it is a member of a group."""

    space: str
    number: int | None
    """None: the lowest one that nobody has."""
    ticket: int = 0
    """0: it has not been asked for."""
    refused_by: int | None = None
    """The incarnation of a partition actor that knows no slots."""


@dataclass(slots=True)
class MemberActions:
    """What to do after an event."""

    send: dict[MemberState, float]
    """Seconds within which a session sends its next request."""
    close: list[MemberState]
    """Sessions that hold nothing and never will: let the partition actor forget them."""
    over: list[MemberState]
    """Sessions that send no more heartbeats."""
    deliver: bool
    """There are deliveries to run: see `MemberDriver.next_delivery`."""
    wake_at: float
    """When to call `MemberDriver.timer` at the latest, on the clock of leases."""


class MemberDriver:
    """Events of one member. `now` is seconds on the clock of leases; `process` is this process, as `start` was told."""

    def __init__(self, member_id: str, settings: Settings) -> None:
        self.member_id = member_id
        self.settings = settings
        self.session: MemberState | None = None
        """The latest session, which may be over; None before the first."""
        self._active = False
        """Whether `session` is current, in its process."""
        self._process: Hashable = None
        self._started = 0
        """How many sessions there have been."""
        self._leaving: dict[MemberState, tuple[int, float]] = {}
        """By session, the `seq` of the request whose answer says that its locks are free, and how long to wait for it
        at least."""
        self._closing: dict[MemberState, None] = {}
        self._listeners: Counter[str] = Counter()
        """By group, how many want to be told of changes or keys."""
        self._queues: dict[Queue, deque[Delivery]] = {}
        self._running: dict[Queue, Delivery] = {}
        self._calls: WeakSet[GuardedCall] = WeakSet()
        self._returned: dict[tuple[MemberState, str], Epoch] = {}
        """Epochs whose callbacks have returned, and that are not acknowledged yet."""
        self._lapsed: set[str] = set()
        """Listened groups whose lease has ended, and whose listeners were told."""
        self._candidacies: dict[str, Candidacy] = {}
        self._slots: dict[tuple[MemberState, str], SlotWish] = {}
        """By session and group."""
        self._outlived: dict[tuple[MemberState, int], tuple[str, float]] = {}
        """Slots that are kept until the callbacks in their group have returned: by session and ticket, that group, and
        until when at most."""
        self._left: set[str] = set()
        """Groups that the current session has left and not joined since."""
        self._actions = MemberActions({}, [], [], False, float("inf"))

    def actions(self, now: float) -> MemberActions:
        """What to do now."""
        self.timer(now)  # nobody is woken for an end that is past already
        self._mind_slots(now)
        self._mind_withdrawal()
        actions = self._actions
        self._actions = MemberActions({}, [], [], False, float("inf"))
        actions.deliver = self.ready() > 0
        actions.wake_at = min((end for end in self._ends() if end > now), default=float("inf"))
        return actions

    # -- sessions -----------------------------------------------------------------------------------------------

    def start(self, name: str, process: Hashable) -> MemberState | None:
        """Begin a session in this process; None when there is a current one.

        `name` is that of this life of the process; the session's is that and a number, which grows with each start.
        """
        if self.is_current(process):
            return None
        if process != self._process:  # a child process: what it has inherited is its parent's
            for inherited in (self._leaving, self._closing, self._queues, self._running, self._calls, self._returned):
                inherited.clear()
            self._candidacies.clear()
            self._slots.clear()
            self._outlived.clear()
        heard = 0 if self.session is None else self.session.incarnation
        self._started += 1
        self.session = MemberState(self.member_id, f"{name}.{self._started}", self.settings)
        self.session.incarnation = heard  # no session follows a partition actor of the past (rule 8)
        self._process, self._active = process, True
        self._lapsed.clear()
        self._left.clear()
        return self.session

    def is_current(self, process: Hashable) -> bool:
        """Whether `process` has a current session. A child that was forked since has none."""
        return self._active and process == self._process

    def stop(self, now: float, process: Hashable) -> MemberState | None:
        """End the current session: it permits nothing from now on, and hands its keys over. None: there is none.

        A `stop` that was interrupted can be called again.
        """
        session, is_first = self.session, self.is_current(process)
        if session is None or not (is_first or (self.has_stopped(process) and session in self._leaving)):
            return None
        self._active, self._leaving[session] = False, (0, now)
        views = {group: session.view(group) for group in session.groups}
        for group in views:
            session.leave(group)
        had_locks = session.locks.clear(keep=self._slot_tickets(session))
        self._candidacies.clear()
        for group in self._listeners if is_first else ():
            view = views.get(group)
            change = None if view is None else Change(group, view, None, "out")
            self.post(Delivery(group, session, change, all_lost=True))
        self._leaving[session] = (session.want_reply(), now + session.settings.ttl) if had_locks else (0, now)
        self._send(session)
        self._end_if_out(now, session)
        return session

    def leave(self, group: str) -> None:
        """Leave a group; see ``MemberState.leave``."""
        session = self.session
        if session is not None and group in session.groups:
            session.leave(group)
            self._left.add(group)
            self._forget_if_out(session, group)
            self._send(session)

    def has_left(self, group: str) -> bool:
        """Whether the user has left a group, so that only an explicit join brings the member back."""
        held = None if self.session is None else self.session.groups.get(group)
        return group in self._left and (held is None or held.want == "out")

    @staticmethod
    def _forget_if_out(session: MemberState, group: str) -> None:
        held = session.groups.get(group)
        if held is not None and held.want == "out" and not held.is_live:
            del session.groups[group]

    def abandon(self, session: MemberState) -> None:
        """The partition actor cannot be told that a session leaves: end it. Its lease ends by itself."""
        if session in self._leaving:
            self._end(session)

    def has_stopped(self, process: Hashable) -> bool:
        """Whether the latest session was begun and stopped in this process."""
        return self.session is not None and process == self._process and not self._active

    def is_over(self, session: MemberState) -> bool:
        """Whether a session sends no more heartbeats."""
        return session not in self._leaving and not (session is self.session and self._active)

    def is_closed(self, session: MemberState) -> bool:
        """Whether a session is over and everything that ran in it has returned."""
        return self.is_over(session) and session not in self._closing

    def _end_if_out(self, now: float, session: MemberState) -> None:
        if session not in self._leaving:
            return
        seq, until = self._leaving[session]
        out = all(held.state not in ("joining", "member") for held in session.groups.values())
        free = not self._slot_tickets(session)
        if (out and free and session.answered >= seq) or now >= max(until, *session.lease_ends()):
            self._end(session)

    def _end(self, session: MemberState) -> None:
        del self._leaving[session]
        session.end()
        self._actions.over.append(session)
        self._closing[session] = None
        self._close_if_done(session)

    def _close_if_done(self, session: MemberState) -> None:
        """Close a session once none of its callbacks and calls runs: until then it may be at work (rule 5)."""
        if session in self._closing and not self._is_busy(session):
            del self._closing[session]
            self._actions.close.append(session)

    def _is_busy(self, session: MemberState, group: str | None = None) -> bool:
        """Whether a callback or guarded call of a session runs or waits to run; in a `group` not one of `elect`."""
        deliveries = [each for each in self.unfinished() if group is None or each.elected is None]
        at_work: list[Delivery | GuardedCall] = [*self._calls, *deliveries]
        return any(each.session is session and group in (None, each.group) for each in at_work)

    # -- the exchange with the partition actor ------------------------------------------------------------------

    def request(self, now: float, session: MemberState) -> Request | ShortRequest | None:
        """The next request of a session; see ``MemberState.request``. None: it is over, and says nothing any more.

        It has no groups by then: a request would say that it holds nothing, while its callbacks and calls still run.
        """
        return None if self.is_over(session) else session.request(now)

    def receive(self, now: float, session: MemberState, reply: Reply) -> list[Change] | None:
        """Take in the reply to a session's request; None: it does not count. See ``MemberState.receive``."""
        if self.is_over(session):
            return []
        self._mind_lapses(now)
        changes = session.receive(reply)
        if changes is None:
            return None
        for change in changes:
            self._take(now, session, change)
        if session is self.session:
            for group in list(self._lapsed):
                view = session.view(group)
                if view is not None and now < session.acts_until(group):  # it runs again: tell what is gained
                    self._lapsed.discard(group)
                    self.post(Delivery(group, session))
            self._announce(now)
        self._end_if_out(now, session)
        return changes

    def _take(self, now: float, session: MemberState, change: Change) -> None:
        self._forget_if_out(session, change.group)
        epoch = None if change.after is None else change.after.epoch
        if change.group in self._listeners or ("group", change.group) in self._running:
            # Those who watch the group were told by `stop` that a leaving session is out.
            told = None if session in self._leaving else change
            self.post(Delivery(change.group, session, told, epoch, all_lost=change.rejoined))
        elif epoch is not None:
            self._note_returned(now, session, change.group, epoch)

    def take_settings(self, session: MemberState, settings: Settings) -> None:
        """Take over the partition actor's settings."""
        self.settings = settings
        session.take_settings(settings)

    def timer(self, now: float) -> None:
        """The moment `MemberActions.wake_at` has come."""
        self._mind_lapses(now)
        for session in list(self._leaving):
            self._end_if_out(now, session)
        for session in list(self._closing):  # a call that was thrown away says nothing
            self._close_if_done(session)

    def _mind_withdrawal(self) -> None:
        """Say that a session whose leases were withdrawn has let go, once all that ran by them has ended: rule 11."""
        for session in (self.session, *self._leaving):
            if session is None or not session.withdrawn or session.has_let_go or self._is_busy(session):
                continue
            if session.has_released() and not self.is_over(session):
                session.has_let_go = True
                self._send(session)

    def _mind_lapses(self, now: float) -> None:
        """Tell listeners of leases that have ended, and acknowledge what waited for calls beyond a lease: rule 6."""
        session = self.session
        if session is not None and self._active and now >= min(session.lease_ends()):
            for group in self._listeners:
                view = session.view(group)
                if group not in self._lapsed and view is not None and now >= session.acts_until(group):
                    self._lapsed.add(group)
                    self.post(Delivery(group, session, all_lost=True))
        for held_up in list(self._returned):
            self._acknowledge(now, *held_up)

    def _ends(self) -> Iterable[float]:
        """The ends of leases at which there may be something to do."""
        sessions = {*self._leaving, *(session for session, _ in self._returned)}
        if self.session is not None and self._active and self._listeners:
            sessions.add(self.session)
        for session in sessions:
            yield from session.lease_ends()
        for _, until in (*self._leaving.values(), *self._outlived.values()):
            yield until

    # -- callbacks ----------------------------------------------------------------------------------------------

    def listen(self, group: str) -> None:
        """Run deliveries for a group from now on, beginning with one that looks at which keys are the member's."""
        self._listeners[group] += 1
        self.refresh(group)

    def unlisten(self, group: str) -> None:
        """One of those who wanted to be told has gone."""
        self._listeners[group] -= 1
        if self._listeners[group] <= 0:
            del self._listeners[group]
            self._lapsed.discard(group)

    def refresh(self, group: str) -> None:
        """Let a group's listeners look again at which keys are the member's."""
        will_look = ("group", group) in self._queues
        if self.session is not None and group in self._listeners and not will_look:
            self.post(Delivery(group, self.session))

    def post(self, delivery: Delivery) -> None:
        """Let a delivery wait its turn."""
        self._queues.setdefault(delivery.queue, deque()).append(delivery)

    def next_delivery(self) -> Delivery | None:
        """The next delivery to run, in any thread; report its end to `lost_returned` and `returned`.

        Deliveries of one queue run one at a time, even if a callback asks for the next one.
        """
        for queue, waiting in self._queues.items():
            if queue not in self._running:
                delivery = self._running[queue] = waiting.popleft()
                if not waiting:
                    del self._queues[queue]
                else:  # let the other queues go first next time
                    self._queues[queue] = self._queues.pop(queue)
                return delivery
        return None

    def ready(self) -> int:
        """How many deliveries may run now, beside each other."""
        return sum(queue not in self._running for queue in self._queues)

    def lost_returned(self, now: float, delivery: Delivery) -> None:
        """The callbacks for what a delivery tells to be lost have returned: rule 3."""
        if delivery.epoch is not None:
            self._note_returned(now, delivery.session, delivery.group, delivery.epoch)

    def returned(self, delivery: Delivery) -> None:
        """All callbacks of a delivery have returned."""
        delivery.over = True
        if self._running.get(delivery.queue) is delivery:  # not so in a child that a callback has forked
            del self._running[delivery.queue]
        self._close_if_done(delivery.session)

    def is_led(self, delivery: Delivery) -> bool:
        """Whether the lead that a delivery tells of is still wanted."""
        candidacy = self._candidacies.get(delivery.group)
        return candidacy is not None and candidacy.session.locks.token(candidacy.ticket) == delivery.elected

    def unfinished(self) -> list[Delivery]:
        """The deliveries that run or wait to run."""
        return [*self._running.values(), *(each for queue in self._queues.values() for each in queue)]

    def is_running(self, what: Delivery | GuardedCall) -> bool:
        """Whether a delivery, or a guarded call, has begun and not returned, in this process."""
        return what in self._calls or any(each is what for each in self._running.values())

    def _note_returned(self, now: float, session: MemberState, group: str, epoch: Epoch) -> None:
        self._returned[session, group] = max(epoch, self._returned.get((session, group), epoch))
        self._acknowledge(now, session, group)

    def _acknowledge(self, now: float, session: MemberState, group: str) -> None:
        """Acknowledge, unless a guarded call runs on a lost key: it counts as a callback for that key (rule 3)."""
        if (session, group) not in self._returned or self._is_at_work(now, session, group):
            return
        ackers = session.acknowledge(group, self._returned.pop((session, group)))
        if ackers:
            # Later in proportion to how many members acknowledge at once: else the last member would hear of the epoch
            # only when all these acks have been taken in.
            self._send(session, min((ackers - 1) * ACK_SPACING, session.settings.publish_window))

    def _send(self, session: MemberState, seconds: float = 0.0) -> None:
        self._actions.send[session] = min(seconds, self._actions.send.get(session, seconds))

    # -- guarded calls ------------------------------------------------------------------------------------------

    def begin_call(self, now: float, process: Hashable, group: str, keys: list[str]) -> GuardedCall | None:
        """Begin a call on these keys; report its end to `end_call`. None: the member may not work on all of them."""
        session = self._permitted(process)
        if session is None or not session.may_act(now, group, *keys):
            return None
        call = GuardedCall(group, session, keys)
        view = session.view(group)
        if view is not None and view.exclusive:
            self._calls.add(call)
        return call

    def end_call(self, now: float, call: GuardedCall) -> None:
        """A call has returned."""
        call.over = True
        if call in self._calls:
            self._calls.discard(call)
            self._acknowledge(now, call.session, call.group)
            self._close_if_done(call.session)

    def _is_at_work(self, now: float, session: MemberState, group: str) -> bool:
        view = session.view(group)
        if view is None or now >= session.acts_until(group):
            return False
        return any(
            call.session is session and call.group == group and not session.may_act(now, group, *call.keys)
            for call in self._calls
        )

    # -- what it may work on ------------------------------------------------------------------------------------

    def _permitted(self, process: Hashable) -> MemberState | None:
        """The session whose permissions count in `process`: none in a child that was forked since."""
        return self.session if self.is_current(process) else None

    def acting(self, now: float, process: Hashable, group: str) -> View | None:
        """The view that the member may act on at `now`."""
        session = self._permitted(process)
        return None if session is None else session.acting(now, group)

    def share(self, now: float, process: Hashable, group: str) -> Share:
        """What the member may work on at `now`: rule 4."""
        session = self._permitted(process)
        return Share(self.member_id) if session is None else session.share(now, group)

    def token(self, now: float, process: Hashable, group: str) -> int:
        """The fencing token of the view that the member may act on; 0 without one."""
        session = self._permitted(process)
        return 0 if session is None else session.token(now, group)

    def holds(self, now: float, process: Hashable, session: MemberState, ticket: int) -> bool:
        """Whether the lock that `session` asked for under `ticket` is held at `now`: rule 10."""
        return self._permitted(process) is session and session.holds(now, ticket)

    # -- slots --------------------------------------------------------------------------------------------------

    def want_slot(self, group: str, number: int | None, space: str) -> None:
        """Want a slot of a space while the current session is a member of a group; None: the lowest that is free.

        A slot that it has is kept if it is as wanted.
        """
        session = self.session
        assert session is not None
        before = self._slots.get((session, group))
        if before is not None and (before.space, before.number) == (space, number):
            return
        wish = self._slots[session, group] = SlotWish(space, number)
        if before is not None:
            held = session.locks.slot(before.ticket)
            if before.space == space and held is not None and number in (None, held):
                wish.ticket = before.ticket
            else:
                session.locks.drop(before.ticket)

    def slot(self, now: float, process: Hashable, group: str) -> int | None:
        """The slot that the member may use at `now`: rule 15. One that is seen to have lapsed is lost for good."""
        session = self._permitted(process)
        wish = None if session is None else self._slots.get((session, group))
        if session is None or wish is None or not session.holds(now, wish.ticket):
            return None
        return session.locks.slot(wish.ticket) if group in self.slots(now, process) else None

    def slots(self, now: float, process: Hashable) -> dict[str, LockRequest]:
        """The slots that the member may use at `now`, by group. Asking changes nothing."""
        session = self._permitted(process)
        if session is None or not self._slots:
            return {}
        held = session.locks_held(now)
        return {
            group: held[wish.ticket]
            for (owner, group), wish in self._slots.items()
            if owner is session and wish.ticket in held and session.view(group) is not None
        }

    def is_slot_asked(self, group: str) -> bool:
        """Whether the current session waits to be told of its slot."""
        session = self.session
        wish = None if session is None else self._slots.get((session, group))
        return session is not None and wish is not None and session.locks.state(wish.ticket) == "waiting"

    def _slot_tickets(self, session: MemberState) -> set[int]:
        wanted = {wish.ticket for (owner, _), wish in self._slots.items() if owner is session and wish.ticket}
        return wanted | {ticket for owner, ticket in self._outlived if owner is session}

    def _mind_slots(self, now: float) -> None:
        """Ask for the slots that are wanted, and let go of those of groups that a session is out of."""
        for (session, group), wish in list(self._slots.items()):
            held = session.groups.get(group)
            state = None if held is None else held.state
            has_place = state == "member" or (state == "joining" and not session.node_drains)
            if not has_place and wish.ticket:
                self._outlived[session, wish.ticket] = (group, now + session.settings.handoff_timeout)
                wish.ticket = 0
            if state not in ("joining", "member"):
                del self._slots[session, group]
            elif has_place and held is not None:
                self._ask(session, wish, is_wanted=held.want == "in")
        for (session, ticket), (group, until) in list(self._outlived.items()):
            # What has lapsed permits nothing any more, and may be somebody else's.
            if session.locks.state(ticket) == "held" and now < until and self._is_busy(session, group):
                continue
            del self._outlived[session, ticket]
            session.locks.drop(ticket)
            if not self.is_over(session):
                self._send(session)
            if session in self._leaving:
                self._leaving[session] = (session.want_reply(), now + session.settings.ttl)

    def _ask(self, session: MemberState, wish: SlotWish, *, is_wanted: bool) -> None:
        came_of_it = session.locks.state(wish.ticket)
        if came_of_it == "refused":
            wish.refused_by = session.incarnation
        if came_of_it in ("lost", "refused"):
            session.locks.drop(wish.ticket)
            wish.ticket = 0
            self._send(session)
        if not wish.ticket and is_wanted and wish.refused_by != session.incarnation and session is self.session:
            wish.ticket = session.locks.add(slot_name(wish.space, wish.number))
            self._send(session)

    # -- elections ----------------------------------------------------------------------------------------------

    def elect(self, now: float, group: str, callback: Any = None) -> None:
        """Be a candidate while the current session lasts; `callback` is delivered when this process leads."""
        session = self.session
        assert session is not None
        if group not in self._candidacies:
            self._candidacies[group] = Candidacy(session, session.locks.add(leader_name(group)))
            self._send(session)
        if callback is not None:
            self._candidacies[group].callbacks.append([callback, 0])
        self._announce(now)

    def leads(self, now: float, process: Hashable, group: str) -> bool:
        """Whether this process leads a group at `now`."""
        candidacy = self._candidacies.get(group)
        return candidacy is not None and self.holds(now, process, candidacy.session, candidacy.ticket)

    def stand_down(self, now: float, process: Hashable, group: str, withdraw: bool) -> tuple[bool, int]:
        """Let the next candidate lead; be the last one, or none.

        Returns whether this process led, and the `seq` of the request that says so; 0 if there is nothing to say.
        """
        candidacy = self._candidacies.get(group)
        if candidacy is None:
            return False, 0
        led = self.leads(now, process, group)
        if withdraw:
            candidacy.session.locks.drop(candidacy.ticket)
            del self._candidacies[group]
        elif led:
            self._renew(candidacy, group)
        self._send(candidacy.session)
        return led, candidacy.session.want_reply()

    def _renew(self, candidacy: Candidacy, group: str) -> None:
        candidacy.session.locks.drop(candidacy.ticket)
        candidacy.ticket = candidacy.session.locks.add(leader_name(group))
        self._send(candidacy.session)

    def _announce(self, now: float) -> None:
        """Deliver the leads that a reply has brought, and be a candidate anew where the lead was lost."""
        for group, candidacy in self._candidacies.items():
            if candidacy.session.locks.state(candidacy.ticket) in ("lost", "refused"):
                self._renew(candidacy, group)
            if not candidacy.session.holds(now, candidacy.ticket):
                continue
            token = candidacy.session.locks.token(candidacy.ticket)
            for each in candidacy.callbacks:
                if each[1] != token:
                    each[1] = token
                    self.post(Delivery(group, candidacy.session, elected=token, callback=each[0]))
