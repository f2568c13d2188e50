"""The partition actor as an asyncio Ray actor: the shell around ``membership``.

It adds what a state machine must not have: the clock, waiting, the death watch, and the proof that its node still
counts as alive. `deployment` makes it a detached named actor.

Arguments and replies are builtins, so whoever holds the handle can call it without importing this library.
Every method may be repeated safely. Bad arguments raise ``InvalidArgument``, and the actor goes on serving.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import time
from typing import Any

import ray

from partition_actor import arguments, clock
from partition_actor.actor.death_watch import DeathWatch, alive_nodes
from partition_actor.actor.group_calls import GroupCalls
from partition_actor.actor.lock_calls import LockCalls
from partition_actor.actor.member_handles import Handles
from partition_actor.actor.predecessor import was_first, was_restarted
from partition_actor.actor.timer_wheel import Turns, wake
from partition_actor.core.group import Group
from partition_actor.core.membership import Membership
from partition_actor.core.messages import PROTOCOL, Epoch, SessionKey, check_protocol, fencing_token, incarnation_at
from partition_actor.core.share import Share
from partition_actor.core.status import status_of
from partition_actor.core.views import View
from partition_actor.errors import PartitionError
from partition_actor.processes import ProcessIdentity, own_handle
from partition_actor.settings import Settings
from partition_actor.version import __version__

log = logging.getLogger(__name__)

COLLECT_AFTER = 100_000
"""Objects made and not yet let go before Python looks for cycles among them (700 by default): it would walk through
all that belongs to thousands of held heartbeats again and again, at a twentieth of what these cost."""

REMEMBERED = 1000
"""How many sessions of dead processes are remembered, so that a late request of theirs brings none of them back."""


class PartitionActor(LockCalls, GroupCalls):
    """Who is alive, and which keys are whose. Deploy it with ``partition_actor.deploy()``."""

    def __init__(self, name: str | None = None, settings: dict[str, Any] | None = None) -> None:
        # An actor whose constructor raises is dead for good: whatever is wrong is told by every call instead.
        self._failure: PartitionError | None = None
        self._name = name
        try:
            self._settings = Settings.from_dict(settings or {})
        except PartitionError as error:
            self._failure, self._settings = error, Settings()
        self._membership: Membership | None = None
        self._waiters: dict[SessionKey, asyncio.Future[None]] = {}
        self._turns = Turns()
        self._unsettled: dict[str, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._watch: DeathWatch | None = None
        self._pending: Any = None
        self._handles = Handles(0)
        self._node = ""
        self._dead: dict[SessionKey, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._proving: asyncio.Future[None] | None = None

    # -- workers ------------------------------------------------------------------------------------------------

    async def get_subset(
        self, group: str, member_id: str, items: Any, weight: int = 1, session: Any = None
    ) -> list[Any]:
        """The `items` that are this member's, in their order, each as often as it was given.

        Joins if need be (a group that nobody has made is made, and is not exclusive), counts as a heartbeat, and says
        that the caller is done with its earlier subset. In an exclusive group the reply is good for one `ttl` from the
        moment of the call: by then the caller must have asked again or have stopped working; a call that failed
        may have run, so after it the earlier subset is over too. Keys that another member has still to hand over are
        left out until it has. Waits while the partition actor recovers from a crash, at most one longest lease.

        Raises ``InvalidArgument``, and ``GroupFull`` when the partition actor serves `max_members` already.
        """
        membership, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        arguments.check_weight(weight)
        keys = arguments.check_items(items)
        received = clock.now()
        if not membership.is_drained(group, key):
            membership.join(received, group, key, weight, None, None)
        await self._until_settled(group)
        if membership.find(group).exclusive:
            await self._prove_since(received)
        view = membership.use(clock.now(), group, key)
        self._settle()
        return [] if view is None else Share.by(View.of(view), member_id, self._settings).of(keys)

    async def join(
        self,
        group: str,
        member_id: str,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
        session: Any = None,
    ) -> dict[str, Any]:
        """Become a member; making the group if need be, exclusive if the call says so. Returns the view::

            {"epoch": (incarnation, counter), "token": int, "exclusive": bool, "members": {member_id: weight}}

        Raises ``InvalidArgument``, ``GroupModeConflict`` and ``GroupFull``.
        """
        membership, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        arguments.check_weight(weight)
        arguments.check_mode(exclusive)
        arguments.check_metadata(metadata)
        membership.join(clock.now(), group, key, weight, metadata, exclusive)
        await self._until_settled(group)
        found = membership.find(group)
        token = fencing_token(found.epoch) if found.epoch else 0
        return {"epoch": found.epoch, "token": token, "exclusive": found.exclusive, "members": dict(found.members)}

    async def heartbeat(self, member_id: str, session: Any = None) -> dict[str, Any]:
        """Stay alive. Returns ``{"groups": {group: epoch}, "next": seconds, "known": bool}``.

        `next` is when the next one is due. `known` is False for a member that has expired or never joined.
        """
        membership, key = self._start(), self._key(member_id, session)
        reply = membership.heartbeat(clock.now(), key)
        self._settle()
        return reply

    async def leave(self, group: str, member_id: str, session: Any = None) -> None:
        """Be out, having stopped working; returns once the new epoch stands. Leaving twice is fine.

        Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        membership, key = self._start(), self._key(member_id, session)
        arguments.check_text("group", group)
        await self._find(group)
        membership.leave(clock.now(), group, key)
        await self._until_settled(group)

    async def sync(self, request: dict[str, Any], watch: list[Any] | None = None) -> dict[str, Any] | None:
        """The heartbeat of a ``PartitionCoordinator``; see ``protocol``. Held until there is news or one is due.

        `watch` is a ``deathwatch.ProcessIdentity`` as a list. None is the answer to a request that a later one of the
        same session has overtaken.
        """
        membership = self._start()
        arguments.check_request(request)
        arguments.check_watch(watch)
        check_protocol(request.get("protocol"), "a member runs")
        key: SessionKey = (request["member"], request["session"])
        if key in self._dead:  # sent before its process ended, and read after
            await asyncio.sleep(membership.interval)
            return None
        session = membership.sync(clock.now(), request)
        if session is None:
            return None
        if watch and self._watch is not None and not session.unclear and not session.resync:
            self._handles.register(key, watch[0])
            self._watch.watch(key, ProcessIdentity(*watch))
            if session.groups:  # a new process has its former one's places by now
                self._watch.succeed(key)
        overtaken = self._waiters.pop(key, None)
        if overtaken is not None:
            wake(overtaken)
        if not membership.is_calm:
            self._settle()
        seq = request["seq"]
        if seconds := membership.hold_for(session):
            await self._hold(key, seconds * random.uniform(0.9, 1.0))
        return membership.reply(clock.now(), session, seq) if session.seq == seq else None

    async def close_session(self, member_id: str, session: Any = None) -> None:
        """Forget a session that has stopped working and will not come back."""
        membership, key = self._start(), self._key(member_id, session)
        membership.release(clock.now(), key)
        self._settle()

    # -- everybody ----------------------------------------------------------------------------------------------

    async def get_members(self, group: str) -> list[str]:
        """The ids of a group's members, sorted. Raises ``InvalidArgument`` and ``GroupNotFound``."""
        found = await self._find(arguments.check_text("group", group))
        return sorted(found.members)

    async def get_groups(self) -> list[str]:
        """The names of the groups that have or lately had members, sorted."""
        return sorted(self._start().groups)

    async def get_owner(self, group: str, key: Any) -> str | None:
        """The id of the member whose `key` is, by the ring; None in a group without members.

        In an exclusive group a hand-off may still be under way. Raises ``InvalidArgument`` and ``GroupNotFound``.
        """
        found = await self._find(arguments.check_text("group", group))
        return found.ring().owner(key)

    async def get_actors(self, group: str, since: int = -1) -> dict[str, Any]:
        """The handles of a group's members that are actors; they keep no actor alive. Returns::

            {"actors": {member_id: handle}, "upto": int, "complete": bool}

        With the `upto` of an earlier reply as `since`, only what has been registered after that. Not `complete` while
        the partition actor recovers: some members have still to report. Raises ``InvalidArgument`` and
        ``GroupNotFound``.
        """
        found = self._start().find(arguments.check_text("group", group))
        return self._handles.of(found, arguments.check_number("since", since))

    async def status(self) -> dict[str, Any]:
        """Everything that an operator asks, as builtins; see ``partition_actor.core.status``."""
        self._settle()
        return {
            "name": self._name,
            "version": __version__,
            "node": self._node,
            "pid": os.getpid(),
            "watched": len(self._watch or ()),
            "settings": self._settings.to_dict(),
            **status_of(self._start(), clock.now()),
        }

    async def hello(self) -> dict[str, Any]:
        """Version, protocol and settings: what `connect` checks."""
        self._start()
        return {
            "version": __version__,
            "protocol": PROTOCOL,
            "settings": self._settings.to_dict(),
        }

    # -- operators ----------------------------------------------------------------------------------------------

    async def forget(self, group: str, member_id: str) -> Epoch | None:
        """Take a member off the ring now, whatever its lease; returns the new epoch. If it lives, it comes back.

        In an exclusive group its keys wait until its lease has ended: an operator's word proves nothing.
        Raises ``InvalidArgument``, ``GroupNotFound`` and ``MemberNotFound``.
        """
        arguments.check_text("group", group)
        arguments.check_text("member_id", member_id)
        await self._find(group)
        self._start().forget(clock.now(), group, member_id)
        return await self._until_settled(group)

    async def drain(self, group: str, member_id: str) -> Epoch | None:
        """Let a member hand its keys over, and leave; returns the new epoch. It stays out until it joins anew.

        Raises ``InvalidArgument``, ``GroupNotFound`` and ``MemberNotFound``.
        """
        arguments.check_text("group", group)
        arguments.check_text("member_id", member_id)
        await self._find(group)
        self._start().drain(clock.now(), group, member_id)
        return await self._until_settled(group)

    # -- insides ------------------------------------------------------------------------------------------------

    async def pend(self) -> None:
        """Never return: the argument that death watches wait for."""
        await asyncio.get_running_loop().create_future()

    async def lend_pending_reference(self) -> list[Any]:
        """A list with a reference that is never ready."""
        self._start()
        return [self._pending]

    def _start(self) -> Membership:
        """The state machine; made with the first call, because only then does the event loop run."""
        if self._failure is not None:
            raise self._failure
        if self._membership is None:
            gc.set_threshold(COLLECT_AFTER)
            restarted = was_restarted()
            first = not restarted and was_first(self._name)
            self._node = ray.get_runtime_context().get_node_id()
            incarnation = incarnation_at(time.time())
            self._membership = Membership(self._settings, incarnation, clock.now(), first=first, restarted=restarted)
            self._handles = Handles(incarnation)
            self._pending = own_handle().pend.remote()
            self._watch = DeathWatch(self._pending, self._on_ending, self._on_death)
            self._spawn(self._keep_proving())
            self._settle()
        return self._membership

    def _key(self, member_id: object, session: object) -> SessionKey:
        return (arguments.check_text("member_id", member_id), arguments.check_session(session))

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_ending(self, key: SessionKey) -> None:
        self._start().ending(clock.now(), key)
        self._settle()

    def _on_death(self, key: SessionKey) -> None:
        log.info("the process of member %r is dead", key[0])
        self._start().release(clock.now(), key)
        self._dead[key] = None
        if len(self._dead) > REMEMBERED:
            del self._dead[next(iter(self._dead))]
        self._settle()

    def _settle(self) -> None:
        """After every step of the state machine: answer those who waited for it, and set the alarm for the next."""
        membership = self._start()
        membership.tick(clock.now())
        for key in membership.take_news():
            if self._watch is not None and key not in membership.sessions:
                self._watch.forget(key)
                self._handles.forget(key)
            waiter = self._waiters.get(key)
            if waiter is not None and membership.has_news(key):
                wake(waiter)
        for group in [name for name in self._unsettled if membership.settled(name)]:
            wake(self._unsettled.pop(group))
        due = membership.deadline()
        if due < self._timer_at:
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - clock.now()), self._alarm)

    def _alarm(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        self._settle()

    async def _hold(self, key: SessionKey, seconds: float) -> None:
        waiter = self._waiters[key] = self._turns.waiter(seconds)
        await waiter
        if self._waiters.get(key) is waiter:
            del self._waiters[key]

    async def _find(self, group: str) -> Group:
        """The group, settled; a partition actor that has just restarted may have yet to hear of it.
        ``GroupNotFound``."""
        membership = self._start()
        while membership.restarted and group not in membership.groups and membership.recovering(clock.now()):
            await asyncio.sleep(self._settings.publish_window)
        membership.find(group)
        await self._until_settled(group)
        return membership.find(group)

    async def _until_settled(self, group: str) -> Epoch | None:
        """Wait until what was asked for in `group` is published; returns its epoch."""
        membership = self._start()
        self._settle()
        while not membership.settled(group):
            waiter = self._unsettled.get(group)
            if waiter is None:
                waiter = self._unsettled[group] = asyncio.get_running_loop().create_future()
            await asyncio.shield(waiter)
        found = membership.groups.get(group)
        return found.epoch if found else None

    # -- rule 8: the proof that the GCS still counts this node alive ---------------------------------------------

    async def _keep_proving(self) -> None:
        while True:
            await self._prove_since(clock.now())
            await asyncio.sleep(self._settings.node_proof_interval)

    async def _prove_since(self, moment: float) -> None:
        """Wait for a proof that is not older than `moment`; at most one question is under way at a time."""
        membership = self._start()
        while not membership.proven_since(moment):
            if self._proving is None:
                self._proving = asyncio.ensure_future(self._prove())
            await asyncio.shield(self._proving)

    async def _prove(self) -> None:
        asked = clock.now()
        try:
            if self._node in await asyncio.wait_for(alive_nodes(), self._settings.ttl):
                self._start().prove(asked)
                self._settle()
                return
            log.error("the GCS counts this partition actor's node as dead: no lease of an exclusive group is renewed")
        except Exception as error:
            log.warning("the GCS does not answer (%r): no lease of an exclusive group is renewed", error)
        finally:
            self._proving = None
        await asyncio.sleep(self._settings.node_proof_interval)
