"""Detects that a member's process is dead, within milliseconds where possible, and without a load on the member.

- An actor: the watch calls it with an argument that is never ready. The call waits here, in the caller, so the worker's
  queue never sees it. When the worker's process dies, Ray fails the call with ``ActorDiedError``.
- A task or a driver: it owns a reference that is never ready, and the watch awaits that. When the process dies, Ray
  fails the reference with ``OwnerDiedError``, about two seconds later. On the partition actor's own node a ``pidfd``
  tells at once.

A dead member's keys may move at once, so a verdict must be certain, and Ray's error alone is not:

- Ray raises it also when it loses touch with a node, where the worker may run on. So the watch asks whether the node is
  alive, and concludes nothing about a lost one.
- Ray raises it early for an actor that ends in an orderly way (terminated, ``ray.kill``, out of scope). That one is
  *ending*, and dead when its node's kernel says so. One whose connection to Ray broke (``kill -9``, a crash) is dead.

If Ray restarts the actor, the call tells nothing. But an actor has one process at a time: once a session of its new
process joins, the former process is ending, provided that its node is alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import ray
from ray.exceptions import ActorDiedError, OwnerDiedError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from partition_actor import clock, processes
from partition_actor.core.events import Why
from partition_actor.core.messages import SessionKey
from partition_actor.processes import ProcessIdentity, pending_call

log = logging.getLogger(__name__)

CONNECTION_BROKE = "unexpectedly exits with a connection error"
"""Ray's words for a process whose socket the kernel has closed; the error has no field for that."""
LOOK_FOR = 30.0
"""Seconds that a task on another node waits for a process to end."""


async def alive_nodes() -> set[str]:
    """The hex ids of the nodes that the GCS counts alive now."""
    nodes = await asyncio.get_running_loop().run_in_executor(None, ray.nodes)
    return {node["NodeID"] for node in nodes if node["Alive"]}


async def watch_here(identity: ProcessIdentity) -> bool:
    """Wait until a process of this node has ended. False at once for another node, or if it takes polling to know."""
    return identity.node == ray.get_runtime_context().get_node_id() and await processes.watch(identity.process)


async def process_ended(identity: ProcessIdentity) -> bool:
    """Wait until a process of any node has ended, according to the node's kernel. False if nobody can tell."""
    if await watch_here(identity):
        return True
    if identity.node == ray.get_runtime_context().get_node_id():
        while (ended := processes.has_ended(identity.process)) is False:
            await asyncio.sleep(processes.POLL)
        return bool(ended)
    there = NodeAffinitySchedulingStrategy(identity.node, soft=False)
    look = ray.remote(processes.wait_until_ended).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return bool(await look.remote(identity.process, LOOK_FOR))


class Death(NamedTuple):
    """Who said that a process is dead."""

    said: str
    heard: float
    """When the first word of it came, on this process's clock."""

    def seconds(self) -> float:
        """How long it has been since."""
        return clock.now() - self.heard

    def why(self) -> Why:
        """The same in a sentence; asked for as soon as it is certain."""
        after = 1000 * self.seconds()
        return ("{}", self.said) if after < 1.0 else ("{}, {:.0f} ms after the first word of that", self.said, after)


WatchKind = Literal["actor", "connection", "process", "lease"]
"""How a death is learnt: by a call to the actor, a reference that its process owns, from this node's kernel; "lease":
only by silence."""


@dataclass
class _Watch:
    identity: ProcessIdentity
    task: asyncio.Task[None]
    kind: WatchKind
    succeeded: bool = False  # whether the actor's next process has joined


