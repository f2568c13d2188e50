"""Notices within milliseconds that a worker actor's process is dead, without touching the worker.

The watch is a call to the watched actor whose argument is never ready. It waits for its argument here, in the caller,
so the worker's own queue never sees it; when the worker's process dies, Ray fails it with ``ActorDiedError``.

Whoever is told "dead" may take the member's keys at once, so the verdict must be certain. Ray gives the same error when
it merely lost touch with a node; a worker on such a node may run on. Hence the node is asked about afterwards, and only
a dead process on a living node counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

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


def own_watch() -> list[Any] | None:
    """``[actor handle, node id]`` when this process runs an actor: what others watch it by."""
    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return None if context.get_actor_id() is None else [own_handle(), context.get_node_id()]


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

    def __len__(self) -> int:
        return len(self._watches)

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._watches

    def watch(self, key: SessionKey, handle: Any, node: str) -> None:
        """Watch the actor behind `handle`, which runs on the node of hex id `node`; a second watch changes nothing."""
        if key not in self._watches:
            task = asyncio.get_running_loop().create_task(self._follow(key, handle, node))
            self._watches[key] = task
            task.add_done_callback(lambda done: self._watches.get(key) is done and self._watches.pop(key))

    def forget(self, key: SessionKey) -> None:
        """Stop watching, for a session that is over."""
        task = self._watches.pop(key, None)
        if task is not None:
            task.cancel()

    async def _follow(self, key: SessionKey, handle: Any, node: str) -> None:
        reference = handle.__ray_call__.remote(_noop, self._never)
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
        try:
            certain = node in await self._nodes()
        except Exception:
            log.warning("member %r is gone and its node cannot be asked about, its lease decides", key[0])
            return
        if certain:
            self._on_death(key)
        else:
            log.warning("member %r was on a node that Ray lost; it may still run, so its lease decides", key[0])
