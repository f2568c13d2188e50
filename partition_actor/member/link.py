"""A member's line to the partition actor: finds it, exchanges heartbeats, and finds it again when it is gone.

One asyncio task on the process's background loop. It moves requests and replies between the actor and ``member_state``,
and leaves everything that follows from a reply to `on_reply`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from partition_actor import clock
from partition_actor.core.member import Change, MemberState
from partition_actor.core.messages import check_protocol, check_reply
from partition_actor.deployment import find
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable, PartitionError, VersionMismatch
from partition_actor.processes import ProcessIdentity, pending_call
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

LOOKUP_WITHIN = 10.0
"""Seconds after which a look-up by name is given up, to be tried again."""
FIRST_PAUSE = 0.05
"""Seconds that the first pause before another try lasts at the most; it doubles from try to try."""
COMPLAIN_EVERY = 60.0
"""Seconds between two log lines of one member about a partition actor that is away."""


class Link:
    """The heartbeats of one session. `lock` guards `member_state`, which users' threads read.

    `life` is that of this process, if it can be watched. `on_reply` is called on the loop with the changes of each
    reply, and with none when the partition actor has been found or lost; `failure` holds the refusal that the last
    request met, if it met one.
    """

    def __init__(
        self,
        member_state: MemberState,
        lock: threading.RLock,
        actor: Any,
        namespace: str,
        life: ProcessIdentity | None,
        on_reply: Callable[[list[Change]], None],
    ) -> None:
        self.failure: PartitionError | None = None
        self.connected = False
        self._member_state = member_state
        self._lock = lock
        self._actor = actor
        self._namespace = namespace
        self._life = life
        self._watch: dict[str, Any] | None = None
        self._lent: list[Any] | None = None
        self._on_reply = on_reply
        self._handle: Any = None
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self._failures = 0
        self._timeouts = 0
        self._interval = member_state.settings.hold
        self._complained = float("-inf")
        self._watched_by = 0

    @property
    def handle(self) -> Any:
        """The partition actor's, while it is known."""
        return self._handle

    def send_now(self) -> None:
        """Let a request go out at once, overtaking one that is held. Call it on the loop."""
        self._wake.set()

    def send_in(self, seconds: float) -> None:
        """Let a request go out after so many seconds, unless one does before. Call it on the loop."""
        if seconds <= 0:
            self.send_now()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.send_now)

    def stop(self) -> None:
        """Send no more. Call it on the loop."""
        self._stopped = True
        self._wake.set()
        self._disown()

    async def run(self) -> None:
        """Exchange heartbeats until stopped."""
        while not self._stopped:
            pause = False
            try:
                if self._handle is None:
                    self._handle = await self._connect()
                    self._connected()
                pause = not await self._exchange()
                self._failures = 0
            except Exception as error:
                self._note(error)
                pause = True
            if pause and not self._stopped:
                await self._pause()

    async def close_session(self) -> None:
        """Let the partition actor forget this session, which has stopped, before its lease ends."""
        if self._handle is not None:
            self._handle.close_session.remote(self._member_state.member_id, self._member_state.session)

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns. Call it on the loop.

        Raises ``PartitionActorUnavailable`` when there is none, what Ray raises, and ``asyncio.TimeoutError``.
        """
        if self._handle is None:
            raise PartitionActorUnavailable("there is no partition actor to ask at the moment")
        reply = getattr(self._handle, method).remote(*arguments).future()
        return await asyncio.wait_for(asyncio.wrap_future(reply), LOOKUP_WITHIN)

    async def _exchange(self) -> bool:
        """One request and its reply. False: wait a little before the next."""
        self._wake.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            request = self._member_state.request(clock.now())
            reports = request["groups"].values() if "groups" in request else ()
            joining = any(report["have"] is None and report["want"] != "watch" for report in reports)
            forgotten = not request.get("leased", True)  # or it may have been, and its watch with it
            known = self._watched_by == self._member_state.incarnation and not forgotten
            watch = self._watch if joining or not known else None
        reference = self._handle.sync.remote(request, *([watch] if watch else []))  # each argument costs
        reply = await self._reply_or_wake(reference)
        if reply is None:
            return True
        with self._lock:
            changes = self._member_state.receive(check_reply(reply))
            if watch is not None and changes is not None and self._member_state.incarnation == request["incarnation"]:
                self._watched_by = self._member_state.incarnation
        if changes is None:
            self._handle = None  # a partition actor of the past: look for its successor
            return False
        if any(change.rejoined for change in changes):
            self._watched_by = 0  # the watch has ended with the session
        self._interval = reply["interval"]
        self._connected(changes)
        if changes and not reply["resync"]:
            await self._let_others_hear()
        return True

    async def _let_others_hear(self) -> None:
        """Leave the partition actor to tell others the same news, before the next heartbeat; there is none meanwhile.

        That is when the next epoch can be there at the soonest. What others wait for is sent at once all the same.
        """
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), self._member_state.settings.publish_window)

    async def _reply_or_wake(self, reference: ray.ObjectRef[Any]) -> dict[str, Any] | None:
        """The reply; None when a newer request is wanted first or the partition actor has seen one."""
        answer = asyncio.wrap_future(reference.future())
        woken = asyncio.ensure_future(self._wake.wait())
        settings = self._member_state.settings
        patience = self._interval * settings.ttl / settings.hold / 2
        try:
            await asyncio.wait({answer, woken}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        if answer.done():
            self._timeouts = 0
            reply: dict[str, Any] | None = answer.result()
            return reply
        answer.add_done_callback(_ignore)
        if self._wake.is_set():
            return None
        self._timeouts += 1
        if self._timeouts >= 2 and not self._by_handle:
            self._handle, self._timeouts = None, 0
        raise PartitionActorUnavailable(f"the partition actor did not answer within {patience:.1f} s")

    @property
    def _by_handle(self) -> bool:
        return not isinstance(self._actor, str)

    async def _connect(self) -> Any:
        if not ray.is_initialized():
            raise PartitionActorUnavailable("this process is not connected to Ray: call ray.init() first")
        handle = self._actor
        if not self._by_handle:
            loop = asyncio.get_running_loop()
            handle = await loop.run_in_executor(None, find, self._actor, self._namespace, LOOKUP_WITHIN)
        hello = await asyncio.wait_for(asyncio.wrap_future(handle.hello.remote().future()), LOOKUP_WITHIN)
        check_protocol(hello["protocol"], f"the partition actor runs version {hello['version']}")
        await self._be_watched_by(handle)
        with self._lock:
            self._member_state.take_settings(Settings.from_dict(hello["settings"]))
        if self._complained > float("-inf"):
            log.info("member %r has the partition actor back", self._member_state.member_id)
            self._complained = float("-inf")
        return handle

    async def _be_watched_by(self, handle: Any) -> None:
        """Get ready what the partition actor watches: for a task or a driver, a reference that dies with its
        process."""
        if self._life is None:
            return
        owned = None
        if not self._life.actor:
            lent = await asyncio.wait_for(
                asyncio.wrap_future(handle.lend_pending_reference.remote().future()), LOOKUP_WITHIN
            )
            if lent == self._lent:
                return  # it is the partition actor that watches already
            owned, self._lent = [pending_call(handle, lent[0])], lent
            asyncio.wrap_future(owned[0].future()).add_done_callback(_ignore)
        self._disown()
        self._watch, self._watched_by = self._life._replace(owned=owned)._asdict(), 0

    def _disown(self) -> None:
        """Withdraw the call that a former watch waited for."""
        for reference in (self._watch and self._watch["owned"]) or ():
            ray.cancel(reference)
        self._watch = None

    def _connected(self, changes: list[Change] | None = None) -> None:
        self.connected, self.failure = True, None
        self._on_reply(changes or [])

    def _note(self, error: Exception) -> None:
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, PartitionError):
            self.failure = cause
        lost = isinstance(error, (ActorDiedError, PartitionActorNotFound, VersionMismatch))
        if lost or not isinstance(error, (RayError, PartitionError, asyncio.TimeoutError)):
            self._handle = None
        self.connected = False
        self._failures += 1
        self._on_reply([])
        moment = time.monotonic()
        if moment - self._complained >= COMPLAIN_EVERY:
            self._complained = moment
            log.warning(
                "member %r cannot reach the partition actor; it keeps its subsets until its lease ends, and goes on "
                "trying: %s",
                self._member_state.member_id,
                str(cause).partition("\n")[0] or repr(cause),
            )

    async def _pause(self) -> None:
        """Exponential backoff with full jitter, up to one heartbeat's interval."""
        ceiling = min(self._interval, FIRST_PAUSE * 2 ** min(self._failures, 16))
        await asyncio.sleep(random.uniform(FIRST_PAUSE / 2, max(FIRST_PAUSE, ceiling)))


def log_change(member_id: str, change: Change) -> None:
    """Log what an operator may want to know of a change."""
    if change.rejoined:
        log.warning(
            "member %r had expired in group %r (its process was stopped, or the partition actor out of reach, for "
            "longer than its lease) and has rejoined",
            member_id,
            change.group,
        )
    elif change.state == "superseded":
        log.error("another process has taken the id %r in group %r; this one is out", member_id, change.group)
    elif change.state == "out":
        log.info("member %r is out of group %r", member_id, change.group)


def _ignore(answer: asyncio.Future[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
