"""What the detached controller of a fleet must know after Ray has restarted it: kept in the GCS's key-value store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ray import cloudpickle

from partition_actor import ray_internals
from partition_actor.errors import FleetNotFound, InvalidArgument
from partition_actor.fleet.spec import FleetSpec, Version

KV_NAMESPACE = b"partition_actor_fleets"
GCS_TIMEOUT = 10.0
"""Seconds."""
NUMBERS_A_LIFE = 1_000_000
"""Workers that one life of a controller may number."""


@dataclass
class Wanted:
    """What users have asked of a fleet so far."""

    size: int
    version: int
    stable: int
    max_unavailable: int
    versions: dict[int, Version] = field(default_factory=dict)
    """Those that are still needed."""
    stopping: bool = False
    lives: int = 0
    """Processes of its controller so far."""


class Store:
    """The record of one deployment of a fleet. Methods raise what Ray raises when the GCS does not answer."""

    def __init__(self, deployment: str) -> None:
        """`deployment`: what no other has, not even one of the same name."""
        self._key = deployment.encode()

    def load(self) -> bytes:
        """What was saved last, for `unpack`."""
        value: Any = ray_internals.gcs_client().internal_kv_get(self._key, KV_NAMESPACE, timeout=GCS_TIMEOUT)
        if value is None:
            raise FleetNotFound("the fleet has been stopped, or its cluster has lost what it knew of it")
        return bytes(value)

    def save(self, spec: FleetSpec, wanted: Wanted) -> None:
        """Keep this in place of what was saved before. Raises ``InvalidArgument`` for what cannot be pickled."""
        value = pack((spec, wanted))
        ray_internals.gcs_client().internal_kv_put(self._key, value, True, KV_NAMESPACE, timeout=GCS_TIMEOUT)

    def remove(self) -> None:
        """The fleet has ended."""
        ray_internals.gcs_client().internal_kv_del(self._key, False, KV_NAMESPACE, timeout=GCS_TIMEOUT)


def pack(value: Any) -> bytes:
    """`value` as bytes, with the classes of a user's script in it. Raises ``InvalidArgument``."""
    try:
        packed: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise InvalidArgument(f"worker, args, kwargs or options: cannot be pickled: {error}") from error
    return packed


def unpack(packed: bytes) -> tuple[FleetSpec, Wanted]:
    """What `Store.save` has kept. Raises whatever the import of its classes raises."""
    unpacked: tuple[FleetSpec, Wanted] = cloudpickle.loads(packed)
    return unpacked
