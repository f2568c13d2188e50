"""What members of a group own, and waiting until it is what the ring says."""

from deployments import LIMIT, wait_until

from partition_actor import Ring, Settings

KEYS = [f"key-{number}" for number in range(60)]

SOON = 30.0
"""Seconds: half of a steady lease, so no lease can have ended by then."""

IMPATIENT = Settings(call_timeout=2.0)
"""For members whose calls wait in vain for a callback that the test holds up."""


def owned(member, group):
    """Those of `KEYS` that it may work on."""
    return [key for key in KEYS if member.owns(group, key)]


def ring_share(my_id, *ids):
    """Those of `KEYS` that the ring of these ids gives to `my_id`."""
    return Ring(ids).subset(my_id, KEYS)


def share_out(group, *members):
    """Wait until each member owns what the ring gives it, and nothing else."""
    ids = [member.my_id for member in members]
    for member in members:
        wait_until(lambda member=member: owned(member, group) == ring_share(member.my_id, *ids), SOON)


def exchange(group, *members):
    """Let each of them exchange requests with the partition actor, so that each hears of what another has said."""
    for _ in range(2):
        for member in members:
            lock = member.lock(f"{group}-{member.my_id}")
            assert lock.acquire(timeout=LIMIT)
            lock.release()
