"""Replies of a partition actor, as the command line gets them."""

from partition_actor import Ring

INCARNATION = 217_000_000_000


def member(name, share, **said):
    return {
        "id": name,
        "session": f"{name}-process.1",
        "has_place": True,
        "weight": 1,
        "share": share,
        "metadata": None,
        "age": 4000.0,
        "lease": 9.2,
        "acknowledged": (INCARNATION, 17),
        "leaving": False,
        "waits_for": [],
        "node": "3f2a91c04b",
        "pid": 12345,
        "watched_by": "actor",
        "lag": 0.0,
        "heartbeat_age": 0.8,
        **said,
    }


def group(members, **said):
    """A group of so many members, or of these."""
    if isinstance(members, int):
        ids = [f"agent-{number}" for number in range(1, members + 1)]
        members = [member(name, share) for name, share in Ring(ids).share().items()]
    return {
        "name": "pollers",
        "exclusive": False,
        "recovering": False,
        "epoch": (INCARNATION, 17),
        "members": members,
        "watchers": 0,
        "waiting": [],
        "leader": None,
        "handoff": None,
        **said,
    }


def summary(members, **said):
    return {**group([]), "members": members, "waiting": 0, **said}


def status(groups=None, **said):
    return {
        "name": "partition-actor",
        "namespace": "partition_actor",
        "version": "0.1.0",
        "node": "3f2a91c04b",
        "pid": 4711,
        "watched": 3,
        "settings": {},
        "incarnation": INCARNATION,
        "uptime": 11_000.0,
        "recovering": False,
        "stalled": 0.0,
        "sessions": 12,
        "interval": 2.0,
        "ttl": 10.0,
        "locks": {},
        "groups": groups or {},
        "events": 40,
        "heartbeats": 1000,
        "held": 11,
        "late": 0.012,
        "longest_step": 0.003,
        "max_members": 1000,
        **said,
    }


def event(number=1, what="joined", **said):
    return {
        "id": number,
        "time": 1_795_000_000.123,
        "what": what,
        "group": "pollers",
        "epoch": (INCARNATION, 17),
        "member": "agent-1",
        "session": "agent-1-process.1",
        "node": "3f2a91c04b",
        "pid": 12345,
        "why": "",
        "seconds": None,
        "lock": None,
        **said,
    }
