"""Which worker actor owns which key, in a process that need not be a member: it follows the group's views by push.

The session of a group watcher (see ``core.group_watchers``) receives each view as soon as members do. The handles of
new members are fetched then; those of old members are kept, together with the calls under way there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError

from partition_actor.arguments import refuse
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import Change
from partition_actor.core.views import View
from partition_actor.errors import GroupFull, GroupNotFound, PartitionError
from partition_actor.member.background import background_loop
from partition_actor.member.ray_transport import RayTransport
from partition_actor.member.session import Session
from partition_actor.member.wakeups import Wakeups
from partition_actor.ring import Ring
from partition_actor.router.call_counts import CallCounts, CallMetrics
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

FETCH_PAUSES = (0.02, 1.0)
"""Seconds before handles are fetched again after an incomplete or failed reply: the first pause, and the longest."""


@dataclass(eq=False, slots=True)
class MemberActor:
    """A member's actor, and the calls that this process has under way there.

    Returned calls are forgotten when the limit is reached and with each heartbeat: to be notified of each return would
    cost as much as the call.
    """

    member_id: str
    handle: Any
    limit: int
    """The most calls that may be under way."""
    on_returned: Callable[[list[bytes]], None] = lambda tasks: None
    """Takes the ids of the calls' tasks that have returned."""
    dead: bool = False
    """Ray has reported the actor dead; its keys will soon have another owner."""
    calls: dict[ray.ObjectRef[Any], None] = field(default_factory=dict)
    """By their first result."""
    _sending: list[None] = field(default_factory=list)
    """As many as places that are taken by calls which are not sent yet."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def take_place(self) -> bool:
        """Take a place among the calls that may be under way, for `send` to use; False if there is none.

        Forgets returned calls first if there seems to be none.
        """
        for look in (self.forget_returned, None):
            with self._lock:
                if len(self.calls) + len(self._sending) < self.limit:
                    self._sending.append(None)
                    return True
            if look is not None:
                look()
        return False

    def send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, streams: bool = False) -> Any:
        """Call a method of the actor, in the place that `take_place` has taken; returns what Ray does.

        Raises ``InvalidArgument`` when it has no such method, when the method returns nothing, so that nobody could
        tell when the call is over, and, unless the caller `streams`, when it is a generator.
        """
        try:
            try:
                bound = getattr(self.handle, method)
                remote = bound.remote
            except (AttributeError, TypeError):
                refuse("method", method, f"the name of a method of the actor of member {self.member_id!r}")
            returns = getattr(bound, "_num_returns", 1)
            if returns == 0 or (returns == "streaming" and not streams):
                refuse("method", method, f"one that returns results at once, not one of num_returns={returns!r}")
            sent = remote(*args, **kwargs)
            self.calls[sent if returns == 1 else first(sent)] = None
            return sent
        finally:
            self._sending.pop()

    def forget(self, sent: Any) -> None:
        """Forget a call that has returned, by what `send` returned."""
        self.calls.pop(first(sent), None)

    def forget_returned(self) -> None:
        """Forget the calls that have returned."""
        calls = list(self.calls)
        if not calls:
            return
        if not ray.is_initialized():  # they have ended with it, and to ask would start Ray anew
            self.calls.clear()
            return
        returned, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        tasks = [reference.binary()[:-4] for reference in returned]
        while returned:
            self.calls.pop(returned.pop(), None)
        calls.clear()  # whoever remembers a call sees by its references whether anybody still wants the result
        self.on_returned(tasks)


def first(sent: Any) -> ray.ObjectRef[Any]:
    """Of what a call returned, the reference that says when it is over: it may have several or be a generator."""
    if isinstance(sent, ray.ObjectRef):
        return sent
    reference: ray.ObjectRef[Any] = sent[0] if isinstance(sent, list) else sent.completed()
    return reference


@dataclass(frozen=True, eq=False, slots=True)
class RoutingTable:
    """The group's view and its members' actors at one moment; every change makes a new table."""

    epoch: Epoch | None = None
    """None: no view of the group has arrived, or there is no such group."""
    ring: Ring | None = None
    actors: Mapping[str, MemberActor] = field(default_factory=dict)
    """By member id."""
    complete: bool = False
    """Whether `actors` has every member that is an actor."""

    def owner(self, key: object) -> str | None:
        """The id of the member that owns `key` in this view; None when no member does."""
        return None if self.ring is None else self.ring.owner(key)

    def ready_actor(self, key: object) -> MemberActor | None:
        """The owner's actor if a call can be sent there at once, else None."""
        owner = None if self.ring is None else self.ring.owner(key)
        actor = None if owner is None else self.actors.get(owner)
        return None if actor is None or actor.dead or len(actor.calls) >= actor.limit else actor


