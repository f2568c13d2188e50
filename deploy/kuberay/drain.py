"""preStop of a worker pod: tell Ray that this node ends, and wait until its members have handed their keys over.

::

    python drain.py SECONDS    how long it may take; less than the pod's terminationGracePeriodSeconds

Ray then places nothing more on the node, and the partition actor drains the node's members. Exit status: 0 no member is
left here; 1 some are, and others get their keys when their processes have ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import RayError

import partition_actor
from partition_actor.errors import GroupNotFound, PartitionActorNotFound, PartitionError

NAME = os.environ.get("PARTITION_ACTOR_NAME", "partition-actor")
NAMESPACE = os.environ.get("PARTITION_ACTOR_NAMESPACE", "partition_actor")
LOOK = 0.5
"""Seconds between two looks."""
ANSWER = 5.0
"""Seconds for the partition actor to answer."""


def main(seconds: int) -> int:
    """Drain this node; return the exit status."""
    until = time.monotonic() + seconds
    ray.init(address="auto", log_to_driver=False)  # RAY_ADDRESS, which KubeRay sets
    node = ray.get_runtime_context().get_node_id()
    tell_ray(node, seconds)
    say(f"node {node} is draining")
    left = wait(node, until)
    if left:
        say(f"members are left here after {seconds} s: {left}")
        return 1
    say("no member is left here")
    return 0


def tell_ray(node: str, seconds: int) -> None:
    """Have Ray count the node as one that will be gone."""
    subprocess.run(
        [
            *("ray", "drain-node", f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message=its pod ends", f"--deadline-remaining-seconds={seconds}"),
        ],
        check=True,
    )


def wait(node: str, until: float) -> str:
    """Wait until no member is on the node, or until the time of the monotonic clock; return who is left."""
    groups: Collection[str] | None = None  # all
    left = "unknown (nobody was asked in time)"
    while time.monotonic() < until:
        try:
            found = members(node, groups)
        except PartitionActorNotFound:
            return ""
        except (PartitionError, RayError) as error:
            left = f"unknown ({error})"
        else:
            if not found and groups is None:
                return ""
            left = "; ".join(f"{', '.join(ids)} in {group}" for group, ids in found.items())
            groups = found or None  # one may have joined another group meanwhile
        time.sleep(LOOK)
    return left


def members(node: str, groups: Collection[str] | None) -> dict[str, list[str]]:
    """Return the members on the node, by group, in these groups or in all."""
    actor = partition_actor.connect(NAME, NAMESPACE, ANSWER)  # anew, as another may have taken its place
    if groups is None:
        groups = ask(actor.status.remote())["groups"]
    found = {}
    for group in groups:
        try:
            everyone = ask(actor.status.remote(group))["members"]
        except GroupNotFound:
            continue
        if here := [each["id"] for each in everyone if each["node"] == node]:
            found[group] = here
    return found


def ask(call: Any) -> Any:
    """The answer to a call, in time."""
    return ray.get(call, timeout=ANSWER)


def say(text: str) -> None:
    """Print a line at once."""
    print(f"drain: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
