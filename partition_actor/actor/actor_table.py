"""Asks Ray's actor table for the process that an actor has now. The table is private to Ray, so an answer may fail."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from partition_actor import ray_internals

log = logging.getLogger(__name__)

LOOK_UP_TIMEOUT = 1.0
"""Seconds to wait for the GCS. Without an answer the process is unknown, which is safe."""
_THREADS = ThreadPoolExecutor(2, "actor-table")  # of its own: while the GCS is away, others do not wait for it


class ActorProcess(NamedTuple):
    """The process of an actor, with Ray's ids in hex."""

    worker: str
    node: str
    pid: int
    restarts: int
    """How many processes the actor has had before."""
    restartable: bool
    over: bool
    """Ray has given the actor up and starts no other process."""


async def process_of(actor: Any) -> ActorProcess | None:
    """The process that the GCS knows now; None if it does not tell, or knows none at present."""
    looked_up = asyncio.get_running_loop().run_in_executor(_THREADS, _look_up, actor)
    try:
        return await asyncio.wait_for(looked_up, LOOK_UP_TIMEOUT)
    except Exception:
        log.warning("cannot tell the process of %r, so its lease decides", actor, exc_info=True)
        return None


def _look_up(actor: Any) -> ActorProcess | None:
    from ray.core.generated import gcs_pb2

    found = ray_internals.state_accessor().get_actor_info(actor._actor_id)
    if found is None:
        return None
    record: Any = gcs_pb2.ActorTableData  # type: ignore[attr-defined]  # made by protobuf
    told = record.FromString(found)
    over = told.state == record.DEAD
    if not over and not told.address.worker_id:
        return None
    worker, node = told.address.worker_id.hex(), ray_internals.node_of(told.address)
    return ActorProcess(worker, node, told.pid, told.num_restarts, told.max_restarts != 0, over)