class GroupFollower:
    """Keeps `table` up to date, and wakes whoever waits for a new one."""

    def __init__(
        self,
        group: str,
        actor: Any,
        namespace: str,
        settings: Settings,
        limit: int,
        on_returned: Callable[[list[bytes] | None], None] = lambda tasks: None,
    ) -> None:
        """`on_returned` takes the tasks of calls that have returned; None, with each heartbeat: any may have."""
        self.group = group
        self.table = RoutingTable()
        self._limit, self._on_returned = limit, on_returned
        transport = RayTransport(actor, namespace)
        self.counts = CallCounts()
        self._metrics = CallMetrics(self.counts, group, actor)
        self._session = Session(f"router-{uuid.uuid4().hex}", transport, settings, self._on_changes)
        self._wakeups = Wakeups()
        self._known_upto = -1
        """The registration number up to which handles are known; -1: fetch all."""
        self._fetching: asyncio.Task[None] | None = None

    @property
    def is_active(self) -> bool:
        """Whether it is started and not stopped."""
        return self._session.active

    def start(self) -> None:
        """Begin to follow; waits at most `call_timeout` for the first reply about the group. Raises ``GroupFull``."""
        session = self._session
        if session.active:
            return
        session.start()
        with session.lock:
            session.member_state.watch(self.group)
            watched = session.member_state.groups[self.group]
            session.forget_failure()
        session.send_now()
        session.wait(lambda: self.table.epoch is not None or watched.unknown or isinstance(session.failure, GroupFull))
        if isinstance(failure := session.failure, GroupFull) and watched.view is None:
            self.stop()
            raise failure

    def stop(self) -> None:
        """Stop following."""
        if self._session.active:
            self._session.stop()
            background_loop().call_soon_threadsafe(self._reset)

    def wait(self, seen: RoutingTable, seconds: float) -> None:
        """Wait until `table` is another than `seen`, at most so many seconds."""
        self._wakeups.wait(lambda: self.table is not seen, seconds)

    async def await_change(self, seen: RoutingTable, seconds: float) -> None:
        """`wait`, for asyncio."""
        await self._wakeups.until(lambda: self.table is not seen, seconds)

    # -- on the background loop ---------------------------------------------------------------------------------

    def _on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            if change.group == self.group:
                self._take_view(change.after)
        try:
            for actor in self.table.actors.values():
                actor.forget_returned()  # with each heartbeat, so that results are freed even if no more calls are made
            self._on_returned(None)
        except Exception:
            log.exception("router of group %r: cannot count the calls that have returned", self.group)
        self._record()

    def _record(self, *, at_once: bool = False) -> None:
        if self._session.member_state.settings.metrics:
            self._metrics.record(at_once=at_once)

    def _take_view(self, view: View | None) -> None:
        if view is None:
            self._publish(RoutingTable())
            return
        kept = {member_id: actor for member_id, actor in self.table.actors.items() if member_id in view.members}
        self._publish(RoutingTable(view.epoch, view.ring(self._session.member_state.settings), kept))
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch_actors())

    async def _fetch_actors(self) -> None:
        """Fetch handles until the table is complete."""
        pause = FETCH_PAUSES[0]
        while self._session.active and self.table.epoch is not None and not self.table.complete:
            fetched_for, since = self.table, self._known_upto
            try:
                reply = await self._session.ask("get_actors", self.group, since)
                if self._take_actors(reply, since, fetched_for):
                    continue
            except GroupNotFound:
                pass
            except (RayError, PartitionError, asyncio.TimeoutError) as error:
                log.info("cannot fetch the actor handles of group %r, trying again: %s", self.group, error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, FETCH_PAUSES[1])

    def _take_actors(self, reply: dict[str, Any], since: int, fetched_for: RoutingTable) -> bool:
        """Add the handles in a reply to the table; False when the partition actor may soon know more."""
        table = self.table
        members = {} if table.ring is None else table.ring.members
        known = {**table.actors, **{member_id: self._actor(member_id, it) for member_id, it in reply["actors"].items()}}
        actors = {member_id: actor for member_id, actor in known.items() if member_id in members}
        # A handle that arrives before the view with its member is dropped above: if any is missing, fetch all.
        fetch_all = len(actors) < len(members) and since >= 0
        self._known_upto = -1 if fetch_all else reply["upto"]
        complete = table is fetched_for and reply["complete"] and not fetch_all
        self._publish(RoutingTable(table.epoch, table.ring, actors, complete))
        return bool(reply["complete"])

    def _actor(self, member_id: str, handle: Any) -> MemberActor:
        before = self.table.actors.get(member_id)
        if before is not None and before.handle._actor_id == handle._actor_id:
            return replace(before, handle=handle, dead=False)
        return MemberActor(member_id, handle, self._limit, self._on_returned)

    def _publish(self, table: RoutingTable) -> None:
        with self._wakeups.lock:
            self.table = table
            self._wakeups.wake()

    def _reset(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
        self._known_upto = -1
        self._publish(RoutingTable())
        self._record(at_once=True)
