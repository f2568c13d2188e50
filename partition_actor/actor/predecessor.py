"""What the GCS knows of the partition actors of the same name and namespace before this one.

A partition actor that ends in good order writes, as its last act, a record of that into the GCS's key-value store,
under its actor id. Ray's own record of an end would not do: that of ``ray.actor.exit_actor()`` is the same as that of
an `__ray_terminate__` sent by anybody ("INTENDED_USER_EXIT", Ray 2.60), and neither says whether leases are out.

All that is private to Ray is read here. The answer "unknown" is safe: the next partition actor waits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import ray

log = logging.getLogger(__name__)

GCS_TIMEOUT = 5.0
"""Seconds that a question to the GCS may take."""
KV_NAMESPACE = b"partition_actor"


def was_restarted() -> bool:
    """Whether Ray has restarted this actor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the property warns about another one that it uses itself
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def nothing_is_out() -> bool:
    """Whether every former actor of this actor's name and namespace has ended in good order, or there was none.

    False if the GCS does not tell. Not to be asked by an actor that Ray has restarted: it has itself run before.
    """
    try:
        mine = ray.get_runtime_context().get_actor_id()
        return all(map(_ended_in_good_order, _former_actors(mine)))
    except Exception:
        log.warning("cannot tell whether a partition actor of this name ran before: it may have", exc_info=True)
        return False


async def record_end() -> bool:
    """Write that this actor has ended in good order, and nothing that it granted is out; returns whether that worked.

    Call it as the last act: from then on this actor must grant nothing.
    """
    try:
        key = _record(ray.get_runtime_context().get_actor_id())
        await _gcs().async_internal_kv_put(key, b"nothing is out", True, KV_NAMESPACE, timeout=GCS_TIMEOUT)
    except Exception:
        log.warning("cannot record the end in good order: the next partition actor will wait for leases", exc_info=True)
        return False
    return True


def _former_actors(mine: str | None) -> Iterable[str | None]:
    """The ids of the other actors, dead ones too, of the name and namespace of actor `mine`."""
    from ray._private import state
    from ray.core.generated import gcs_pb2

    table = state.state._connect_and_get_accessor().get_actor_table(None, None)
    entries: Any = map(gcs_pb2.ActorTableData.FromString, table)  # type: ignore[attr-defined]
    actors: dict[str | None, tuple[str, str]] = {
        entry.actor_id.hex(): (entry.name, entry.ray_namespace) for entry in entries
    }
    name = actors.pop(mine)
    return [actor for actor, other in actors.items() if other == name]


def _ended_in_good_order(actor: str | None) -> bool:
    return bool(_gcs().internal_kv_exists(_record(actor), KV_NAMESPACE, timeout=GCS_TIMEOUT))


def _record(actor: str | None) -> bytes:
    return f"ended in good order: {actor}".encode()


def _gcs() -> Any:
    worker: Any = ray._private.worker.global_worker
    return worker.gcs_client
