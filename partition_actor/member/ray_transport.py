"""Exchanges a member's heartbeats with the partition actor through Ray, on the background loop.

Each session has one task. It finds the partition actor, exchanges heartbeats, and finds it anew when it is lost. A
session that was stopped changes only its own ``_Exchange``, so it cannot disturb the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError

from partition_actor.core.member import MemberState
from partition_actor.core.messages import Request, ShortRequest, check_reply, check_version
from partition_actor.deployment import find
from partition_actor.errors import (
    PartitionActorNotFound,
    PartitionActorUnavailable,
    PartitionError,
    VersionMismatch,
)
from partition_actor.member.background import background_loop, run_in_background, run_in_thread
from partition_actor.member.session import Session, Transport
from partition_actor.member.wakeups import Wakeups
from partition_actor.processes import future_of, own_identity, pending_call, ray_life, ray_stays
from partition_actor.settings import Settings, told

log = logging.getLogger(__name__)

LOOKUP_TIMEOUT = 10.0
"""Seconds that one call to find or greet the partition actor may take."""
FIRST_PAUSE = 0.05
"""Seconds: the longest pause before the second attempt. It doubles with each attempt."""
LOST_AFTER = 2.0
"""Seconds without an answer after which the log says so: a partition actor that is replaced takes about one."""
LOG_INTERVAL = 60.0
"""Seconds between two log lines of one member about a partition actor that it cannot reach."""
TIMER_SLICE = 0.5
"""Seconds after which a timer looks at the clock of leases again: unlike the event loop's, that clock goes on while the
machine is suspended."""
_TICK = 0.001
"""Seconds by which a timer is late, as timers may fire early by the resolution of a clock."""


@dataclass(eq=False, slots=True)
class _Exchange:
    """What belongs to the exchange of one session."""

    session: Session
    member_state: MemberState
    run: Future[None] | None = None
    """Its task on the background loop."""
    handle: Any = None
    """The partition actor's, while it is known."""
    ray_life: object = None
    """The connection to Ray through which it was found."""
    connected: bool = False
    """Whether the last request was answered."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: send a request now, overtaking one that is held."""
    timer: asyncio.TimerHandle | None = None
    """Sets `wake` when an ack is due."""
    stopped: bool = False
    failures: int = 0
    """Failed attempts in a row."""
    failed_at: float | None = None
    """When the first request failed that has had no answer since."""
    timeouts: int = 0
    """Requests in a row that were not answered in time."""
    lost: bool = False
    """The log last said that the partition actor is out of reach."""
    logged_at: float = float("-inf")
    """When it said so."""
    death_watch: dict[str, Any] | None = None
    """The fields of a ``ProcessIdentity``, by which the partition actor watches this process."""
    lent: list[Any] | None = None
    """The pending reference that the partition actor lent for it."""
    settings_version: int = 0
    """How often the partition actor's settings had changed, when it last told them."""
    watched_by: int = 0
    """The incarnation of the partition actor that watches this process; 0 if none does."""


