"""What the GCS knows of the former partition actors of one name and namespace, and what it is to know of this one.

Each life of a partition actor leaves records in the GCS's key-value store: of every length of lease that it may grant,
before it grants the first, and that it is *settled*: nothing is out that it has granted. It says so itself as its last
act when it ends in good order; or a later one does, which has waited. Records are only added, so it does not matter
when a write arrives that was given up.

Ray's own record of an end would not do: that of ``ray.actor.exit_actor()`` is the same as that of an
`__ray_terminate__` sent by anybody ("INTENDED_USER_EXIT", Ray 2.60), and neither says whether leases are out.

The answer "unknown" is safe: a partition actor then waits as long as its settings allow leases to be.
"""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections import defaultdict
from typing import Any, NamedTuple

import ray

from partition_actor import ray_internals
from partition_actor.errors import PartitionActorUnavailable
from partition_actor.settings import Settings

log = logging.getLogger(__name__)

GCS_TIMEOUT = 5.0
"""Seconds that a question to the GCS may take."""
LARGEST_STATE = 200_000_000
"""Bytes that the GCS takes in as one value within `GCS_TIMEOUT`."""
KV_NAMESPACE = b"partition_actor"
KV_SETTINGS = b"partition_actor_settings"
KV_STATE = b"partition_actor_state"
SETTLED = "settled"

Life = tuple[str, str]
"""An actor's id and that of one of its processes."""


class Known(NamedTuple):
    """What the GCS knows of the partition actors of a name and namespace."""

    lives: set[Life]
    """Those that left a record, and the one that asks."""
    actors: set[str]
    """The ids of all, dead ones too."""


