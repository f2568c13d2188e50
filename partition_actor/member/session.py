"""A member's session with the partition actor: its state machine, its heartbeats, and waiting for what they bring.

Each `start` begins a new life, with a `MemberState` and one asyncio task on the background loop. The task finds the
partition actor, exchanges heartbeats, and finds it anew when it is lost. The way of a reply: `_exchange`,
`MemberState.receive`, `on_changes`, then everybody who waits asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError

from partition_actor import clock
from partition_actor.core.member import Change, MemberState
from partition_actor.core.messages import Request, ShortRequest, check_protocol, check_reply
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.deployment import find
from partition_actor.errors import (
    NotStarted,
    PartitionActorNotFound,
    PartitionActorUnavailable,
    PartitionError,
    VersionMismatch,
)
from partition_actor.member.background import background_loop, run_in_background
from partition_actor.member.wakeups import Wakeups
from partition_actor.processes import ProcessIdentity, own_identity, pending_call
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

LOOKUP_TIMEOUT = 10.0
"""Seconds that one call to find or greet the partition actor may take."""
FIRST_PAUSE = 0.05
"""Seconds: the longest pause before the second attempt. It doubles with each attempt."""
LOG_INTERVAL = 60.0
"""Seconds between two log lines of one member about a partition actor that it cannot reach."""
ACK_SPACING = 0.0005
"""Seconds between two acks, about half of what the partition actor needs to tell one member the news. With less, acks
arrive in between; with more, the hand-off waits for them."""


@dataclass(eq=False, slots=True)
class _Life:
    """What belongs to one `start`. A life that was stopped changes only its own, so it cannot disturb the next one."""

    member_state: MemberState
    identity: ProcessIdentity | None
    """This process; None if nobody can watch it."""
    handle: Any = None
    """The partition actor's, while it is known."""
    connected: bool = False
    """Whether the last request was answered."""
    failure: PartitionError | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: send a request now, overtaking one that is held."""
    timer: asyncio.TimerHandle | None = None
    """Sets `wake` when an ack is due."""
    stopped: bool = False
    failures: int = 0
    """Failed attempts in a row."""
    timeouts: int = 0
    """Requests in a row that were not answered in time."""
    logged_at: float = float("-inf")
    """When the log last said that the partition actor is out of reach; -inf while it is within reach."""
    death_watch: dict[str, Any] | None = None
    """The fields of a ``ProcessIdentity``, by which the partition actor watches this process."""
    lent: list[Any] | None = None
    """The pending reference that the partition actor lent for it."""
    watched_by: int = 0
    """The incarnation of the partition actor that watches this process; 0 if none does."""


class Session:
    """The sessions that `member_id` has with a partition actor, one after another: each `start` makes a new one.

    `actor` is the partition actor's name or handle. `on_changes` is called on the background loop with the changes of
    each reply, and with none when the partition actor has been found or lost. `call_timeout` is how many seconds a call
    waits for the partition actor.
    """

    is_local = False
    """Whether this is the single-instance mode: this process owns every key and leads every group."""

    def __init__(
        self, member_id: str, actor: Any, namespace: str, settings: Settings, on_changes: Callable[[list[Change]], None]
    ) -> None:
        self.member_id = member_id
        self.active = False
        self.call_timeout = settings.call_timeout
        self._wakeups = Wakeups()
        self._actor = actor
        self._namespace = namespace
        self._settings = settings
        self._on_changes = on_changes
        self._life: _Life | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send heartbeats; waits until the partition actor answers, at most `call_timeout`."""
        with self.lock:
            if self.active:
                return
            self.active = True
            member_state = MemberState(self.member_id, uuid.uuid4().hex, self._settings)
            life = self._life = _Life(member_state, own_identity())
        run_in_background(self._run(life))
        self.wait(lambda: life.connected or life.failure is not None)

    def stop(self) -> bool:
        """Leave all groups and send no more heartbeats; whether the partition actor knows that this member is out."""
        life = self._life
        if life is None or not self.active:
            return False
        member_state = life.member_state
        with self.lock:
            groups = list(member_state.groups)
            for group in groups:
                member_state.leave(group)
            had_locks = bool(member_state.locks.stated())
            member_state.locks.clear()
            seq = member_state.want_reply() if had_locks else 0
        out = False
        if life.connected:
            self.send_now()
            out = self.wait(lambda: member_state.answered >= seq and all(self.is_out(group) for group in groups))
        with self.lock:
            self.active = False
            member_state.end()
            self._wakeups.wake()
        background_loop().call_soon_threadsafe(self._stop_sending, life)
        return out

    def close_session(self, ended: MemberState | None = None) -> None:
        """Let the partition actor forget a session that was stopped, before its lease ends.

        `ended` says which one, as another may have been started since; by default it is the latest one.
        """
        if self._life is not None:
            run_in_background(self._close(self._life, ended or self._life.member_state))

    @property
    def was_started(self) -> bool:
        """Whether there is, or was, a session."""
        return self._life is not None

    def check_active(self) -> None:
        """Raise ``NotStarted`` unless there is a session now."""
        if not self.active:
            raise NotStarted(f"member {self.member_id!r} has no session: call start() first")

    # -- what it knows ------------------------------------------------------------------------------------------

    @property
    def wakeups(self) -> Wakeups:
        """Those who wait for what replies bring."""
        return self._wakeups

    @property
    def lock(self) -> threading.RLock:
        """Guards `member_state`."""
        return self.wakeups.lock

    @property
    def member_state(self) -> MemberState:
        """The state machine of the latest session. Raises ``NotStarted``."""
        if self._life is None:
            raise NotStarted(f"member {self.member_id!r}: call start() first, or use `with PartitionCoordinator(...)`")
        return self._life.member_state

    @property
    def failure(self) -> PartitionError | None:
        """What the partition actor refused the last request with, if it did."""
        return None if self._life is None else self._life.failure

    def forget_failure(self) -> None:
        """Let `failure` be that of the next request."""
        if self._life is not None:
            self._life.failure = None

    def state(self, group: str) -> str | None:
        """This member's state in a group, as ``GroupState`` has it; None if it never joined."""
        held = self._life.member_state.groups.get(group) if self._life else None
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
            return self.member_state.share(clock.now(), group)

    def token(self, group: str) -> int:
        """The fencing token of the view that this member may act on now; 0 if there is none. Raises ``NotStarted``."""
        with self.lock:
            return self.member_state.token(clock.now(), group)

    # -- waiting and asking -------------------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool]) -> bool:
        """Wait until `done()`, at most `call_timeout`. Returns whether it is."""
        return self.wakeups.wait(done, self.call_timeout)

    def send_now(self) -> None:
        """Send a request at once."""
        if self._life is not None:
            background_loop().call_soon_threadsafe(self._life.wake.set)

    def send_ack(self, ackers: int) -> None:
        """Send the acknowledgement of an epoch, later in proportion to how many members acknowledge it at once.

        Else the last member would hear of the epoch only when all these acks have been taken in.
        """
        pause = min((ackers - 1) * ACK_SPACING, self.member_state.settings.publish_window)
        if self._life is not None:
            background_loop().call_soon_threadsafe(self._send_in, self._life, pause)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns. Call it on the background loop.

        Raises ``NotStarted``, ``PartitionActorUnavailable`` when none is known, what Ray raises, and
        ``asyncio.TimeoutError``.
        """
        if self._life is None:
            raise NotStarted(f"member {self.member_id!r} has no session with a partition actor")
        handle = self._life.handle
        if handle is None:
            raise PartitionActorUnavailable("there is no partition actor to ask at the moment")
        return await _answer(getattr(handle, method).remote(*arguments))

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns, within `call_timeout`.

        Raises what the method raises, ``NotStarted`` and ``PartitionActorUnavailable``.
        """
        life = self._life
        if life is None or not self.active:
            raise NotStarted(f"member {self.member_id!r}: call start() first")
        self.wait(lambda: life.handle is not None)
        if life.handle is None:
            raise PartitionActorUnavailable(f"{method} was not called: no partition actor within {self.call_timeout} s")
        try:
            return ray.get(getattr(life.handle, method).remote(*arguments), timeout=self.call_timeout)
        except PartitionError:
            raise
        except GetTimeoutError:
            raise PartitionActorUnavailable(f"{method} was not answered within {self.call_timeout} s") from None
        except RayError as error:
            raise PartitionActorUnavailable(f"{method} was not answered: {error}") from error

    # -- on the background loop ---------------------------------------------------------------------------------

    async def _run(self, life: _Life) -> None:
        """Exchange heartbeats until stopped."""
        while not life.stopped:
            pause = False
            try:
                if life.handle is None:
                    life.handle = await self._connect(life)
                    self._take(life, [])
                pause = not await self._exchange(life)
                life.failures = 0
            except Exception as error:
                self._take_error(life, error)
                pause = True
            if pause and not life.stopped:
                # Exponential backoff with full jitter, up to one heartbeat interval.
                ceiling = min(life.member_state.interval, FIRST_PAUSE * 2 ** min(life.failures, 16))
                await asyncio.sleep(random.uniform(FIRST_PAUSE / 2, max(FIRST_PAUSE, ceiling)))

    async def _connect(self, life: _Life) -> Any:
        if not ray.is_initialized():
            raise PartitionActorUnavailable("this process is not connected to Ray: call ray.init() first")
        handle = self._actor
        if isinstance(handle, str):
            handle = await asyncio.to_thread(find, handle, self._namespace, LOOKUP_TIMEOUT)
        hello = await _answer(handle.hello.remote())
        check_protocol(hello["protocol"], f"the partition actor runs version {hello['version']}")
        await self._prepare_death_watch(life, handle)
        with self.lock:
            life.member_state.take_settings(Settings.from_dict(hello["settings"]))
        return handle

    async def _prepare_death_watch(self, life: _Life, handle: Any) -> None:
        """Make what the partition actor watches. A task or a driver needs a reference that dies with its process."""
        if life.identity is None:
            return
        owned = None
        if not life.identity.actor:
            lent = await _answer(handle.lend_pending_reference.remote())
            if lent == life.lent:
                return  # this partition actor has it already
            owned, life.lent = [pending_call(handle, lent[0])], lent
            asyncio.wrap_future(owned[0].future()).add_done_callback(_ignore)
        _withdraw(life)
        life.death_watch, life.watched_by = life.identity._replace(owned=owned)._asdict(), 0

    async def _exchange(self, life: _Life) -> bool:
        """One request and its reply. False: pause before the next one."""
        life.wake.clear()
        if life.timer is not None:
            life.timer.cancel()
            life.timer = None
        member_state = life.member_state
        with self.lock:
            request = member_state.request(clock.now())
            watched = life.watched_by == member_state.incarnation and not _may_be_unwatched(request)
            death_watch = None if watched else life.death_watch
        reference = life.handle.sync.remote(request, *([death_watch] if death_watch else []))  # each argument costs
        reply = await self._reply_or_wake(life, reference)
        if reply is None:
            return True
        with self.lock:
            changes = member_state.receive(check_reply(reply))
            if death_watch is not None and changes is not None and member_state.incarnation == request["incarnation"]:
                life.watched_by = member_state.incarnation
        if changes is None:
            life.handle = None  # a partition actor of the past: look for its successor
            return False
        if life.logged_at > float("-inf"):  # a greeting alone may succeed each time
            log.info("member %r has reached the partition actor again", self.member_id)
            life.logged_at = float("-inf")
        if any(change.rejoined for change in changes):
            life.watched_by = 0  # the death watch has ended with the expired session
        self._take(life, changes)
        if changes and not reply["resync"]:
            # Let the partition actor tell others the same news first: there is no next epoch before this has passed.
            # What others wait for sets `wake`.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(life.wake.wait(), member_state.settings.publish_window)
        return True

    async def _reply_or_wake(self, life: _Life, reference: ray.ObjectRef[Any]) -> dict[str, Any] | None:
        """The reply; None when a newer request is to go first, or the partition actor has seen one."""
        answer = asyncio.wrap_future(reference.future())
        woken = asyncio.ensure_future(life.wake.wait())
        settings = life.member_state.settings
        limit = life.member_state.interval * settings.ttl / settings.hold / 2
        try:
            await asyncio.wait({answer, woken}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if answer.done():
            life.timeouts = 0
            reply: dict[str, Any] | None = answer.result()
            return reply
        answer.add_done_callback(_ignore)
        if life.wake.is_set():
            return None
        life.timeouts += 1
        if life.timeouts >= 2 and isinstance(self._actor, str):
            life.handle, life.timeouts = None, 0
        raise PartitionActorUnavailable(f"the partition actor did not answer within {limit:.1f} s")

    def _take(self, life: _Life, changes: list[Change]) -> None:
        """The partition actor has answered: carry out what that changes, and wake everybody who waits."""
        life.connected, life.failure = True, None
        for change in changes:
            self._log_change(change)
        self._on_changes(changes)
        self._wakeups.wake()

    def _take_error(self, life: _Life, error: Exception) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, PartitionError):
            life.failure = cause
        lost = isinstance(error, (ActorDiedError, PartitionActorNotFound, VersionMismatch))
        if lost or not isinstance(error, (RayError, PartitionError, asyncio.TimeoutError)):
            life.handle = None
        life.connected = False
        life.failures += 1
        self._on_changes([])
        self._wakeups.wake()
        moment = time.monotonic()
        if moment - life.logged_at >= LOG_INTERVAL:
            life.logged_at = moment
            meanwhile = "it keeps its subsets until its lease ends, and goes on trying"
            reason = str(cause).partition("\n")[0] or repr(cause)
            log.warning("member %r cannot reach the partition actor; %s: %s", self.member_id, meanwhile, reason)

    def _log_change(self, change: Change) -> None:
        if change.rejoined:
            cause = "its process was stopped, or the partition actor out of reach, for longer than its lease"
            log.warning("member %r had expired in group %r (%s) and has rejoined", self.member_id, change.group, cause)
        elif change.state == "superseded":
            log.error("another process has taken the id %r in group %r; this one is out", self.member_id, change.group)
        elif change.state == "out":
            log.info("member %r is out of group %r", self.member_id, change.group)

    def _send_in(self, life: _Life, seconds: float) -> None:
        """Send a request after so many seconds, unless one goes out before."""
        if seconds <= 0:
            life.wake.set()
        elif life.timer is None:
            life.timer = asyncio.get_running_loop().call_later(seconds, life.wake.set)

    def _stop_sending(self, life: _Life) -> None:
        life.stopped = True
        life.wake.set()
        _withdraw(life)

    async def _close(self, life: _Life, ended: MemberState) -> None:
        if life.handle is not None:
            life.handle.close_session.remote(ended.member_id, ended.session)


def _may_be_unwatched(request: Request | ShortRequest) -> bool:
    """Whether the session joins a group, or may have been forgotten and its death watch with it."""
    if "same" in request:
        return False
    joins = any(report["have"] is None and report["want"] != "watch" for report in request["groups"].values())
    return joins or not request["leased"]


async def _answer(reference: ray.ObjectRef[Any]) -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(reference.future()), LOOKUP_TIMEOUT)


def _withdraw(life: _Life) -> None:
    """Cancel the pending call of a former death watch."""
    for reference in (life.death_watch and life.death_watch["owned"]) or ():
        ray.cancel(reference)
    life.death_watch = None


def _ignore(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
