"""What an operator asks of a partition actor, as builtins. Pure."""

from __future__ import annotations

from typing import Any

from partition_actor.core.group import Group
from partition_actor.core.lock_table import LockRecord
from partition_actor.core.membership import Membership
from partition_actor.core.messages import SessionKey, leader_name


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
        "max_members": membership.settings.max_members,
        "events": membership.events.next,
        "locks": {name: _lock(lock) for name, lock in sorted(membership.locks.locks.items())},
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
        "watchers": len(list(membership.watchers.of(group.name))),
        "waiting": len(group.joiners),
        "leader": _leader(membership, group.name) if membership.locks.locks else None,
        "handoff": group.handoff(now),
    }


def group_status_of(membership: Membership, group: Group, now: float) -> dict[str, Any]:
    """Everything about a group and its members; times in seconds, ages counted back from `now`."""
    share = group.share()
    return {
        "name": group.name,
        **_summary(membership, group, now),
        "members": [
            {
                "id": member,
                "session": session,
                "has_place": group.sessions.get(member) == session,
                "weight": participant.weight,
                "share": share.get(member, 0.0) if group.sessions.get(member) == session else 0.0,
                "metadata": participant.metadata,
                "lease": membership.lease_left(now, (member, session)),
                "acknowledged": participant.acked,
                "lag": _lag(group, (member, session), now),
                "leaving": participant.leaving,
                "waits_for": group.waits_for((member, session)),
                **_life(membership, (member, session), now),
            }
            for (member, session), participant in sorted(group.participants.items())
        ],
        "waiting": sorted(member for member, _ in group.joiners),
    }


def _lag(group: Group, key: SessionKey, now: float) -> float:
    since = group.lagging_since(key, once_told=False)
    return 0.0 if since is None else now - since


def _life(membership: Membership, key: SessionKey, now: float) -> dict[str, Any]:
    session = membership.sessions[key]
    return {
        "age": now - session.joined_at,
        "heartbeat_age": now - session.received,
        "node": session.where.node,
        "pid": session.where.pid,
    }
