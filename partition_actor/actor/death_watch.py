"""Notices that a member's process is dead, within milliseconds where that can be, without touching the member.

- An actor: the watch is a call to it whose argument is never ready. It waits for its argument here, in the caller, so
  the worker's own queue never sees it; when the worker's process dies, Ray fails it with ``ActorDiedError``.
- A task or a driver: it owns a reference that is never ready, and the watch waits for that. When its process dies, Ray
  fails that with ``OwnerDiedError``, about two seconds later. On the partition actor's own node the kernel tells at
  once, by a ``pidfd``.

Whoever is told "dead" may take the member's keys at once, so the verdict must be certain, and Ray's error is not:

- Ray gives it as well when it merely lost touch with a node; a worker on such a node may run on. Hence the node is
  asked about, and of one that is lost nothing is concluded.
- Of an actor that ends in an orderly way (terminated, killed by ``ray.kill``, out of scope) Ray gives it early. It is
  *ending*, and dead when the kernel of its node says so. One that broke its connection to Ray, as ``kill -9`` and
  crashes make it, is dead already.

The call to an actor outlives a restart of the actor by Ray, and says nothing then. But a session of the actor's new
process tells that the former one is ending, if its node lives: an actor has one process at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OwnerDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from partition_actor import processes
from partition_actor.core.messages import SessionKey
from partition_actor.processes import ProcessIdentity, pending_call

log = logging.getLogger(__name__)


CONNECTION_BROKE = "unexpectedly exits with a connection error"
"""Ray's words for a process whose end the kernel told it, by closing its socket; the error has no field for it."""
LOOK_FOR = 30.0
"""Seconds for which a task on another node waits for a process to end."""


async def alive_nodes() -> set[str]:
    """The hex ids of the nodes that the GCS counts alive now."""
    nodes = await asyncio.get_running_loop().run_in_executor(None, ray.nodes)
    return {node["NodeID"] for node in nodes if node["Alive"]}


async def watch_here(life: ProcessIdentity) -> bool:
    """Wait until a process of this very node has ended; False at once when that cannot be told without polling."""
    return life.node == ray.get_runtime_context().get_node_id() and await processes.watch(life.process)


async def process_ended(life: ProcessIdentity) -> bool:
    """Wait until the process of a life has ended, as the kernel of its node says. False: that cannot be told."""
    if await watch_here(life):
        return True
    if life.node == ray.get_runtime_context().get_node_id():
        while (ended := processes.has_ended(life.process)) is False:
            await asyncio.sleep(processes.POLL)
        return bool(ended)
    there = NodeAffinitySchedulingStrategy(life.node, soft=False)
    look = ray.remote(processes.wait_until_ended).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return bool(await look.remote(life.process, LOOK_FOR))


