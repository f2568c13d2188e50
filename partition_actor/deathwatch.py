"""Notices within milliseconds that a worker actor's process is dead, without touching the worker.

The watch is a call to the watched actor whose argument is never ready. It waits for its argument here, in the caller,
so the worker's own queue never sees it; when the worker's process dies, Ray fails it with ``ActorDiedError``.

Whoever is told "dead" may take the member's keys at once, so the verdict must be certain, and Ray's error is not:

- Ray gives it as well when it merely lost touch with a node; a worker on such a node may run on. Hence the node is
  asked about, and of one that is lost nothing is concluded.
- Of a process that ends in an orderly way (terminated, killed by ``ray.kill``, out of scope) Ray gives it early. It is
  *ending*, and dead when the kernel of its node says so. One that broke its connection to Ray, as ``kill -9`` and
  crashes make it, is dead already.

The call outlives a restart of the actor by Ray, and says nothing then. But a session of the actor's new process tells
that the former one is ending, if its node lives: an actor has one process at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from partition_actor import processes
from partition_actor.protocol import SessionKey

log = logging.getLogger(__name__)


CONNECTION_BROKE = "unexpectedly exits with a connection error"
"""Ray's words for a process whose end the kernel told it, by closing its socket; the error has no field for it."""
LOOK_FOR = 30.0
"""Seconds for which a task on another node waits for a process to end."""


async def alive_nodes() -> set[str]:
    """The hex ids of the nodes that the GCS counts alive now."""
    nodes = await asyncio.get_running_loop().run_in_executor(None, ray.nodes)
    return {node["NodeID"] for node in nodes if node["Alive"]}


def own_handle() -> Any:
    """The handle of the actor that this process runs; it does not keep the actor alive."""
    return ray.get_runtime_context().current_actor


class Life(NamedTuple):
    """The process that a session lives in, by what others can watch: Ray's ids in hex, and the kernel's."""

    handle: Any
    node: str
    actor: str
    worker: str
    process: str


def own_life() -> Life | None:
    """This process, when it runs an actor."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    actor = context.get_actor_id()
    if actor is None:
        return None
    return Life(own_handle(), context.get_node_id(), actor, context.get_worker_id(), processes.own_process())


async def process_ended(life: Life) -> bool:
    """Wait until the process of a life has ended, as the kernel of its node says. False: that cannot be told."""
    if life.node == ray.get_runtime_context().get_node_id():
        while (ended := processes.has_ended(life.process)) is False:
            await asyncio.sleep(processes.POLL)
        return bool(ended)
    there = NodeAffinitySchedulingStrategy(life.node, soft=False)
    look = ray.remote(processes.wait_until_ended).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return bool(await look.remote(life.process, LOOK_FOR))


def _noop(_actor: Any, _never: Any) -> None:
    return None


class DeathWatch:
    """One watch a session.

    `never` is a reference that is never ready. `on_ending` hears, where there is time for that, that a process is about
    to end, and `on_death` of each certain death once.
    """

    def __init__(
        self,
        never: ray.ObjectRef[Any],
        on_ending: Callable[[SessionKey], None],
        on_death: Callable[[SessionKey], None],
        nodes: Callable[[], Awaitable[set[str]]] = alive_nodes,
        ended: Callable[[Life], Awaitable[bool]] = process_ended,
        cancel: Callable[[Any], None] = ray.cancel,
    ) -> None:
        self._never = never
        self._on_ending = on_ending
        self._on_death = on_death
        self._nodes = nodes
        self._ended = ended
        self._cancel = cancel
        self._watches: dict[SessionKey, asyncio.Task[None]] = {}
        self._lives: dict[SessionKey, Life] = {}
        self._sessions: dict[str, set[SessionKey]] = {}
        """By actor, its sessions of all its processes."""

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._watches

    def watch(self, key: SessionKey, life: Life) -> None:
        """Watch the process that a session lives in; a second watch changes nothing."""
        if key in self._watches:
            return
        sessions = self._sessions.setdefault(life.actor, set())
        for former in list(sessions):
            if self._lives[former].worker != life.worker:
                self._spawn(former, self._conclude(former, self._lives[former], dead=False))
        sessions.add(key)
        self._lives[key] = life
        self._spawn(key, self._follow(key, life))

    def forget(self, key: SessionKey) -> None:
        """Stop watching, for a session that is over."""
        task = self._watches.pop(key, None)
        if task is not None:
            task.cancel()
        life = self._lives.pop(key, None)
        if life is not None:
            self._sessions[life.actor].discard(key)
            if not self._sessions[life.actor]:
                del self._sessions[life.actor]

    def _spawn(self, key: SessionKey, following: Coroutine[Any, Any, None]) -> None:
        before = self._watches.pop(key, None)
        if before is not None:
            before.cancel()
        task = self._watches[key] = asyncio.get_running_loop().create_task(following)
        task.add_done_callback(partial(self._over, key))

    def _over(self, key: SessionKey, task: asyncio.Task[None]) -> None:
        if self._watches.get(key) is task:
            self.forget(key)

    async def _follow(self, key: SessionKey, life: Life) -> None:
        reference = life.handle.__ray_call__.remote(_noop, self._never)
        try:
            await reference
        except asyncio.CancelledError:
            self._cancel(reference)  # a call that waits holds about 9 kB
            raise
        except ActorDiedError as error:
            dead = CONNECTION_BROKE in str(error)
        except (RayError, ValueError) as error:
            log.warning("cannot watch member %r any more, its lease decides: %s", key[0], error)
            return
        else:
            return
        await self._conclude(key, life, dead=dead)

    async def _conclude(self, key: SessionKey, life: Life, *, dead: bool) -> None:
        """The actor's process is gone, says Ray: find out whether it is, and if not yet, wait for it."""
        try:
            if life.node not in await self._nodes():
                log.warning("member %r was on a node that Ray lost; it may still run, so its lease decides", key[0])
                return
            if not dead:
                self._on_ending(key)
                dead = await self._ended(life)
        except Exception:
            log.warning("member %r is gone and its node cannot be asked, its lease decides", key[0], exc_info=True)
            return
        if dead:
            self._on_death(key)
        else:
            log.warning("member %r is gone and its node cannot tell whether it runs, its lease decides", key[0])
