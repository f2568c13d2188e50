"""What the detached controller of a fleet must know after Ray has restarted it: kept in the GCS's key-value store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ray import cloudpickle

from partition_actor import ray_internals
from partition_actor.fleet.spec import Version

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
    lives: int = 0
    """Processes of its controller so far."""


class Store:
    """The record of one fleet of a namespace. Methods raise what Ray raises when the GCS does not answer."""

    def __init__(self, name: str, namespace: str) -> None:
        self._key = json.dumps([namespace, name]).encode()

    def load(self) -> Wanted | None:
        """What was saved last; None if nothing was."""
        value = ray_internals.gcs_client().internal_kv_get(self._key, KV_NAMESPACE, timeout=GCS_TIMEOUT)
        loaded: Any = None if value is None else cloudpickle.loads(value)
        return loaded  # type: ignore[no-any-return]

    def save(self, wanted: Wanted) -> None:
        """Keep this in place of what was saved before."""
        ray_internals.gcs_client().internal_kv_put(self._key, pack(wanted), True, KV_NAMESPACE, timeout=GCS_TIMEOUT)

    def remove(self) -> None:
        """The fleet has ended."""
        ray_internals.gcs_client().internal_kv_del(self._key, False, KV_NAMESPACE, timeout=GCS_TIMEOUT)


def pack(value: Any) -> bytes:
    """`value` as bytes, with the classes of a user's script in it."""
    packed: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return packed
