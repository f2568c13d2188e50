"""A member's sessions with the partition actor, one after another: each `start` begins a new one.

``core.member_driver`` decides; a ``Session`` hands it events under one lock, and has its transport carry out the
actions. Then everybody who waits asks again.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from partition_actor import clock
from partition_actor.core.member import Change, MemberState
from partition_actor.core.member_driver import MemberDriver
from partition_actor.core.messages import Reply, Request, ShortRequest
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.errors import NotStarted, PartitionActorUnavailable, PartitionError
from partition_actor.member.wakeups import Wakeups
from partition_actor.settings import Settings

log = logging.getLogger(__name__)


class Transport:
    """What a member needs of the world around it. This one reaches no partition actor.

    Its methods never block, but for `ask_now`. Those that carry out actions are called under the lock of `wakeups`.
    """

    def __init__(self, wakeups: Wakeups | None = None) -> None:
        self._wakeups = wakeups or Wakeups()

    @property
    def wakeups(self) -> Wakeups:
        """Those who wait for what events bring; its lock guards the driver."""
        return self._wakeups

    def now(self) -> float:
        """Seconds on the clock of leases."""
        return clock.now()

    def process(self) -> Hashable:
        """This process; a child that was forked is another."""
        return os.getpid()

    def new_name(self) -> str:
        """A name that nobody else has."""
        return uuid.uuid4().hex

    def open(self, session: Session, member_state: MemberState) -> None:
        """Exchange heartbeats: `session.request`, then `session.receive` or `session.fail`."""

    def is_connected(self, member_state: MemberState) -> bool:
        """Whether the last request of a session was answered."""
        return False

    def send(self, member_state: MemberState, seconds: float) -> None:
        """Send the next request of a session within so many seconds."""

    def end(self, member_state: MemberState) -> None:
        """Send no more heartbeats of a session."""

    def close(self, member_state: MemberState) -> None:
        """Let the partition actor forget a session. Nothing waits for it."""

    def wake_at(self, session: Session, moment: float) -> None:
        """Call `session.timer` at `moment`, and no more at the moment that was said before."""

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns; see ``Session.ask``."""
        raise PartitionActorUnavailable(f"{method}: there is no partition actor")

    def ask_now(self, method: str, seconds: float, *arguments: Any) -> Any:
        """What a method of the partition actor returns within so many seconds; see ``Session.ask_now``."""
        raise PartitionActorUnavailable(f"{method}: there is no partition actor")