class DeathWatch:
    """One watch for each session.

    `pending` is a reference that is never ready. `on_ending` is called when a process is about to end, if that is known
    in advance, and `on_death` once for each certain death. Tests replace the rest, which asks Ray and the kernel.
    """

    def __init__(
        self,
        pending: ray.ObjectRef[Any],
        on_ending: Callable[[SessionKey], None],
        on_death: Callable[[SessionKey, Death], None],
        nodes: Callable[[], Awaitable[set[str]]] = alive_nodes,
        ended: Callable[[ProcessIdentity], Awaitable[bool]] = process_ended,
        here: Callable[[ProcessIdentity], Awaitable[bool]] = watch_here,
        cancel: Callable[[Any], None] = ray.cancel,
    ) -> None:
        self._pending, self._on_ending, self._on_death = pending, on_ending, on_death
        self._nodes, self._ended, self._here, self._cancel = nodes, ended, here, cancel
        self._watches: dict[SessionKey, _Watch] = {}
        # By actor, or by worker for a task or a driver: the watched sessions of all its processes.
        self._sessions: dict[str, set[SessionKey]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._watches

    def kind(self, key: SessionKey) -> WatchKind:
        """How the death of a session's process would be learnt."""
        return self._watches[key].kind if key in self._watches else "lease"

    def watch(self, key: SessionKey, identity: ProcessIdentity) -> None:
        """Watch the process of a session. Does nothing if it is watched already."""
        if key not in self._watches:
            self._sessions.setdefault(identity.actor or identity.worker, set()).add(key)
            task = self._spawn(key, identity, self._by_actor if identity.actor else self._by_owner)
            self._watches[key] = _Watch(identity, task, "actor" if identity.actor else "process")

    def succeed(self, key: SessionKey) -> None:
        """A watched session has joined its groups: its actor's former processes are ending or have ended."""
        watch = self._watches.get(key)
        if watch is None:
            return
        for former in self._sessions[watch.identity.actor or watch.identity.worker]:
            before = self._watches[former]
            if before.identity.worker != watch.identity.worker and not before.succeeded:
                before.task.cancel()
                before.task, before.succeeded = self._spawn(former, before.identity, self._by_successor), True

    def forget(self, key: SessionKey) -> None:
        """Stop watching a session."""
        watch = self._watches.pop(key, None)
        if watch is not None:
            watch.task.cancel()
            sessions = self._sessions[watch.identity.actor or watch.identity.worker]
            sessions.discard(key)
            if not sessions:
                del self._sessions[watch.identity.actor or watch.identity.worker]

    def _spawn(
        self, key: SessionKey, identity: ProcessIdentity, by_ray: Callable[..., Awaitable[Death | None]]
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._follow(key, identity, by_ray))
        task.add_done_callback(partial(self._over, key))
        return task

    def _over(self, key: SessionKey, task: asyncio.Task[None]) -> None:
        if key in self._watches and self._watches[key].task is task:
            self.forget(key)

    async def _follow(
        self, key: SessionKey, identity: ProcessIdentity, by_ray: Callable[..., Awaitable[Death | None]]
    ) -> None:
        verdicts = [asyncio.ensure_future(by_ray(key, identity))]
        if not identity.actor:  # Ray may restart an actor, and its next process then keeps its keys
            verdicts.append(asyncio.ensure_future(self._by_kernel(key, identity)))
        try:
            for verdict in asyncio.as_completed(verdicts):
                death = None
                try:
                    death = await verdict
                except TaskCancelledError:
                    log.info("the watch of member %r is over: its process is ending", key[0])
                except Exception as error:
                    log.warning("cannot watch member %r any more: %s", key[0], str(error) or repr(error))
                if death is not None:
                    self._on_death(key, death)
                    return
            log.warning("cannot tell whether the process of member %r still runs; its lease decides", key[0])
        finally:
            for verdict in verdicts:
                verdict.cancel()

    async def _by_kernel(self, key: SessionKey, identity: ProcessIdentity) -> Death | None:
        if await self._here(identity):
            return Death("the kernel of its node says that its process has ended", clock.now())
        if key in self._watches:
            self._watches[key].kind = "connection"
        return None

    async def _by_actor(self, key: SessionKey, identity: ProcessIdentity) -> Death | None:
        reference = pending_call(identity.handle, self._pending)
        try:
            await reference
        except asyncio.CancelledError:
            self._cancel(reference)  # a waiting call holds about 9 kB
            raise
        except ActorDiedError as error:
            if CONNECTION_BROKE in str(error):
                death = Death("the kernel of its node closed its connection to Ray", clock.now())
                return death if await self._on_living_node(key, identity) else None
            return await self._by_successor(key, identity)
        return None

    async def _by_successor(self, key: SessionKey, identity: ProcessIdentity) -> Death | None:
        """The process of an actor that Ray has given up is ending or has ended."""
        death = Death("Ray has given it up, and the kernel of its node says that it has ended", clock.now())
        if not await self._on_living_node(key, identity):
            return None
        self._on_ending(key)
        return death if await self._ended(identity) else None

    async def _by_owner(self, key: SessionKey, identity: ProcessIdentity) -> Death | None:
        if not identity.owned:
            return None
        try:
            await identity.owned[0]
        except OwnerDiedError:
            death = Death("Ray lost its owner, and the kernel of its node says that it has ended", clock.now())
            return death if await self.has_ended(key, identity) else None
        return None

    async def has_ended(self, key: SessionKey, identity: ProcessIdentity) -> bool:
        """Wait until the process of an actor that has another one by now has ended. False if nobody can tell."""
        return await self._on_living_node(key, identity) and await self._ended(identity)

    async def _on_living_node(self, key: SessionKey, identity: ProcessIdentity) -> bool:
        if identity.node in await self._nodes():
            return True
        log.warning("member %r was on a node that Ray lost; it may still run, so its lease decides", key[0])
        return False
