"""Notices within milliseconds that a worker actor's process is dead, without touching the worker.

The watch is a call to the watched actor whose argument is never ready. It waits for its argument here, in the caller,
so the worker's own queue never sees it; when the worker's process dies, Ray fails it with ``ActorDiedError``.

Whoever is told "dead" may take the member's keys at once, so the verdict must be certain. Ray gives the same error when
it merely lost touch with a node; a worker on such a node may run on. Hence the node is asked about afterwards, and only
a dead process on a living node counts.

The call outlives a restart of the actor by Ray, and says nothing then. But a session of the actor's new process tells
that the former one is dead, if its node lives: an actor has one process at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError

from partition_actor.protocol import SessionKey

log = logging.getLogger(__name__)


async def alive_nodes() -> set[str]:
    """The hex ids of the nodes that the GCS counts alive now."""
    nodes = await asyncio.get_running_loop().run_in_executor(None, ray.nodes)
    return {node["NodeID"] for node in nodes if node["Alive"]}


def own_handle() -> Any:
    """The handle of the actor that this process runs; it does not keep the actor alive."""
    return ray.get_runtime_context().current_actor


class Life(NamedTuple):
    """The process that a session lives in, by what others can watch: all that Ray knows it by."""

    handle: Any
    node: str
    actor: str
    worker: str


def own_life() -> Life | None:
    """This process, when it runs an actor."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    actor = context.get_actor_id()
    return None if actor is None else Life(own_handle(), context.get_node_id(), actor, context.get_worker_id())


def _noop(_actor: Any, _never: Any) -> None:
    return None


class DeathWatch:
    """One watch a session. `never` is a reference that is never ready; `on_death` hears of each certain death once."""

    def __init__(
        self,
        never: ray.ObjectRef[Any],
        on_death: Callable[[SessionKey], None],
        nodes: Callable[[], Awaitable[set[str]]] = alive_nodes,
        cancel: Callable[[Any], None] = ray.cancel,
    ) -> None:
        self._never = never
        self._on_death = on_death
        self._nodes = nodes
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
                self._spawn(former, self._conclude(former, self._lives[former].node))
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
        except ActorDiedError:
            pass
        except (RayError, ValueError) as error:
            log.warning("cannot watch member %r any more, its lease decides: %s", key[0], error)
            return
        else:
            return
        await self._conclude(key, life.node)

    async def _conclude(self, key: SessionKey, node: str) -> None:
        """The process is gone, says Ray: believe it if its node lives."""
        try:
            certain = node in await self._nodes()
        except Exception:
            log.warning("member %r is gone and its node cannot be asked about, its lease decides", key[0])
            return
        if certain:
            self._on_death(key)
        else:
            log.warning("member %r was on a node that Ray lost; it may still run, so its lease decides", key[0])
