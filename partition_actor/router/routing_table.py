"""Which worker actor owns which key, as a process that is no member knows it: it follows the group's views by push.

A watcher's session (see ``watchers``) brings each view as soon as members have it. The handles of new members are
asked for then; those of old ones are kept, with the calls that are under way there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from partition_actor.arguments import refuse
from partition_actor.core.member import Change
from partition_actor.core.messages import Epoch
from partition_actor.core.views import View
from partition_actor.errors import GroupFull, GroupNotFound, PartitionError
from partition_actor.member.background import background_loop
from partition_actor.member.session import Session
from partition_actor.ring import Ring
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

ASK_AGAIN = (0.02, 1.0)
"""Seconds between two questions for handles that the partition actor did not answer in full: the first, and the
longest."""


@dataclass(eq=False, slots=True)
class MemberActor:
    """A member's actor, and the calls that this process has under way there.

    Those that have returned are counted out when there are as many as are allowed, and with each heartbeat: to be told
    of each would cost as much as the call.
    """

    member: str
    handle: Any
    limit: int
    lost: bool = False
    """Ray has said that the actor is dead: its keys are to be another's soon."""
    calls: dict[ray.ObjectRef[Any], None] = field(default_factory=dict)

    def send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ray.ObjectRef[Any]:
        """Call a method of the actor. Raises ``InvalidArgument`` when it has none of that name."""
        try:
            remote = getattr(self.handle, method).remote
        except (AttributeError, TypeError):
            refuse("method", method, f"the name of a method of the actor of member {self.member!r}")
        reference: ray.ObjectRef[Any] = remote(*args, **kwargs)
        self.calls[reference] = None
        return reference

    @property
    def is_full(self) -> bool:
        """Whether as many calls as are allowed have not returned, as far as is known."""
        return len(self.calls) >= self.limit

    def count(self) -> None:
        """Forget the calls that have returned."""
        calls = list(self.calls)
        if calls:
            returned, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
            for reference in returned:
                self.calls.pop(reference, None)


@dataclass(frozen=True, eq=False, slots=True)
class RoutingTable:
    """What is known at one moment; another moment has another object."""

    epoch: Epoch | None = None
    """None: nothing has been heard of the group, or there is no such group."""
    ring: Ring | None = None
    targets: Mapping[str, MemberActor] = field(default_factory=dict)
    complete: bool = False
    """Whether `targets` has every member that is an actor."""

    def owner(self, key: object) -> str | None:
        """The id of the member that owns `key` by the latest view; None when there is none."""
        return None if self.ring is None else self.ring.owner(key)


class GroupFollower:
    """Keeps `routes` up to date; whoever waits for another is woken."""

    def __init__(self, group: str, actor: Any, namespace: str, settings: Settings, limit: int) -> None:
        self.group = group
        self.routes = RoutingTable()
        self._limit = limit
        self._connection = Session(f"router-{uuid.uuid4().hex}", actor, namespace, settings, self._on_changes)
        self._changed = threading.Condition()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        self._upto = -1
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        """Whether it has been started, and not stopped."""
        return self._connection.active

    def start(self) -> None:
        """Begin to follow; waits at most `call_timeout` for the first word of the group. Raises ``GroupFull``."""
        connection = self._connection
        if connection.active:
            return
        connection.start()
        with connection.lock:
            held = connection.member_state
            held.watch(self.group)
            standing = held.groups[self.group]
            connection.forget_failure()
        connection.send_now()
        connection.wait(
            lambda: self.routes.epoch is not None or standing.unknown or isinstance(connection.failure, GroupFull)
        )
        failure = connection.failure
        if isinstance(failure, GroupFull) and standing.view is None:
            self.stop()
            raise failure

    def stop(self) -> None:
        """Follow no more."""
        if self._connection.active:
            self._connection.stop()
            self._connection.close_session()
            background_loop().call_soon_threadsafe(self._end)

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait(self, seen: RoutingTable, seconds: float) -> None:
        """Wait until the routes are others than those `seen`, for at most so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.routes is not seen, seconds)

    async def await_change(self, seen: RoutingTable, seconds: float) -> None:
        """`wait`, for asyncio."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        with self._changed:
            if self.routes is not seen:
                return
            self._waiting[woken] = loop
        try:
            await asyncio.wait({woken}, timeout=seconds)
        finally:
            with self._changed:
                self._waiting.pop(woken, None)

    # -- on the background loop ---------------------------------------------------------------------------------

    def _on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            if change.group == self.group:
                self._take(change.after)
        for target in self.routes.targets.values():
            target.count()  # with each heartbeat: a result is not kept for long because nobody calls any more

    def _take(self, view: View | None) -> None:
        if view is None:
            self._show(RoutingTable())
            return
        kept = {member: target for member, target in self.routes.targets.items() if member in view.members}
        self._show(RoutingTable(view.epoch, view.ring(self._connection.member_state.settings), kept))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        """Ask for handles until all that there are for the latest view are known."""
        pause = ASK_AGAIN[0]
        while self._connection.active and self.routes.epoch is not None and not self.routes.complete:
            asked_for, since = self.routes, self._upto
            try:
                reply = await self._connection.ask("get_actors", self.group, since)
                if self._install(reply, since, asked_for):
                    continue
            except GroupNotFound:
                pass
            except (RayError, PartitionError, asyncio.TimeoutError) as error:
                log.info(
                    "the partition actor does not tell the handles of group %r, asking again: %s", self.group, error
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, ASK_AGAIN[1])

    def _install(self, reply: dict[str, Any], since: int, asked_for: RoutingTable) -> bool:
        """Take in the handles that a reply brought; False when it may soon bring more."""
        routes = self.routes
        targets = {**routes.targets, **{member: self._target(member, it) for member, it in reply["actors"].items()}}
        members = {} if routes.ring is None else routes.ring.members
        targets = {member: target for member, target in targets.items() if member in members}
        # A handle may come before the view that names its member, and is lost then: who misses one asks for all.
        lacking = len(targets) < len(members)
        current = routes is asked_for and reply["complete"]
        self._upto = -1 if lacking and since >= 0 else reply["upto"]
        done = current and not (lacking and since >= 0)
        self._show(RoutingTable(routes.epoch, routes.ring, targets, complete=done))
        return bool(reply["complete"])

    def _target(self, member: str, handle: Any) -> MemberActor:
        before = self.routes.targets.get(member)
        made = MemberActor(member, handle, self._limit)
        if before is not None and before.handle._actor_id == handle._actor_id:
            made.calls = before.calls
        return made

    def _show(self, routes: RoutingTable) -> None:
        with self._changed:
            self.routes = routes
            waiting, self._waiting = self._waiting, {}
            self._changed.notify_all()
        for woken, loop in waiting.items():
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(_wake, woken)

    def _end(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._upto = -1
        self._show(RoutingTable())


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
