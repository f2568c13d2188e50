"""One session of this process with the partition actor, and waiting for what comes of it.

What everything on the worker's side shares: it brings ``member_state`` (what is known), ``link`` (the heartbeats) and
the users' threads together.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from partition_actor.core.member import Change, MemberState
from partition_actor.errors import NotStarted, PartitionActorUnavailable, PartitionError
from partition_actor.member.background import background_loop, run_in_background
from partition_actor.member.link import Link, log_change
from partition_actor.member.lock import until
from partition_actor.processes import own_identity
from partition_actor.settings import Settings

TELLING = 0.0005
"""Seconds, about half of what it takes a partition actor to tell one member the news: less, and answers come in
between; more, and the hand-off waits for them."""


class Connection:
    """The sessions that `member_id` has with a partition actor, one after another: each `start` makes a new one.

    `actor` is the partition actor's name or handle. `on_changes` is called on the background loop with what each reply
    has changed. `lock` guards the state machine.
    """

    def __init__(
        self,
        member_id: str,
        actor: Any,
        namespace: str,
        settings: Settings,
        on_changes: Callable[[list[Change]], None],
    ) -> None:
        self.member_id = member_id
        self.active = False
        self.lock = threading.RLock()
        self._replied = threading.Condition(self.lock)
        self._listeners: set[Callable[[], None]] = set()
        self._actor = actor
        self._namespace = namespace
        self._settings = settings
        self._on_changes = on_changes
        self._member_state: MemberState | None = None
        self._link: Link | None = None

    def start(self) -> None:
        """Begin to send heartbeats; waits until the partition actor answers, at most `call_timeout`."""
        with self.lock:
            if self.active:
                return
            self.active = True
            held = MemberState(self.member_id, uuid.uuid4().hex, self._settings)
            link = Link(held, self.lock, self._actor, self._namespace, own_identity(), self._on_reply)
            self._member_state, self._link = held, link
        run_in_background(link.run())
        self.wait(lambda: link.connected or link.failure is not None)

    def stop(self) -> bool:
        """Leave all groups and send no more heartbeats; whether the partition actor knows that this member is out."""
        member_state, link = self._member_state, self._link
        if member_state is None or link is None or not self.active:
            return False
        with self.lock:
            groups = list(member_state.groups)
            for group in groups:
                member_state.leave(group)
            had_locks = bool(member_state.locks.stated())
            member_state.locks.clear()
            told = member_state.want_reply() if had_locks else 0
        out = False
        if link.connected:
            self.send_now()
            out = self.wait(lambda: member_state.answered >= told and all(self.is_out(group) for group in groups))
        with self._replied:
            self.active = False
            member_state.end()
            self._wake()
        background_loop().call_soon_threadsafe(link.stop)
        return out

    def close_session(self) -> None:
        """Let the partition actor forget the session, which has stopped, before its lease ends."""
        if self._link is not None:
            run_in_background(self._link.close_session())

    @property
    def member_state(self) -> MemberState:
        """What the session knows. Raises ``NotStarted``."""
        if self._member_state is None:
            raise NotStarted(f"member {self.member_id!r}: call start() first, or use `with PartitionCoordinator(...)`")
        return self._member_state

    @property
    def was_started(self) -> bool:
        """Whether there is, or was, a session."""
        return self._member_state is not None

    @property
    def failure(self) -> PartitionError | None:
        """The refusal that the last request met, if it met one."""
        return None if self._link is None else self._link.failure

    async def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the partition actor returns; see ``Link.ask``. Call it on the background loop."""
        if self._link is None:
            raise NotStarted(f"member {self.member_id!r} has no session with a partition actor")
        return await self._link.ask(method, *arguments)

    def forget_failure(self) -> None:
        """Let the next request decide anew whether there is a refusal."""
        if self._link is not None:
            self._link.failure = None

    def state(self, group: str) -> str | None:
        """How this member stands in a group, as ``member_state`` says; None when it never joined."""
        held = self._member_state.groups.get(group) if self._member_state else None
        return None if held is None else held.state

    def is_out(self, group: str) -> bool:
        """Whether it is no member of a group and does not wait to be one."""
        return self.state(group) not in ("joining", "member")

    @property
    def patience(self) -> float:
        """Seconds that a call waits for the coordinator."""
        return self._settings.call_timeout

    def wait(self, done: Callable[[], bool]) -> bool:
        """Wait until `done`, at most `call_timeout`; whether it came to be."""
        return self.wait_for(done, self.patience)

    def wait_for(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `done`, at most `timeout` seconds, or without end; whether it came to be."""
        with self._replied:
            return self._replied.wait_for(done, timeout)

    async def until(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """`wait_for`, for asyncio."""
        return await until(self, done, timeout, self._listeners)

    def ask_now(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of the partition actor, which must come within `call_timeout`.

        Raises what the method raises, and ``PartitionActorUnavailable``.
        """
        link = self._link
        if link is None or not self.active:
            raise NotStarted(f"member {self.member_id!r}: call start() first")
        self.wait(lambda: link.handle is not None)
        if link.handle is None:
            raise PartitionActorUnavailable(
                f"no partition actor was found within {self.patience} s, so not asked: {method}"
            )
        try:
            return ray.get(getattr(link.handle, method).remote(*arguments), timeout=self.patience)
        except PartitionError:
            raise
        except GetTimeoutError:
            raise PartitionActorUnavailable(
                f"the partition actor did not answer {method} within {self.patience} s"
            ) from None
        except RayError as error:
            raise PartitionActorUnavailable(f"the partition actor did not answer {method}: {error}") from error

    async def aask_now(self, method: str, *arguments: Any) -> Any:
        """`ask_now`, for asyncio."""
        return await asyncio.to_thread(self.ask_now, method, *arguments)

    def send_now(self) -> None:
        """Let a request go out at once."""
        if self._link is not None:
            background_loop().call_soon_threadsafe(self._link.send_now)

    def send_in_turn(self, senders: int) -> None:
        """Let a request go out when so many have heard what they all answer at once: it would keep the last waiting."""
        pause = min((senders - 1) * TELLING, self.member_state.settings.publish_window)
        if self._link is not None:
            background_loop().call_soon_threadsafe(self._link.send_in, pause)

    def _on_reply(self, changes: list[Change]) -> None:
        for change in changes:
            log_change(self.member_id, change)
        self._on_changes(changes)
        with self._replied:
            self._wake()

    def _wake(self) -> None:
        self._replied.notify_all()
        for listener in self._listeners:
            listener()
