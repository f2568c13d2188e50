"""Distributed locks for users: the shell around ``claims`` and ``locks``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

from partition_actor import arguments, clock
from partition_actor.core.member import MemberState
from partition_actor.core.messages import lock_name
from partition_actor.errors import GroupFull, NotStarted, PartitionActorUnavailable, PartitionError, VersionMismatch

log = logging.getLogger(__name__)


class Line(Protocol):
    """What a lock needs of a ``connection.Connection``, or of ``alone.LocalSession`` in the single-instance mode."""

    @property
    def lock(self) -> Any:
        """Guards `member_state`."""

    @property
    def active(self) -> bool:
        """Whether there is a session now."""

    @property
    def member_state(self) -> MemberState:
        """The session. Raises ``NotStarted``."""

    @property
    def failure(self) -> PartitionError | None:
        """The refusal that the last request met, if it met one."""

    @property
    def patience(self) -> float:
        """Seconds that a call waits for the coordinator."""

    def forget_failure(self) -> None:
        """Let the next request decide anew whether there is a refusal."""

    def send_now(self) -> None:
        """Let a request go out at once."""

    def wait_for(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done`; whether it came to be."""

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """The same on an event loop, which goes on meanwhile."""

    async def aask_now(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of the coordinator."""

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """The same, for threads."""


class Hold:
    """One wish for a lock, and what came of it, in the session in which it was made."""

    def __init__(self, line: Line, name: str, *, shared: bool = False, waits: bool = True) -> None:
        self._line = line
        self._name, self._shared, self._patient = name, shared, waits
        self._member_state = line.member_state
        with line.lock:
            if not line.active:
                raise NotStarted("this partition actor has been stopped: locks are its members', call start() first")
            line.forget_failure()
            self._ticket = self._member_state.locks.add(name, shared=shared, waits=waits)
        line.send_now()

    @property
    def state(self) -> str | None:
        """What has come of it; None when the session has ended or it was dropped."""
        with self._line.lock:
            self._member_state.holds(clock.now(), self._ticket)  # a hold whose lease is over is lost when one looks
            return self._member_state.locks.state(self._ticket)

    @property
    def held(self) -> bool:
        """Whether the lock is this process's now."""
        with self._line.lock:
            return self._member_state.holds(clock.now(), self._ticket)

    @property
    def token(self) -> int:
        """The fencing token; 0 while it is not held."""
        with self._line.lock:
            return self._member_state.locks.token(self._ticket) if self.held else 0

    @property
    def settled(self) -> bool:
        """Whether there is nothing to wait for any more. A waits wish that was granted too late waits anew."""
        with self._line.lock:
            state = self.state
            if state == "lost" and self._patient:
                self.renew()
                return False
            return state != "waiting" or isinstance(self._line.failure, (GroupFull, VersionMismatch))

    def renew(self) -> None:
        """Give up what there is, and wait again, behind all others who wait."""
        with self._line.lock:
            self._member_state.locks.drop(self._ticket)
            self._ticket = self._member_state.locks.add(self._name, shared=self._shared, waits=self._patient)
        self._line.send_now()

    def drop(self) -> Callable[[], bool]:
        """Give up what there is. The result tells whether the partition actor knows."""
        with self._line.lock:
            self._member_state.locks.drop(self._ticket)
        return self.tell()

    def tell(self) -> Callable[[], bool]:
        """Let the partition actor know what has changed, now. The result tells whether it does."""
        line, member_state = self._line, self._member_state
        with line.lock:
            seq = member_state.want_reply()
        line.send_now()
        return lambda: member_state.answered >= seq or not line.active or line.member_state is not member_state

    def conclude(self) -> bool:
        """Whether it is held, after a wait; if not it is dropped. Raises what stood in the way, if something did."""
        with self._line.lock:
            state, failure = self.state, self._line.failure
            if state == "held":
                return True
            self.drop()
        if state is None:
            raise NotStarted("the partition actor was stopped while it waited for a lock")
        if isinstance(failure, (GroupFull, VersionMismatch)):
            raise failure
        if state == "waiting" and not self._patient:
            raise PartitionActorUnavailable(
                f"the partition actor did not say within {self._line.patience} s who has the lock"
            )
        return False


class Lock:
    """A lock that at most one process in the cluster holds at a time, or several that share it.

    ::

        lock = coordinator.lock("migrate")
        with lock:
            migrate(fencing_token=lock.fencing_token)

    It is the session's that took it, and free again when the session ends: at once when the process is known to be
    dead, else with its lease. A process that was stopped, or cut off from the partition actor, for longer than its
    lease has lost its locks and does not get them back: ask `held` before each piece of work, and hand the storage the
    `fencing_token`. A crash of the partition actor takes no lock from its holder, and no lock changes hands for one
    lease after it. It is not reentrant: a second `acquire` waits, unless both share it. Any thread may call any method;
    each `acquire` that succeeded needs one `release`.
    """

    def __init__(self, line: Line, name: str) -> None:
        self.name = name
        self._line = line
        self._holds: list[Hold] = []

    @property
    def held(self) -> bool:
        """Whether it is held by this object now. Never waits."""
        return self.fencing_token > 0

    @property
    def fencing_token(self) -> int:
        """An int that grows with every hold of this lock, by whomever; 0, lower than any, while it is not held."""
        with self._line.lock:
            return max((hold.token for hold in self._holds), default=0)

    def acquire(self, blocking: bool = True, timeout: float | None = None, shared: bool = False) -> bool:
        """Take the lock; whether it is held now.

        Waits for its turn, at most `timeout` seconds (None: without end); if not `blocking` it only asks whether the
        lock is free. `shared`: beside others who say so. Those who wait get it in the order in which they asked.

        Raises ``InvalidArgument``, ``NotStarted`` (also when it is stopped meanwhile), ``GroupFull``,
        ``VersionMismatch``, and, if not `blocking`, ``PartitionActorUnavailable`` when no answer comes in
        `call_timeout`.
        """
        hold, limit = self._begin(blocking, timeout, shared)
        try:
            self._line.wait_for(lambda: hold.settled, limit)
        except BaseException:
            hold.drop()
            raise
        return self._end(hold)

    async def aacquire(self, blocking: bool = True, timeout: float | None = None, shared: bool = False) -> bool:
        """`acquire`, for asyncio; one that is cancelled waits no more."""
        hold, limit = self._begin(blocking, timeout, shared)
        try:
            await self._line.until(lambda: hold.settled, limit)
        except BaseException:
            hold.drop()
            raise
        return self._end(hold)

    def release(self) -> bool:
        """Give it back; False when it was not held, because it was never taken, has been broken or has lapsed.

        Returns when the partition actor knows, or after `call_timeout`. It is not held any more in either case.
        """
        known = self._release()
        if known is None:
            return False
        self._line.wait_for(known, self._line.patience)
        return True

    async def arelease(self) -> bool:
        """`release`, for asyncio."""
        known = self._release()
        if known is None:
            return False
        await self._line.until(known, self._line.patience)
        return True

    def break_(self) -> bool:
        """Take it from whoever holds it; False when nobody does.

        Returns when those who held it know that they do not any more, or have lost their lease: it is never held twice.
        Raises ``PartitionActorUnavailable`` when that takes longer than `call_timeout`; it is broken all the same.
        """
        return bool(self._line.ask_now("break_lock", lock_name(self.name)))

    async def abreak(self) -> bool:
        """`break_`, for asyncio."""
        return bool(await self._line.aask_now("break_lock", lock_name(self.name)))

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    async def __aenter__(self) -> Lock:
        await self.aacquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.arelease()

    def _begin(self, blocking: object, timeout: object, shared: object) -> tuple[Hold, float | None]:
        waits = arguments.check_flag("blocking", blocking)
        limit = None if timeout is None else arguments.check_seconds("timeout", timeout)
        if limit is not None and not waits:
            arguments.refuse("timeout", timeout, "None, unless it is blocking")
        hold = Hold(self._line, lock_name(self.name), shared=arguments.check_flag("shared", shared), waits=waits)
        return hold, limit if waits else self._line.patience

    def _end(self, hold: Hold) -> bool:
        with self._line.lock:
            got = hold.conclude()
            if got:
                self._holds.append(hold)
        return got

    def _release(self) -> Callable[[], bool] | None:
        with self._line.lock:
            while self._holds:
                hold = self._holds.pop()
                held = hold.held
                known = hold.drop()
                if held:
                    return known
        return None


async def until(line: Any, done: Callable[[], bool], timeout: float | None, listeners: set[Callable[[], None]]) -> bool:
    """Wait on the running event loop until `done`, asked anew whenever one of `listeners` is called."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def listener() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(changed.set)

    with line.lock:
        listeners.add(listener)
    try:
        end = None if timeout is None else loop.time() + timeout
        while not done():
            left = None if end is None else end - loop.time()
            if left is not None and left <= 0:
                return False
            try:
                await asyncio.wait_for(changed.wait(), left)
            except asyncio.TimeoutError:
                return done()
            changed.clear()
        return True
    finally:
        with line.lock:
            listeners.discard(listener)
