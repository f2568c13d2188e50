"""Distributed locks, as users hold them: ``core.lock_requests`` asks for them, and ``core.lock_table`` grants them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from partition_actor import arguments
from partition_actor.core.messages import lock_name
from partition_actor.errors import GroupFull, NotStarted, PartitionActorUnavailable, VersionMismatch
from partition_actor.member.background import run_in_thread
from partition_actor.member.session import Session


class Hold:
    """One request for a lock and what came of it, in the session in which it was made.

    One that does not `waits` is refused unless the lock is free. Raises ``NotStarted``.
    """

    def __init__(self, session: Session, name: str, *, shared: bool = False, waits: bool = True) -> None:
        self._session = session
        self._name, self._shared, self._waits = name, shared, waits
        with session.lock:
            session.check_active()
            self._member_state = session.member_state
            session.forget_failure()
            self._ticket = self._member_state.locks.add(name, shared=shared, waits=waits)
        session.send_now()

    @property
    def state(self) -> str | None:
        """What has come of it, as ``LockRequest`` has it; None when the session has ended or it was dropped."""
        with self._session.lock:
            self.held  # noqa: B018  # a hold whose lease is over is lost when one looks
            return self._member_state.locks.state(self._ticket)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock now."""
        return self._session.holds(self._member_state, self._ticket)

    @property
    def token(self) -> int:
        """The fencing token; 0 while it is not held."""
        with self._session.lock:
            return self._member_state.locks.token(self._ticket) if self.held else 0

    @property
    def decided(self) -> bool:
        """Whether there is nothing left to wait for. A grant that came after the lease had ended is asked for anew."""
        with self._session.lock:
            state = self.state
            if state == "lost" and self._waits:
                self.renew()
                return False
            return state != "waiting" or isinstance(self._session.failure, (GroupFull, VersionMismatch))

    def renew(self) -> None:
        """Give up what there is, and wait behind all others who wait."""
        with self._session.lock:
            self._member_state.locks.drop(self._ticket)
            self._ticket = self._member_state.locks.add(self._name, shared=self._shared, waits=self._waits)
        self._session.send_now()

    def drop(self) -> Callable[[], bool]:
        """Give up what there is. The result says whether the partition actor knows."""
        with self._session.lock:
            self._member_state.locks.drop(self._ticket)
        return self.send()

    def send(self) -> Callable[[], bool]:
        """Send what has changed, now. The result says whether the partition actor knows."""
        session, member_state = self._session, self._member_state
        with session.lock:
            seq = member_state.want_reply()
        session.send_now()
        return lambda: member_state.answered >= seq or not session.active or session.member_state is not member_state

    def conclude(self) -> bool:
        """End a wait: whether the lock is held. If it is not, the request is dropped.

        Raises ``NotStarted``, ``GroupFull``, ``VersionMismatch`` and ``PartitionActorUnavailable``.
        """
        with self._session.lock:
            state, failure = self.state, self._session.failure
            if state == "held":
                return True
            self.drop()
        if state is None:
            raise NotStarted("the member was stopped while it waited for a lock")
        if isinstance(failure, (GroupFull, VersionMismatch)):
            raise failure
        if state == "waiting" and not self._waits:
            raise PartitionActorUnavailable(
                f"the partition actor did not say within {self._session.call_timeout} s who has the lock"
            )
        return False