def was_restarted() -> bool:
    """Whether Ray has restarted this actor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the property warns about another one that it uses itself
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


class Records:
    """The records of the partition actors of one name and namespace, for the one that runs in this process."""

    def __init__(self, name: str | None, namespace: str | None) -> None:
        self._where = (name, namespace)
        self._former: list[Life] = []
        """Lives before this one that were not settled when this one started."""

    @property
    def are_kept(self) -> bool:
        """Whether records can be written. Without them the next partition actor finds out nothing, and waits."""
        return None not in self._where and ray_internals.can_write_keys()

    def longest_lease(self, of_former_cluster: float = 0.0) -> float | None:
        """The longest lease, in seconds, that a former partition actor may have granted and that may still run.

        0: nothing is out. None: nobody knows. `of_former_cluster`: the longest of a cluster before this one, which no
        record tells of; it counts until some life of this cluster is settled.
        """
        try:
            leases, settled = self._read()
            actor, process = self._life()
            self._former = sorted((leases.keys() | settled) - settled - {(actor, process)})
            known = {each for each, _ in leases}
            if not _actors_of(*self._where) - {actor} <= known or (was_restarted() and actor not in known):
                return None  # some life left no records
            return max([max(leases[life]) for life in self._former] + [0.0 if settled else of_former_cluster])
        except Exception:
            log.warning("cannot tell which leases of former partition actors may be out", exc_info=True)
            return None

    async def add_lease(self, seconds: float) -> bool:
        """Record that this process may grant leases of this length; returns whether that is confirmed."""
        return await self._write([(*self._life(), seconds)])

    async def settle_former(self) -> bool:
        """Record that the leases of the lives before this one are over; returns whether that is confirmed."""
        return await self._write([(*life, SETTLED) for life in self._former])

    async def settle(self) -> bool:
        """Record that this process has ended in good order. Call it as the last act: from then on it grants nothing."""
        return self.are_kept and await self.settle_former() and await self._write([(*self._life(), SETTLED)])

    def known(self) -> Known:
        """What the GCS knows of the lives so far. Raises if it does not tell."""
        leases, settled = self._read()
        return Known(leases.keys() | settled | {self._life()}, _actors_of(*self._where))

    @staticmethod
    def check_size(state: dict[str, Any]) -> None:
        """Raise ``PartitionActorUnavailable`` when a state is larger than the GCS takes in."""
        size = len(pickle.dumps(state))
        if size > LARGEST_STATE:
            raise PartitionActorUnavailable(
                f"the state has {size} bytes, and the GCS takes at most {LARGEST_STATE}: most of it is metadata, as a "
                "rule. This partition actor cannot be replaced: call shutdown() and then deploy()"
            )

    async def hand_over(self, form: int, known: Known, state: dict[str, Any]) -> bool:
        """Leave the state of this life, the latest that is `known`, to the next; returns whether that is confirmed."""
        try:
            value = pickle.dumps({"form": form, "lives": known.lives, "actors": known.actors, "state": state})
            await ray_internals.write_key(self._state_key(), value, KV_STATE, GCS_TIMEOUT)
        except Exception as error:
            log.warning("the GCS has not confirmed the state that is handed over: %r", error)
            return False
        return True

    def take_over(self, form: int) -> dict[str, Any] | None:
        """What the life before this one has handed over, in this `form`: taken once, and only by the next life."""
        if not self.are_kept:
            return None
        try:
            key, gcs = self._state_key(), ray_internals.gcs_client()
            value = gcs.internal_kv_get(key, KV_STATE, timeout=GCS_TIMEOUT)
            if value is None or not gcs.internal_kv_del(key, False, KV_STATE, timeout=GCS_TIMEOUT):
                return None
            left = pickle.loads(value)
            own, now = self._life(), self.known()
            later = now.lives - left["lives"] - {own}, now.actors - left["actors"] - {own[0]}
            if left["form"] != form or any(later):
                log.warning("another partition actor has run since a state was handed over: it is not taken over")
                return None
            state: dict[str, Any] = left["state"]
        except Exception:
            log.warning("cannot take over the state of the former partition actor", exc_info=True)
            return None
        return state

    def _state_key(self) -> bytes:
        return json.dumps(self._where).encode()

    def settings(self) -> dict[int, Settings]:
        """The settings that this actor has changed to, by version: Ray restarts it with those it began with.

        Raises ``PartitionActorUnavailable`` if the GCS does not tell: without them, leases may be out for longer than
        anybody here knows.
        """
        try:
            prefix = self._settings_key()
            keys = ray_internals.gcs_client().internal_kv_keys(prefix, KV_SETTINGS, timeout=GCS_TIMEOUT)
            return {
                int(key.removeprefix(prefix)): Settings.from_dict(
                    json.loads(ray_internals.gcs_client().internal_kv_get(key, KV_SETTINGS, timeout=GCS_TIMEOUT))
                )
                for key in keys
            }
        except Exception as error:
            log.exception("cannot tell whether the settings have changed")
            raise PartitionActorUnavailable(
                f"this partition actor was restarted, and the GCS does not tell its settings ({error!r}): try again"
            ) from None

    async def add_settings(self, version: int, settings: dict[str, Any]) -> bool:
        """Record that the settings change to these; returns whether that is confirmed."""
        try:
            key = self._settings_key() + str(version).encode()
            value = json.dumps(settings).encode()
            await ray_internals.write_key(key, value, KV_SETTINGS, GCS_TIMEOUT)
        except Exception as error:
            log.warning("the GCS has not confirmed a record of settings: %r", error)
            return False
        return True

    def _settings_key(self) -> bytes:
        return json.dumps([*self._where, self._life()[0]]).encode()

    async def _write(self, records: list[tuple[str, str, float | str]]) -> bool:
        try:
            for record in records:
                key = json.dumps([*self._where, *record]).encode()
                await ray_internals.write_key(key, b"", KV_NAMESPACE, GCS_TIMEOUT)
        except Exception as error:
            log.warning("the GCS has not confirmed a record (%r): %r", records, error)
            return False
        return True

    def _read(self) -> tuple[dict[Life, list[float]], set[Life]]:
        """The lengths of leases of each life, and the lives that are settled."""
        leases: defaultdict[Life, list[float]] = defaultdict(list)
        settled: set[Life] = set()
        prefix = json.dumps(self._where)[:-1].encode() + b", "
        for key in ray_internals.gcs_client().internal_kv_keys(prefix, KV_NAMESPACE, timeout=GCS_TIMEOUT):
            _, _, actor, process, said = json.loads(key)
            if said == SETTLED:
                settled.add((actor, process))
            else:
                leases[actor, process].append(float(said))
        return leases, settled

    @staticmethod
    def _life() -> Life:
        context = ray.get_runtime_context()
        return str(context.get_actor_id()), context.get_worker_id()


def _actors_of(name: str | None, namespace: str | None) -> set[str]:
    """The ids of the actors of a name and namespace, dead ones too."""
    from ray.core.generated import gcs_pb2

    table = ray_internals.state_accessor().get_actor_table(None, None)
    entries: Any = map(gcs_pb2.ActorTableData.FromString, table)  # type: ignore[attr-defined]
    return {entry.actor_id.hex() for entry in entries if (entry.name, entry.ray_namespace) == (name, namespace)}
