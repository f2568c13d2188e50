"""What browsers are told, from what the partition actor says of itself and of its groups. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partition_actor.ring import Ring, owners_at_even_places, place_of, ring_of

PLACES = 2880
"""Places of the ring that are drawn. An eighth of a degree each: less than a pixel of the circle."""
GROUPS_SHOWN = 500
LOCKS_SHOWN = 100
FLEETS_SHOWN = 100
TEXT_SHOWN = 300
"""Characters of a member's metadata."""


@dataclass(frozen=True, eq=False)
class RingPicture:
    """A group's ring at one epoch, worked out once."""

    epoch: tuple[int, int]
    ring: Ring
    shares: Mapping[str, float]
    drawing: Mapping[str, Any]
    balance: float | None

    @classmethod
    def of(cls, group: Mapping[str, Any], settings: Mapping[str, Any]) -> RingPicture:
        """The ring of a group by its `status`."""
        weights = {member["id"]: member["weight"] for member in group["members"] if member["has_place"]}
        ring = ring_of(weights.items(), settings["vnodes"], settings["hash_function"])
        shares = ring.share()
        drawing = {
            "epoch": group["epoch"],
            "members": list(ring.members),
            "places": owners_at_even_places(ring, PLACES).tolist(),
            "virtual_nodes": settings["vnodes"] * sum(weights.values()),
        }
        return cls(tuple(group["epoch"]), ring, shares, drawing, _balance(weights, shares))

    def key(self, key: str) -> dict[str, Any]:
        """Who owns a key, and the two members after it on the ring."""
        owners = self.ring.owners(key, 3)
        return {
            "key": key,
            "owner": owners[0] if owners else None,
            "next": owners[1:],
            "place": place_of(self.ring, key),
            "epoch": self.epoch,
        }


def _balance(weights: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """How many times its fair share the most loaded member has; None without members."""
    total = sum(weights.values())
    return max((shares[member] * total / weight for member, weight in weights.items()), default=None)


def groups_picture(status: Mapping[str, Any], balances: Mapping[str, float | None], find: str = "") -> dict[str, Any]:
    """The groups whose names contain `find`, in the order of their names, and how many more there are."""
    wanted = find.casefold()
    names = [name for name in status["groups"] if wanted in name.casefold()]
    return {
        "groups": [
            {"name": name, "balance": balances.get(name), **status["groups"][name]} for name in names[:GROUPS_SHOWN]
        ],
        "found": len(names),
    }


def group_picture(name: str, group: Mapping[str, Any], picture: RingPicture | None) -> dict[str, Any]:
    """A group and its members, with each one's share and its weight's part of all weights."""
    members = group["members"]
    total = sum(member["weight"] for member in members if member["has_place"])
    shares = {} if picture is None else picture.shares
    return {
        **group,
        "name": name,
        "balance": None if picture is None else picture.balance,
        "members": [
            {
                **member,
                "share": shares.get(member["id"], 0.0) if member["has_place"] else 0.0,
                "fair_share": member["weight"] / total if member["has_place"] else 0.0,
                "metadata": _shown(member["metadata"]),
            }
            for member in members
        ],
    }


def _shown(metadata: Any) -> str | None:
    text = metadata if metadata is None or isinstance(metadata, str) else repr(metadata)
    return text if text is None or len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}…"


def locks_picture(status: Mapping[str, Any], group: Mapping[str, Any] | None) -> dict[str, Any]:
    """The locks that members of the group hold or wait for; without a group, all. And how many more there are."""
    locks: Mapping[str, Any] = status["locks"]
    if group is not None:
        ids = {member["id"] for member in group["members"]}
        locks = {
            name: lock
            for name, lock in locks.items()
            if ids.intersection(holder["id"] for holder in lock["holders"]) or ids.intersection(lock["waiting"])
        }
    shown = sorted(locks)[:LOCKS_SHOWN]
    return {"locks": [{"name": name, **locks[name]} for name in shown], "locks_found": len(locks)}


def fleets_picture(fleets: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """The fleets of the group, without their workers; without a group, all. Those that are not ready come first."""
    found = sorted(
        (fleet for fleet in fleets.values() if group in (None, fleet["group"])),
        key=lambda fleet: (fleet["ready"], fleet["name"]),
    )
    left_out = ("workers", "waiting", "events")
    return {
        "fleets": [
            {
                **{field: value for field, value in fleet.items() if field not in left_out},
                "last_event": _aged(fleet["events"][-1], fleet["seconds_ago"]) if fleet["events"] else None,
            }
            for fleet in found[:FLEETS_SHOWN]
        ],
        "fleets_found": len(found),
    }


def aged(fleet: Mapping[str, Any]) -> dict[str, Any]:
    """A fleet's status with all ages as of now, and not of when it was told."""
    ago = fleet["seconds_ago"]
    return {
        **fleet,
        "workers": [{**each, "seconds": each["seconds"] + ago} for each in fleet["workers"]],
        "waiting": [{**each, "seconds": max(0.0, each["seconds"] - ago)} for each in fleet["waiting"]],
        "events": [_aged(each, ago) for each in fleet["events"]],
    }


def _aged(event: Mapping[str, Any], ago: float) -> dict[str, Any]:
    return {**event, "seconds_ago": event["seconds_ago"] + ago}


def actor_picture(status: Mapping[str, Any], heartbeat_rate: float | None) -> dict[str, Any]:
    """The partition actor itself."""
    actor = {name: value for name, value in status.items() if name not in ("groups", "locks")}
    return {**actor, "groups": len(status["groups"]), "locks": len(status["locks"]), "heartbeat_rate": heartbeat_rate}