class Lock:
    """A lock that at most one process in the cluster holds at a time, or several that share it.

    ::

        lock = coordinator.lock("migrate")
        with lock:
            migrate(fencing_token=lock.fencing_token)

    It belongs to the session that took it, and is free when that session ends: as soon as the process is known to be
    dead, or else with its lease. A process that was stopped, or cut off from the partition actor, for longer than its
    lease has lost its locks and does not get them back: check `held` before each piece of work, and pass the
    `fencing_token` to the storage. When the partition actor crashes, holders keep their locks, and no lock changes
    hands for one lease. It is not reentrant: a second `acquire` waits, unless both are shared. Any thread may call any
    method. Each `acquire` that succeeds needs one `release`.

    Threads and asyncio tasks may share one object. Each sees and releases its own hold. One that took nothing sees and
    releases the latest of the others.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self._session = session
        self._holds: list[tuple[object, Hold]] = []
        """Who took it, and what: the latest last."""

    @property
    def held(self) -> bool:
        """Whether this object holds it now. Never waits."""
        return self.fencing_token > 0

    @property
    def fencing_token(self) -> int:
        """An int that grows with every hold of this lock, in any process; 0, lower than all, while it is not held."""
        with self._session.lock:
            return max((hold.token for _, hold in self._own_or_all()), default=0)

    def acquire(self, blocking: bool = True, timeout: float | None = None, shared: bool = False) -> bool:
        """Take the lock. Returns whether it is held now.

        `blocking`: wait for it, at most `timeout` seconds (None: without end); otherwise take it only if it is free.
        `shared`: several that are shared may hold it at a time. It is granted in the order of the requests.

        Raises ``InvalidArgument``, ``NotStarted`` (also when the member is stopped meanwhile), ``GroupFull``,
        ``VersionMismatch``, and, if not `blocking`, ``PartitionActorUnavailable`` when no answer comes within
        `call_timeout`.
        """
        with self.asking(blocking, timeout, shared) as (hold, limit):
            self._session.wakeups.wait(lambda: hold.decided, limit)
        return self.end(hold)

    async def aacquire(self, blocking: bool = True, timeout: float | None = None, shared: bool = False) -> bool:
        """`acquire`, for asyncio. Cancelling it withdraws the request."""
        with self.asking(blocking, timeout, shared) as (hold, limit):
            await self._session.wakeups.until(lambda: hold.decided, limit)
        return self.end(hold)

    def release(self) -> bool:
        """Give it back. Returns False when it was not held: never taken, broken, or lost with the lease.

        Waits until the partition actor knows, at most `call_timeout`. In either case it is no longer held.
        """
        known = self._release()
        if known is None:
            return False
        self._session.wait(known)
        return True

    async def arelease(self) -> bool:
        """`release`, for asyncio."""
        known = self._release()
        if known is None:
            return False
        await self._session.wakeups.until(known, self._session.call_timeout)
        return True

    def break_(self) -> bool:
        """Take it from those who hold it. Returns False when nobody does.

        Waits until they know, or have lost their lease, so that it is never held twice. Raises ``NotStarted``, and
        ``PartitionActorUnavailable`` when that takes longer than `call_timeout`; it is broken all the same.
        """
        return bool(self._session.ask_now("break_lock", lock_name(self.name)))

    async def abreak(self) -> bool:
        """`break_`, for asyncio."""
        return await run_in_thread(self.break_)

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

    @contextmanager
    def asking(self, blocking: object, timeout: object, shared: object) -> Iterator[tuple[Hold, float | None]]:
        """Ask for it, and give how long to wait; a wait that is cut short withdraws the request."""
        waits = arguments.check_flag("blocking", blocking)
        limit = None if timeout is None else arguments.check_seconds("timeout", timeout)
        if limit is not None and not waits:
            arguments.refuse("timeout", timeout, "None, unless it is blocking")
        hold = Hold(self._session, lock_name(self.name), shared=arguments.check_flag("shared", shared), waits=waits)
        try:
            yield hold, limit if waits else self._session.call_timeout
        except BaseException:
            hold.drop()
            raise

    def end(self, hold: Hold) -> bool:
        """End a wait: whether the lock is held now. See `Hold.conclude`."""
        with self._session.lock:
            if taken := hold.conclude():
                self._holds.append((_taker(), hold))
            return taken

    def _own_or_all(self) -> list[tuple[object, Hold]]:
        taker = _taker()
        return [each for each in self._holds if each[0] == taker] or self._holds

    def _release(self) -> Callable[[], bool] | None:
        """Give the latest hold back; None when it was not held any more, or there is none."""
        with self._session.lock:
            if not self._holds:
                return None
            mine = self._own_or_all()[-1]
            self._holds.remove(mine)
            held = mine[1].held
            known = mine[1].drop()
            return known if held else None


def _taker() -> object:
    """The asyncio task, or else the thread, that runs this."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()
