"""What an operator asks of a partition actor, as builtins. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.lock_table import LockRecord
from partition_actor.core.membership import Membership, SessionRecord
from partition_actor.core.messages import SessionKey, leader_name, slot_of


def status_of(membership: Membership, now: float) -> dict[str, Any]:
    """The partition actor, and a line for each group; times in seconds. It makes no ring."""
    return {
        "incarnation": membership.incarnation,
        "uptime": now - membership.started_at,
        "recovering": membership.recovering(now),
        "stalled": membership.stalled,
        "sessions": len(membership.sessions),
        "draining": membership.draining_nodes(now),
        "interval": membership.interval,
        "ttl": membership.ttl,
        "max_members": membership.settings.max_members,
        "events": membership.events.next,
        "locks": {name: _lock(lock) for name, lock in sorted(membership.locks.locks.items()) if slot_of(name) is None},
        "groups": {name: _summary(membership, group, now) for name, group in sorted(membership.groups.items())},
    }


def _lock(lock: LockRecord) -> dict[str, Any]:
    return {
        "holders": [
            {
                "id": claim.key[0],
                "session": claim.key[1],
                "shared": claim.shared,
                "token": claim.token,
                "broken": claim.broken_at is not None,
            }
            for claim in lock.holders
        ],
        "waiting": [claim.key[0] for claim in lock.waiters],
    }


def _leader(membership: Membership, group: str) -> str | None:
    lock = membership.locks.locks.get(leader_name(group))
    holders = () if lock is None else lock.holders
    return next((claim.key[0] for claim in holders if claim.broken_at is None), None)


def _summary(membership: Membership, group: Group, now: float) -> dict[str, Any]:
    return {
        "exclusive": group.exclusive,
        "recovering": group.recovering,
        "epoch": group.epoch,
        "members": len(group.members),
        "watchers": len(membership.watchers.of(group.name)),
        "waiting": len(group.joiners),
        "leader": _leader(membership, group.name) if membership.locks.locks else None,
        "handoff": group.handoff(now) if group.hands_over else None,
    }


def group_status_of(membership: Membership, group: Group, now: float) -> dict[str, Any]:
    """Everything about a group and its members but `add_shares`; times in seconds, ages counted back from `now`."""
    return {
        "name": group.name,
        **_summary(membership, group, now),
        "members": [
            {
                "id": key[0],
                "session": key[1],
                "has_place": group.sessions.get(key[0]) == key[1],
                "weight": participant.weight,
                "metadata": participant.metadata,
                "lease": membership.lease_left(now, key),
                "acknowledged": participant.acked,
                "lag": _lag(group, key, now),
                "leaving": participant.leaving,
                "waits_for": group.waits_for(key),
                "slots": membership.locks.slots_of(key),
                **_life(membership.sessions[key], now),
            }
            for key, participant in sorted(group.participants.items())
            if key in membership.sessions  # not one of a dead process that is about to be taken out
        ],
        "waiting": sorted(member for member, _ in group.joiners),
    }


def add_shares(details: dict[str, Any], shares: Mapping[str, float]) -> None:
    """Add to what is known of a group each member's share of its ring."""
    for member in details["members"]:
        member["share"] = shares.get(member["id"], 0.0) if member["has_place"] else 0.0


def _lag(group: Group, key: SessionKey, now: float) -> float:
    since = group.lagging_since(key, once_told=False)
    return 0.0 if since is None else now - since


def _life(session: SessionRecord, now: float) -> dict[str, Any]:
    return {
        "age": now - session.joined_at,
        "heartbeat_age": now - session.received,
        "node": session.where.node,
        "pid": session.where.pid,
    }
