"""The peers of the ring's benchmark. Each answers the same question: which of these keys does this member own?

``subset`` is the loop that a user of the peer writes, on a ring that is built already.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import tooz.hashring
import tooz.partitioner
import xxhash
from uhashring import HashRing


class Peer(Protocol):
    """Another library's ring."""

    name: str

    def build(self, members: list[str]) -> Any: ...

    def join(self, ring: Any, member: str) -> None: ...

    def leave(self, ring: Any, member: str) -> None: ...

    def subset(self, ring: Any, member: str, keys: list[str]) -> list[str]: ...


class Uhashring:
    def __init__(self, name: str, hash_fn: Callable[[str], Any] | None) -> None:
        self.name = name
        self._hash_fn = hash_fn

    def build(self, members: list[str]) -> Any:
        return HashRing(nodes={member: {"weight": 1} for member in members}, vnodes=160, hash_fn=self._hash_fn)

    def join(self, ring: Any, member: str) -> None:
        ring.add_node(member, {"weight": 1})

    def leave(self, ring: Any, member: str) -> None:
        ring.remove_node(member)

    def subset(self, ring: Any, member: str, keys: list[str]) -> list[str]:
        return [key for key in keys if ring.get_node(key) == member]


class ToozRing:
    """tooz's own ring, with as many virtual nodes per member as the others."""

    name = "tooz HashRing"

    def build(self, members: list[str]) -> Any:
        return tooz.hashring.HashRing(members, partitions=160)

    def join(self, ring: Any, member: str) -> None:
        ring.add_node(member)

    def leave(self, ring: Any, member: str) -> None:
        ring.remove_node(member)

    def subset(self, ring: Any, member: str, keys: list[str]) -> list[str]:
        return [key for key in keys if member in ring.get_nodes(key.encode())]


class _Answer:
    def __init__(self, value: Any) -> None:
        self._value = value

    def get(self) -> Any:
        return self._value


class _FixedCoordinator:
    """The methods of a tooz coordinator that a Partitioner uses, with a fixed list of members instead of a server."""

    def __init__(self, members: list[str]) -> None:
        self._members = members
        self._member_id = ""

    def get_members(self, group: bytes) -> _Answer:
        return _Answer(self._members)

    def get_member_capabilities(self, group: bytes, member: str) -> _Answer:
        return _Answer({})

    def watch_join_group(self, group: bytes, callback: Any) -> None: ...

    def watch_leave_group(self, group: bytes, callback: Any) -> None: ...


class ToozPartitioner:
    """What ceilometer's coordinator calls for each key, with tooz's default of 32 virtual nodes per member."""

    name = "tooz Partitioner"

    def build(self, members: list[str]) -> Any:
        coordinator: Any = _FixedCoordinator(members)
        return tooz.partitioner.Partitioner(coordinator, b"group")

    def join(self, ring: Any, member: str) -> None:
        ring.ring.add_node(member)

    def leave(self, ring: Any, member: str) -> None:
        ring.ring.remove_node(member)

    def subset(self, ring: Any, member: str, keys: list[str]) -> list[str]:
        ring._coord._member_id = member
        return [key for key in keys if ring.belongs_to_self(key)]


class ServeRing:
    """The ring of Ray Serve's consistent-hash router, without the router. Serve rebuilds it at every change."""

    name = "Ray Serve"

    def __init__(self) -> None:
        from ray.serve._private.common import DeploymentID, ReplicaID
        from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it logs every rebuild
        self._router = ConsistentHashRouter
        self._deployment = DeploymentID("benchmark")
        self._replica = ReplicaID

    def _replicas(self, members: Iterable[str]) -> frozenset[Any]:
        return frozenset(self._replica(member, self._deployment) for member in members)

    def build(self, members: list[str]) -> Any:
        ring: Any = object.__new__(self._router)
        ring._deployment_id = self._deployment
        ring._num_virtual_nodes = 160
        ring._num_fallback_replicas = 0
        ring._rebuild_ring(self._replicas(members))
        return ring

    def join(self, ring: Any, member: str) -> None:
        ring._rebuild_ring(ring._replica_set_snapshot | self._replicas([member]))

    def leave(self, ring: Any, member: str) -> None:
        ring._rebuild_ring(ring._replica_set_snapshot - self._replicas([member]))

    def subset(self, ring: Any, member: str, keys: list[str]) -> list[str]:
        me = self._replica(member, self._deployment)
        return [key for key in keys if ring._lookup_ranked_replicas(key)[0] == me]


SAME_HASH = "uhashring xxh3"
DEFAULT_HASH = "uhashring md5"


def peers() -> tuple[list[Peer], list[str]]:
    """The installed peers, and why each of the others is left out."""
    found: list[Peer] = [
        Uhashring(SAME_HASH, lambda text: xxhash.xxh3_64_intdigest(text.encode())),
        Uhashring(DEFAULT_HASH, None),
        ToozRing(),
        ToozPartitioner(),
    ]
    left_out = []
    try:
        found.append(ServeRing())
    except (ImportError, AttributeError) as error:
        left_out.append(f"Ray Serve's ring: {str(error).splitlines()[0]}")
    return found, left_out
