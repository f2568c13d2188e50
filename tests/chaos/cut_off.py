"""Rule 8 on a real cluster: the partition actor's node is cut off from the GCS while its process keeps running.

The raylet of the partition actor's node is stopped with SIGSTOP. The GCS counts the node dead and starts a second
partition actor on another node. The first one keeps running, and may grant leases only as far as its last proof from
the GCS allows. The ledger shows whether a key ever had two owners.

    python tests/chaos/cut_off.py
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import show
from ledger import RECOVER_WITHIN, Chaos, judge, read_ledger
from ledger_worker import GROUP, SETTINGS
from ray.cluster_utils import Cluster

import partition_actor
from partition_actor import Settings, clock

HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 300,
    "health_check_failure_threshold": 3,
}
UNPINNED = Settings(**{**SETTINGS.to_dict(), "pin_to_head": False})


def deploy_on(node: str, name: str) -> None:
    """Deploy until the partition actor is on `node`: Ray places an actor without resources at random."""
    for _ in range(40):
        handle = partition_actor.deploy(name, settings=UNPINNED)
        if ray.get(handle.status.remote())["node"] == node:
            return
        partition_actor.shutdown(name)
    raise SystemExit("Ray never placed the partition actor on the second node")


def is_running(pid: int) -> bool:
    """Whether a process with this pid exists, stopped or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def successor_of(pid: int, name: str) -> int:
    """Wait for another partition actor under this name; returns its pid."""
    until = time.monotonic() + RECOVER_WITHIN
    while time.monotonic() < until:
        try:
            handle = partition_actor.connect(name, timeout=2.0)
            status = ray.get(handle.status.remote(), timeout=2.0)
        except Exception:
            time.sleep(0.05)
            continue
        if status["pid"] != pid:
            return int(status["pid"])
    raise SystemExit("Ray started no second partition actor")


def main() -> int:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 16, "include_dashboard": False, "_system_config": HEALTH},
    )
    second = cluster.add_node(num_cpus=0)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    raylet = second.all_processes["raylet"][0].process.pid
    try:
        with tempfile.TemporaryDirectory() as folder:
            name = f"chaos-{os.getpid()}"
            deploy_on(second.node_id, name)
            chaos = Chaos(Path(folder), seed=1, workers=4)
            chaos.wait_until_recovered(clock.now())
            first = ray.get(chaos.handle.status.remote())["pid"]
            os.kill(raylet, signal.SIGSTOP)
            new = successor_of(first, name)
            both = is_running(first)
            print(f"partition actor {new} has started, and {first} {'still runs' if both else 'is gone'}", flush=True)
            chaos.add("newcomer")
            chaos.wait_until_recovered(clock.now())
            handle = partition_actor.connect(name)
            members = ray.get(handle.get_members.remote(GROUP), timeout=RECOVER_WITHIN)
            units = read_ledger(Path(folder))
    finally:
        os.kill(raylet, signal.SIGCONT)
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
    print(f"members: {members}")
    wrong = show(f"units of work: {len(units)}", judge(units))
    return 0 if both and "newcomer" in members and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