class RayTransport(Transport):
    """The transport of one member. `actor` is the partition actor's name or handle."""

    def __init__(self, actor: Any, namespace: str) -> None:
        super().__init__()
        self._actor = actor
        self._namespace = namespace
        self._exchanges: dict[MemberState, _Exchange] = {}
        self._pid = os.getpid()
        self._wake_at = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    @property
    def wakeups(self) -> Wakeups:
        """Those who wait. A forked child has its own: nobody there would release a lock held at the fork."""
        if self._pid != os.getpid():
            self._pid, self._wakeups, self._exchanges = os.getpid(), Wakeups(), {}
            self._wake_at, self._timer = float("inf"), None
        return self._wakeups

    def open(self, session: Session, member_state: MemberState) -> None:
        """Begin the exchange of a session."""
        exchange = self._exchanges[member_state] = _Exchange(session, member_state)
        exchange.run = run_in_background(self._run(exchange))

    def is_connected(self, member_state: MemberState) -> bool:
        """Whether the last request of a session was answered."""
        exchange = self._exchanges.get(member_state)
        return exchange is not None and exchange.connected and ray.is_initialized()

    def send(self, member_state: MemberState, seconds: float) -> None:
        """Send the next request of a session within so many seconds."""
        if (exchange := self._exchanges.get(member_state)) is not None:
            background_loop().call_soon_threadsafe(_send_in, exchange, seconds)

    def end(self, member_state: MemberState) -> None:
        """Send no more heartbeats of a session."""
        if (exchange := self._exchanges.get(member_state)) is not None:
            background_loop().call_soon_threadsafe(_end, exchange)

    def close(self, member_state: MemberState) -> None:
        """Let the partition actor forget a session, if it can be reached."""
        if (exchange := self._exchanges.pop(member_state, None)) is not None:
            run_in_background(_close(exchange))

    def wake_at(self, session: Session, moment: float) -> None:
        """Call `session.timer` at this moment."""
        if moment < self._wake_at:
            background_loop().call_soon_threadsafe(self._set_timer, session)
        self._wake_at = moment

    def _set_timer(self, session: Session) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with session.lock:
            left = self._wake_at + _TICK - self.now()
        if left < float("inf"):
            self._timer = asyncio.get_running_loop().call_later(min(left, TIMER_SLICE), self._look_at_clock, session)

    def _look_at_clock(self, session: Session) -> None:
        if self._wake_at <= self.now():
            self._wake_at = float("inf")
            session.timer()
        self._set_timer(session)

    # -- calls --------------------------------------------------------------------------------------------------

    def _handle(self) -> Any:
        return next((each.handle for each in reversed(list(self._exchanges.values())) if each.handle is not None), None)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """See ``Session.ask``."""
        handle = self._handle()
        if handle is None:
            raise PartitionActorUnavailable("there is no partition actor to ask at the moment")
        return await _answer(_call(handle, method, *arguments))

    def ask_now(self, method: str, seconds: float, *arguments: Any) -> Any:
        """See ``Session.ask_now``."""
        self.wakeups.wait(lambda: self._handle() is not None, seconds)
        handle = self._handle()
        if handle is None:
            raise PartitionActorUnavailable(f"{method} was not called: no partition actor within {seconds} s")
        try:
            return ray.get(_call(handle, method, *arguments), timeout=seconds)
        except PartitionError:
            raise
        except GetTimeoutError:
            raise PartitionActorUnavailable(f"{method} was not answered within {seconds} s") from None
        except RayError as error:
            raise PartitionActorUnavailable(f"{method} was not answered: {error}") from error

    # -- on the background loop ---------------------------------------------------------------------------------

    async def _run(self, exchange: _Exchange) -> None:
        """Exchange heartbeats until stopped. Nothing that is raised in here ends them sooner."""
        while not exchange.stopped:
            pause = True
            try:
                if exchange.handle is None or exchange.ray_life != ray_life():
                    await self._connect(exchange)
                    continue  # it may have been stopped meanwhile
                pause = not await self._exchange(exchange)
                exchange.failures = 0
            except Exception as error:
                with contextlib.suppress(Exception):
                    self._take_error(exchange, error)
            if pause and not exchange.stopped:
                # Exponential backoff with full jitter, up to one heartbeat interval.
                ceiling = min(exchange.member_state.interval, FIRST_PAUSE * 2 ** min(exchange.failures, 16))
                await asyncio.sleep(random.uniform(FIRST_PAUSE / 2, max(FIRST_PAUSE, ceiling)))

    async def _connect(self, exchange: _Exchange) -> None:
        _check(ray.is_initialized())
        handle, life = self._actor, ray_life()
        if life != exchange.ray_life:
            exchange.lent = exchange.death_watch = None  # they were made in a Ray that has been shut down
        if isinstance(handle, str):
            handle = await run_in_thread(find, handle, self._namespace, LOOKUP_TIMEOUT)
        hello = await _answer(_call(handle, "hello"))
        check_version(hello, "the partition actor", "this member", by_actor=True)
        await self._prepare_death_watch(exchange, handle)
        with exchange.session.lock:  # `start` returns when it is connected, and the settings apply by then
            exchange.handle, exchange.ray_life, exchange.connected = handle, life, True
            exchange.settings_version = hello.get("settings_version", 0)
            exchange.session.connect(exchange.member_state, Settings.from_dict(told(hello)))

    async def _prepare_death_watch(self, exchange: _Exchange, handle: Any) -> None:
        """Make what the partition actor watches. A task or a driver needs a reference that dies with its process."""
        identity = own_identity()
        if identity is None:  # nobody can watch this process
            return
        owned = None
        if not identity.actor:
            lent = await _answer(_call(handle, "lend_pending_reference"))
            if lent == exchange.lent:
                return  # this partition actor has it already
            with ray_stays() as connected:
                _check(connected)
                owned, exchange.lent = [pending_call(handle, lent[0])], lent
            _future(owned[0]).add_done_callback(_ignore)
        _withdraw(exchange)
        exchange.death_watch, exchange.watched_by = identity._replace(owned=owned)._asdict(), 0

    async def _exchange(self, exchange: _Exchange) -> bool:
        """One request and its reply. False: pause before the next one."""
        exchange.wake.clear()
        if exchange.timer is not None:
            exchange.timer.cancel()
            exchange.timer = None
        session, member_state = exchange.session, exchange.member_state
        request = session.request(member_state)
        if request is None:
            return False
        watched = exchange.watched_by == member_state.incarnation and not _may_be_unwatched(request)
        death_watch = None if watched else exchange.death_watch
        reference = _call(exchange.handle, "sync", request, *([death_watch] if death_watch else []))  # each costs
        reply = await self._reply_or_wake(exchange, reference)
        del reference  # see `_future`: not to be freed at some later moment
        if reply is None:
            return True
        changes = session.receive(member_state, check_reply(reply))
        exchange.connected, exchange.failed_at = True, None
        if changes is None:
            exchange.handle = None  # a partition actor of the past: look for its successor
            return False
        if exchange.lost:
            exchange.lost, exchange.logged_at = False, float("-inf")
            log.info("member %r has reached the partition actor again", member_state.member_id)
        if death_watch is not None and member_state.incarnation == request["incarnation"] and not reply["resync"]:
            exchange.watched_by = member_state.incarnation
        if any(change.rejoined for change in changes):
            exchange.watched_by = 0  # the death watch has ended with the expired session
        if reply.get("settings", 0) != exchange.settings_version:
            hello = await _answer(_call(exchange.handle, "hello"))
            exchange.settings_version = hello.get("settings_version", 0)
            session.change_settings(member_state, Settings.from_dict(told(hello)))
        if changes and not (reply["resync"] or reply.get("more")):
            # Let the partition actor tell others the same news first: there is no next epoch before this has passed.
            # What others wait for sets `wake`.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(exchange.wake.wait(), member_state.settings.publish_window)
        return True

    async def _reply_or_wake(self, exchange: _Exchange, reference: ray.ObjectRef[Any]) -> dict[str, Any] | None:
        """The reply; None when a newer request is to go first, or the partition actor has seen one."""
        answer = _future(reference)
        woken = asyncio.ensure_future(exchange.wake.wait())
        settings = exchange.member_state.settings
        limit = exchange.member_state.interval * settings.ttl / settings.hold / 2
        try:
            await asyncio.wait({answer, woken}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if answer.done():
            exchange.timeouts = 0
            reply: dict[str, Any] | None = answer.result()
            return reply
        answer.add_done_callback(_ignore)
        if exchange.wake.is_set():
            return None
        exchange.timeouts += 1
        if exchange.timeouts >= 2 and isinstance(self._actor, str):
            exchange.handle, exchange.timeouts = None, 0
        raise PartitionActorUnavailable(f"the partition actor did not answer within {limit:.1f} s")

    def _take_error(self, exchange: _Exchange, error: Exception) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        lost = isinstance(error, (ActorDiedError, PartitionActorNotFound, VersionMismatch))
        if lost or not ray.is_initialized() or not isinstance(error, (RayError, PartitionError, asyncio.TimeoutError)):
            exchange.handle = None
        exchange.connected = False
        exchange.failures += 1
        member_state, moment = exchange.member_state, time.monotonic()
        exchange.session.fail(member_state, cause if isinstance(cause, PartitionError) else None)
        if exchange.failed_at is None:
            exchange.failed_at = moment
        is_lost = member_state.incarnation == 0 or moment - exchange.failed_at >= LOST_AFTER
        if is_lost and moment - exchange.logged_at >= LOG_INTERVAL:
            level = logging.WARNING if exchange.lost else logging.ERROR
            exchange.logged_at, exchange.lost = moment, True
            reason = str(cause).partition("\n")[0] or repr(cause)
            keys = "has no keys" if member_state.withdrawn else "keeps its keys until its lease ends, no longer"
            if member_state.incarnation == 0:
                keys = "has no keys yet"
            advice = "It goes on trying. If no partition actor runs, deploy() one"
            log.log(
                level,
                "member %r cannot reach the partition actor, and %s: %s. %s",
                member_state.member_id,
                keys,
                reason,
                advice,
            )


def _call(handle: Any, method: str, *arguments: Any) -> ray.ObjectRef[Any]:
    with ray_stays() as connected:
        _check(connected)
        reference: ray.ObjectRef[Any] = getattr(handle, method).remote(*arguments)
    return reference


def _check(connected: bool) -> None:
    if not connected:
        raise PartitionActorUnavailable("this process is not connected to Ray: call ray.init()")


def _send_in(exchange: _Exchange, seconds: float) -> None:
    """Send a request after so many seconds, unless one goes out before."""
    if seconds <= 0:
        exchange.wake.set()
    elif exchange.timer is None:
        exchange.timer = asyncio.get_running_loop().call_later(seconds, exchange.wake.set)


def _end(exchange: _Exchange) -> None:
    exchange.stopped = True
    exchange.wake.set()
    _withdraw(exchange)


async def _close(exchange: _Exchange) -> None:
    """Tell the partition actor, after the last request."""
    if exchange.run is not None:
        await asyncio.wrap_future(exchange.run)
    with ray_stays() as connected:
        if exchange.handle is not None and connected:
            exchange.handle.close_session.remote(exchange.member_state.member_id, exchange.member_state.session)


def _may_be_unwatched(request: Request | ShortRequest) -> bool:
    """Whether the session joins a group, or may have been forgotten and its death watch with it."""
    if "same" in request:
        return False
    reports = [report for report in request["groups"].values() if report is not None]
    joins = any(report["have"] is None and report["want"] != "watch" for report in reports)
    return joins or not request["leased"]


async def _answer(reference: ray.ObjectRef[Any]) -> Any:
    return await asyncio.wait_for(_future(reference), LOOKUP_TIMEOUT)


def _future(reference: ray.ObjectRef[Any]) -> asyncio.Future[Any]:
    """The result of a call. Call it on the background loop."""
    return asyncio.wrap_future(future_of(reference))


def _withdraw(exchange: _Exchange) -> None:
    """Cancel the pending call of a former death watch."""
    for reference in (exchange.death_watch and exchange.death_watch["owned"]) or ():
        with ray_stays() as connected:
            if connected:
                ray.cancel(reference)
    exchange.death_watch = None


def _ignore(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