class DeathWatch:
    """One watch a session.

    `pending` is a reference that is never ready. `on_ending` hears, where there is time for that, that a process is
    about to end, and `on_death` of each certain death once.
    """

    def __init__(
        self,
        pending: ray.ObjectRef[Any],
        on_ending: Callable[[SessionKey], None],
        on_death: Callable[[SessionKey], None],
        nodes: Callable[[], Awaitable[set[str]]] = alive_nodes,
        ended: Callable[[ProcessIdentity], Awaitable[bool]] = process_ended,
        here: Callable[[ProcessIdentity], Awaitable[bool]] = watch_here,
        cancel: Callable[[Any], None] = ray.cancel,
    ) -> None:
        self._pending = pending
        self._on_ending = on_ending
        self._on_death = on_death
        self._nodes = nodes
        self._ended = ended
        self._here = here
        self._cancel = cancel
        self._watches: dict[SessionKey, asyncio.Task[None]] = {}
        self._lives: dict[SessionKey, ProcessIdentity] = {}
        self._sessions: dict[str, set[SessionKey]] = {}
        """By actor, its sessions of all its processes."""
        self._succeeded: set[SessionKey] = set()

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._watches

    def watch(self, key: SessionKey, life: ProcessIdentity) -> None:
        """Watch the process that a session lives in; a second watch changes nothing."""
        if key in self._watches:
            return
        self._sessions.setdefault(life.actor or life.worker, set()).add(key)
        self._lives[key] = life
        self._spawn(key, self._follow(key, life, self._by_actor if life.actor else self._by_owner))

    def succeed(self, key: SessionKey) -> None:
        """A watched session has taken its places: the processes that its actor had before are ending, if not ended."""
        life = self._lives.get(key)
        if life is None:
            return
        for former in list(self._sessions[life.actor or life.worker]):
            if self._lives[former].worker != life.worker and former not in self._succeeded:
                self._succeeded.add(former)
                self._spawn(former, self._follow(former, self._lives[former], self._by_successor))

    def forget(self, key: SessionKey) -> None:
        """Stop watching, for a session that is over."""
        task = self._watches.pop(key, None)
        if task is not None:
            task.cancel()
        self._succeeded.discard(key)
        life = self._lives.pop(key, None)
        if life is not None:
            sessions = self._sessions[life.actor or life.worker]
            sessions.discard(key)
            if not sessions:
                del self._sessions[life.actor or life.worker]

    def _spawn(self, key: SessionKey, following: Coroutine[Any, Any, None]) -> None:
        before = self._watches.pop(key, None)
        if before is not None:
            before.cancel()
        task = self._watches[key] = asyncio.get_running_loop().create_task(following)
        task.add_done_callback(partial(self._over, key))

    def _over(self, key: SessionKey, task: asyncio.Task[None]) -> None:
        if self._watches.get(key) is task:
            self.forget(key)

    async def _follow(self, key: SessionKey, life: ProcessIdentity, by_ray: Callable[..., Awaitable[bool]]) -> None:
        """Wait for the first certain verdict."""
        verdicts = [asyncio.ensure_future(by_ray(key, life))]
        if not life.actor:  # Ray may start an actor anew, whose next process then takes its keys over where they are
            verdicts.append(asyncio.ensure_future(self._here(life)))
        try:
            for verdict in asyncio.as_completed(verdicts):
                if await self._is_dead(key, verdict):
                    self._on_death(key)
                    return
            log.warning("nobody can tell whether the process of member %r runs, its lease decides", key[0])
        finally:
            for verdict in verdicts:
                verdict.cancel()

    async def _is_dead(self, key: SessionKey, verdict: Awaitable[bool]) -> bool:
        try:
            return await verdict
        except Exception as error:
            log.warning("cannot watch member %r any more: %s", key[0], str(error) or repr(error))
            return False

    async def _by_actor(self, key: SessionKey, life: ProcessIdentity) -> bool:
        reference = pending_call(life.handle, self._pending)
        try:
            await reference
        except asyncio.CancelledError:
            self._cancel(reference)  # a call that waits holds about 9 kB
            raise
        except ActorDiedError as error:
            if CONNECTION_BROKE in str(error):
                return await self._on_living_node(key, life)
            return await self._by_successor(key, life)
        return False

    async def _by_successor(self, key: SessionKey, life: ProcessIdentity) -> bool:
        """Ray has given the actor up: its process ends, if it has not yet."""
        if not await self._on_living_node(key, life):
            return False
        self._on_ending(key)
        return await self._ended(life)

    async def _by_owner(self, key: SessionKey, life: ProcessIdentity) -> bool:
        if not life.owned:
            return False
        try:
            await life.owned[0]
        except OwnerDiedError:
            return await self._on_living_node(key, life) and await self._ended(life)
        return False

    async def _on_living_node(self, key: SessionKey, life: ProcessIdentity) -> bool:
        if life.node in await self._nodes():
            return True
        log.warning("member %r was on a node that Ray lost; it may still run, so its lease decides", key[0])
        return False
