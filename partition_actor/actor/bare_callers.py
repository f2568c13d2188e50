"""Knows the processes of callers that have only the handle and hand themselves over as actors.

Such a caller tells its actor, and not which of the actor's processes it is: Ray may have restarted the actor. The GCS
tells the process that the actor has now. That one is the caller if none was before, or if all before have certainly
ended: a former process on a lost node may still call. A caller whose session is its worker id is known by that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, NamedTuple

import ray

from partition_actor import processes
from partition_actor.actor import actor_table
from partition_actor.actor.actor_table import ActorProcess
from partition_actor.actor.death_watch import DeathWatch
from partition_actor.actor.member_handles import MemberHandles
from partition_actor.arguments import refuse
from partition_actor.core.messages import SessionKey
from partition_actor.processes import ProcessIdentity

log = logging.getLogger(__name__)

MOST_ACTORS = 10_000
"""Actors whose latest process is remembered after their sessions have ended: Ray may take long to restart one."""


class Caller(NamedTuple):
    """Who calls under a session."""

    actor: Any = None
    process: str = ""
    """Empty for a session that only one process uses."""
    identity: ProcessIdentity | None = None
    """What to watch; None if the process is not known for certain."""
    lasting: bool = False
    """The process is known, and no other can call under this session: the actor need not be looked up again."""

    @property
    def worker(self) -> str:
        """The worker id of the process; empty if it is not known for certain."""
        return "" if self.identity is None else self.identity.worker


class _Latest(NamedTuple):
    identity: ProcessIdentity
    """Without the handle, which might keep the actor alive."""
    restarts: int
    restartable: bool
    alone: asyncio.Future[bool]
    """Whether all processes that the actor has had before have certainly ended."""


class BareCallers:
    """The process of each session whose caller is an actor; begins the death watch and keeps the handle.

    `on_replaced` is called with a session and its process that has certainly ended, because Ray restarted the actor. A
    process is waited for at most `patience` seconds. Tests replace `process_of`, which asks Ray.
    """

    def __init__(
        self,
        watch: DeathWatch,
        handles: MemberHandles,
        on_replaced: Callable[[SessionKey, str], None],
        patience: float,
        process_of: Callable[[Any], Awaitable[ActorProcess | None]] = actor_table.process_of,
    ) -> None:
        self._watch, self._handles, self._on_replaced, self._patience = watch, handles, on_replaced, patience
        self._process_of = process_of
        self._callers: dict[SessionKey, Caller] = {}
        self._latest: OrderedDict[str, _Latest] = OrderedDict()
        self._unknown = count()

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._callers

    def process(self, key: SessionKey) -> str:
        """The process of a session that was taken in last; empty for a session that only one process uses."""
        caller = self._callers.get(key)
        return "" if caller is None else caller.process

    async def identify(self, key: SessionKey, actor: Any) -> Caller:
        """Who calls now under a session, by this call's `actor` or that of one before.

        A process that is not known for certain is another one at each call. Raises ``InvalidArgument`` when Ray has
        given the actor up.
        """
        before = self._callers.get(key)
        if actor is None:
            if before is None:
                return Caller()
            actor = before.actor
        if before is not None and before.lasting and before.actor._actor_id == actor._actor_id:
            return before
        if actor._actor_id == ray.get_runtime_context().current_actor._actor_id:
            refuse("actor", actor, "the handle of the actor that calls, and not the partition actor's")
        found = await self._process_of(actor)
        if found is not None and found.over:
            refuse("actor", actor, "an actor that Ray has not given up")
        named, latest = bool(key[1]), None if found is None else self._take(key, actor, found)
        if latest is None or not (key[1] == latest.identity.worker or await self._is_alone(latest)):
            return Caller(actor, "" if named else f"unknown {next(self._unknown)}", None)
        identity = latest.identity._replace(handle=actor)
        return Caller(actor, "" if named else identity.worker, identity, lasting=named or not latest.restartable)

    def adopt(self, key: SessionKey, caller: Caller) -> None:
        """This caller's session is a member now: watch it, and keep its handle."""
        before = self._callers.get(key)
        if caller is before or caller.actor is None:
            return
        self._callers[key] = caller
        if before is None or before.worker != caller.worker:
            self._watch.forget(key)
            self._handles.register(key, caller.actor)
        if caller.identity is not None:
            self._watch.watch(key, caller.identity)
            self._watch.succeed(key)

    def forget(self, key: SessionKey) -> None:
        """The session is over."""
        self._callers.pop(key, None)

    def _take(self, key: SessionKey, actor: Any, found: ActorProcess) -> _Latest | None:
        """Note what the GCS told of an actor's process; None if it is not the latest."""
        name = actor._actor_id.hex()
        before = self._latest.get(name)
        if before is not None and found.restarts <= before.restarts:
            return before if found.worker == before.identity.worker else None
        here = found.node == ray.get_runtime_context().get_node_id()
        process = processes.process_of_worker(found.pid, here=here)
        identity = ProcessIdentity(None, found.node, name, found.worker, process)
        alone = asyncio.ensure_future(self._is_last(key, before, found))
        latest = self._latest[name] = _Latest(identity, found.restarts, found.restartable, alone)
        if len(self._latest) > MOST_ACTORS:
            self._latest.popitem(last=False)
        return latest

    async def _is_last(self, key: SessionKey, before: _Latest | None, found: ActorProcess) -> bool:
        if found.restarts == 0:
            return True
        if before is None or found.restarts != before.restarts + 1:
            return False
        try:
            certain = await before.alone and await self._watch.has_ended(key, before.identity)
        except Exception as error:
            log.warning(
                "cannot tell whether the former process of member %r runs: %s", key[0], str(error) or repr(error)
            )
            return False
        for each, caller in list(self._callers.items()) if certain else ():
            if caller.actor._actor_id.hex() == before.identity.actor:
                self._on_replaced(each, before.identity.worker)
        return certain

    async def _is_alone(self, latest: _Latest) -> bool:
        if latest.alone.done():
            return latest.alone.result()
        try:
            return await asyncio.wait_for(asyncio.shield(latest.alone), self._patience)
        except asyncio.TimeoutError:
            return False
