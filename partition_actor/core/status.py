"""What an operator asks of a partition actor, as builtins. Pure."""

from __future__ import annotations

from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.lock_table import LockRecord
from partition_actor.core.membership import Membership


def status_of(membership: Membership, now: float) -> dict[str, Any]:
    """The partition actor, and a line for each group; times in seconds. It makes no ring."""
    return {
        "incarnation": membership.incarnation,
        "uptime": now - membership.started_at,
        "recovering": membership.recovering(now),
        "stalled": membership.stalled,
        "sessions": len(membership.sessions),
        "interval": membership.interval,
        "ttl": membership.ttl,
        "locks": {name: _lock(lock) for name, lock in sorted(membership.locks.locks.items())},
        "groups": {name: _summary(membership, group) for name, group in sorted(membership.groups.items())},
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


def _summary(membership: Membership, group: Group) -> dict[str, Any]:
    return {
        "exclusive": group.exclusive,
        "recovering": group.recovering,
        "epoch": group.epoch,
        "members": len(group.members),
        "watchers": len(list(membership.watchers.of(group.name))),
        "waiting": len(group.joiners),
    }


def group_status_of(membership: Membership, group: Group, now: float) -> dict[str, Any]:
    """Everything about a group and its members; times in seconds, ages counted back from `now`."""
    share = group.ring().share()
    return {
        **_summary(membership, group),
        "members": [
            {
                "id": member,
                "session": session,
                "has_place": group.sessions.get(member) == session,
                "weight": participant.weight,
                "share": share.get(member, 0.0) if group.sessions.get(member) == session else 0.0,
                "metadata": participant.metadata,
                "age": now - membership.sessions[member, session].joined_at,
                "lease": membership.lease_left(now, (member, session)),
                "acknowledged": participant.acked,
                "leaving": participant.leaving,
                "waits_for": group.waits_for((member, session)),
            }
            for (member, session), participant in sorted(group.participants.items())
        ],
        "waiting": sorted(member for member, _ in group.joiners),
    }