class Session:
    """The sessions that `member_id` has with a partition actor, one after another.

    `on_changes` is called with the changes of each reply, and with none when the partition actor has been found or
    lost; without the lock, as it may call Ray. `call_timeout` is how many seconds a call waits for the partition actor.
    """

    is_local = False
    """Whether this is the single-instance mode: this process owns every key and leads every group."""

    def __init__(
        self,
        member_id: str,
        transport: Transport,
        settings: Settings,
        on_changes: Callable[[list[Change]], None] = lambda changes: None,
    ) -> None:
        self.member_id = member_id
        self.call_timeout = settings.call_timeout
        self.driver = MemberDriver(member_id, settings)
        """Use it under the `lock`, within `event` if it may change."""
        self.failure: PartitionError | None = None
        """What the partition actor refused the last request with, if it did."""
        self.stays = False
        """Sessions started from now on keep their places on a draining node until they are replaced: rule 14."""
        self.guard: object = None
        """What permits `owned_by` calls by this session."""
        self.deliver: Callable[[], None] = lambda: None
        """Called when there are deliveries to run."""
        self._names: dict[Hashable, str] = {}
        """The name of this member's sessions in this process."""
        self._transport = transport
        self._on_changes = on_changes

    @contextmanager
    def event(self) -> Iterator[MemberDriver]:
        """Hand the driver an event within this. Then its actions are carried out, and whoever waits asks again."""
        with self.lock:
            try:
                yield self.driver
            finally:
                self._carry_out()

    def _carry_out(self) -> None:
        transport, actions = self._transport, self.driver.actions(self.now())
        for member_state, seconds in actions.send.items():
            transport.send(member_state, seconds)
        for member_state in actions.over:
            transport.end(member_state)
        for member_state in actions.close:
            transport.close(member_state)
        transport.wake_at(self, actions.wake_at)
        if actions.deliver:
            self.deliver()
        self.wakeups.wake()

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send heartbeats; waits until the partition actor answers, at most `call_timeout`."""
        with self.event() as driver:
            if self._names.get(self.process()) is None:
                self._names = {self.process(): self._transport.new_name()}
            member_state = driver.start(self._names[self.process()], self.process())
            if member_state is None:
                return
            self.failure, member_state.stays = None, self.stays
            self._transport.open(self, member_state)
        transport = self._transport
        self.wait(lambda: transport.is_connected(member_state) or bool(self.failure) or driver.is_over(member_state))

    def lease_left(self) -> float:
        """Seconds until the last of its leases ends; 0.0 if none runs."""
        with self.lock:
            session = self.driver.session
            return 0.0 if session is None else max(0.0, max(session.lease_ends()) - self.now())

    def stop(self, waits: bool = True, at_most: float | None = None) -> bool:
        """Leave all groups, then send no more heartbeats.

        Waits until that and all callbacks and guarded calls of the session are over, for `at_most` so many seconds, or
        `call_timeout`. Returns whether they are.
        """
        with self.event() as driver:
            member_state = driver.stop(self.now(), self.process())
            if member_state is not None and not self._transport.is_connected(member_state):
                driver.abandon(member_state)
            latest = driver.session if driver.has_stopped(self.process()) else None
        if not waits or latest is None:
            return latest is None
        seconds = self.call_timeout if at_most is None else at_most
        return self.wakeups.wait(lambda: self.active or driver.is_closed(latest), seconds)

    @property
    def active(self) -> bool:
        """Whether it has been started and not stopped, in this process."""
        return self.driver.is_current(self.process())

    @property
    def was_started(self) -> bool:
        """Whether there is, or was, a session."""
        return self.driver.session is not None

    def check_active(self) -> None:
        """Raise ``NotStarted`` unless there is a session now."""
        if not self.active:
            raise NotStarted(f"member {self.member_id!r} has no session: call start() first")

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def wakeups(self) -> Wakeups:
        """Those who wait for what replies bring."""
        return self._transport.wakeups

    @property
    def lock(self) -> threading.RLock:
        """Guards `driver`."""
        return self.wakeups.lock

    def now(self) -> float:
        """Seconds on the clock of leases."""
        return self._transport.now()

    def process(self) -> Hashable:
        """This process."""
        return self._transport.process()

    @property
    def member_state(self) -> MemberState:
        """The state machine of the latest session. Raises ``NotStarted``."""
        session = self.driver.session
        if session is None:
            raise NotStarted(f"member {self.member_id!r}: call start() first, or use `with PartitionCoordinator(...)`")
        return session

    def forget_failure(self) -> None:
        """Let `failure` be that of the next request."""
        self.failure = None

    def state(self, group: str) -> str | None:
        """This member's state in a group, as ``GroupState`` has it; None if it never joined, or has left."""
        held = self.driver.session.groups.get(group) if self.driver.session else None
        return None if held is None else held.state

    def is_out(self, group: str) -> bool:
        """Whether it is no member of a group and does not wait to be one."""
        return self.state(group) not in ("joining", "member")

    def view(self, group: str) -> View | None:
        """The view held, whether the lease runs or not. Raises ``NotStarted``."""
        return self.member_state.view(group)

    def members(self, group: str) -> list[str]:
        """The ids of the members in the view held, sorted. Raises ``NotStarted``."""
        view = self.view(group)
        return [] if view is None else sorted(view.members)

    def owner(self, group: str, key: object) -> str | None:
        """The id of the owner of `key` in the view held. Raises ``NotStarted``."""
        view = self.view(group)
        return None if view is None else view.ring(self.member_state.settings).owner(key)

    def share(self, group: str) -> Share:
        """What this member may work on now. Raises ``NotStarted``."""
        with self.lock:
            self.member_state  # noqa: B018  # raises before the first start
            return self.driver.share(self.now(), self.process(), group)

    def token(self, group: str) -> int:
        """The fencing token of the view that this member may act on now; 0 if there is none. Raises ``NotStarted``."""
        with self.lock:
            self.member_state  # noqa: B018
            return self.driver.token(self.now(), self.process(), group)

    def holds(self, member_state: MemberState, ticket: int) -> bool:
        """Whether the lock that was asked for under `ticket`, in that session, is held now."""
        with self.lock:
            return self.driver.holds(self.now(), self.process(), member_state, ticket)

    def slot(self, group: str) -> int | None:
        """The slot that this member may use now. Raises ``NotStarted``."""
        with self.lock:
            self.member_state  # noqa: B018
            return self.driver.slot(self.now(), self.process(), group)

    # -- elections ----------------------------------------------------------------------------------------------

    def elect(self, group: str, callback: Any) -> None:
        """Be a candidate for the lead of a group; see ``MemberDriver.elect``. Raises ``NotStarted``."""
        with self.event() as driver:
            self.check_active()
            driver.elect(self.now(), group, callback)

    def leads(self, group: str) -> bool:
        """Whether this process leads a group now."""
        with self.lock:
            return self.driver.leads(self.now(), self.process(), group)

    def stand_down(self, group: str, withdraw: bool) -> tuple[bool, Callable[[], bool]]:
        """Let the next candidate lead: whether this process led, and what says whether the partition actor knows."""
        with self.event() as driver:
            led, seq = driver.stand_down(self.now(), self.process(), group, withdraw)
            told = driver.session
        return led, lambda: told is None or told is not driver.session or not self.active or told.answered >= seq

    # -- waiting and asking -------------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool]) -> bool:
        """Wait until `done()`, at most `call_timeout`. Returns whether it is."""
        return self.wakeups.wait(done, self.call_timeout)

    def send_now(self) -> None:
        """Send a request at once."""
        with self.lock:
            if self.active:
                self._transport.send(self.member_state, 0.0)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns. Call it on the background loop.

        Raises ``NotStarted``, ``PartitionActorUnavailable`` when none is known, what Ray raises, and
        ``asyncio.TimeoutError``.
        """
        self.check_active()
        return await self._transport.ask(method, *arguments)

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns, within `call_timeout`.

        Raises what the method raises, ``NotStarted`` and ``PartitionActorUnavailable``.
        """
        self.check_active()
        return self._transport.ask_now(method, self.call_timeout, *arguments)

    # -- what the transport reports -----------------------------------------------------------------------------

    def request(self, member_state: MemberState) -> Request | ShortRequest | None:
        """The next request of a session; None when it is over."""
        with self.lock:
            return self.driver.request(self.now(), member_state)

    def connect(self, member_state: MemberState, settings: Settings) -> None:
        """A partition actor with these settings has been found."""
        with self.event() as driver:
            driver.take_settings(member_state, settings)
            self._note_failure(member_state, None)
        self._on_changes([])

    def change_settings(self, member_state: MemberState, settings: Settings) -> None:
        """The partition actor's settings have changed while it runs, and none by which a ring is built."""
        with self.lock:
            self.driver.settings = member_state.settings = settings

    def receive(self, member_state: MemberState, reply: Reply) -> list[Change] | None:
        """A session's request has had a reply; None: it does not count. See ``MemberDriver.receive``."""
        with self.event() as driver:
            had_leases = not member_state.withdrawn
            changes = driver.receive(self.now(), member_state, reply)
            self._note_failure(member_state, None)
        if had_leases and member_state.withdrawn:
            log.warning("member %r has no keys any more: the partition actor is being shut down", self.member_id)
        if changes is not None:
            for change in changes:
                self._log_change(change)
            self._on_changes(changes)
        return changes

    def fail(self, member_state: MemberState, failure: PartitionError | None) -> None:
        """A session's request has failed; `failure` is what the partition actor refused it with, if it did."""
        with self.event():
            self._note_failure(member_state, failure or self.failure)
        self._on_changes([])

    def _note_failure(self, member_state: MemberState, failure: PartitionError | None) -> None:
        if member_state is self.driver.session:  # a former one may still be leaving
            self.failure = failure

    def timer(self) -> None:
        """The moment for which `Transport.wake_at` was called has come."""
        with self.event() as driver:
            driver.timer(self.now())

    def _log_change(self, change: Change) -> None:
        if change.rejoined:
            cause = "its process was stopped or the partition actor out of reach for too long, or that was shut down"
            log.warning("member %r had expired in group %r (%s) and has rejoined", self.member_id, change.group, cause)
        elif change.state == "superseded" and self.active:
            log.error("another process has taken the id %r in group %r; this one is out", self.member_id, change.group)
        elif change.state == "out":
            log.info("member %r is out of group %r", self.member_id, change.group)
        elif change.state == "joining":
            why = "its node is draining; it joins again if the drain is taken back"
            log.info("member %r is out of group %r: %s", self.member_id, change.group, why)
