"""Let happen, once each, all that metrics tell of: on the Ray at RAY_ADDRESS, until standard input ends."""

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path

import ray
from deployments import LIMIT, QUICK, wait_until
from fleet_statuses import fleet
from fleet_statuses import worker as fleet_worker
from teams import KEYS, Worker

import partition_actor
from partition_actor import PartitionCoordinator, Ring, Router
from partition_actor.errors import CallMayHaveRun, NoOwner

NAME, NAMESPACE = "metered", "tests"
GROUP = "tenants"
workers = []


def worker(my_id):
    workers.append(ray.remote(Worker).options(num_cpus=0, max_concurrency=4).remote(NAME, NAMESPACE, my_id, GROUP))
    ray.get(workers[-1].pid.remote(), timeout=LIMIT)


def hand_off_while_a_call_runs(router, gate):
    """A call to the new owner of a key is refused, and retried until the former one has let it go."""
    moving, another = [key for key in KEYS if Ring(["a", "b"]).owner(key) == "b"][:2]
    running = router.call(moving, "gated", moving, str(gate))
    worker("b")
    wait_until(lambda: router.members() == ["a", "b"])
    waiting = threading.Thread(target=lambda: asyncio.run(router.acall(another, "who", another)))
    waiting.start()
    wait_until(lambda: ray.get(handle.status.remote(GROUP))["handoff"])
    waiting.join(1.0)
    gate.touch()
    waiting.join(LIMIT)
    ray.get(running, timeout=LIMIT)
    return moving


def lock_waits():
    """One holds a lock for as long as this process runs, and another waits for it."""
    members = [PartitionCoordinator(my_id, NAME, NAMESPACE) for my_id in ("holds", "waits")]
    for member in members:
        member.start()
    members[0].lock("door").acquire()
    threading.Thread(target=members[1].lock("door").acquire, daemon=True).start()


def a_fleet_whose_worker_was_restarted():
    """Told again and again, as its controller would."""
    status = fleet("billers", GROUP, [fleet_worker(0, load=2.5, restarts=1)])
    ray.get(handle.note_fleet.remote({**status, "restarts": 0}))
    while True:
        ray.get(handle.note_fleet.remote(status))
        time.sleep(2.0)


def main(directory):
    global handle
    ray.init(address="auto", log_to_driver=False)
    handle = partition_actor.deploy(NAME, NAMESPACE, QUICK)
    worker("a")
    with Router(GROUP, NAME, NAMESPACE) as router, Router("nobody", NAME, NAMESPACE, timeout=0.1) as lonely:
        key = hand_off_while_a_call_runs(router, directory / "gate")
        with contextlib.suppress(NoOwner):
            lonely.call("key", "who", "key")
        with contextlib.suppress(CallMayHaveRun):
            router.get(router.call(key, "die_once", key, str(directory / "marker")))
        wait_until(lambda: router.members() == ["a"])
        lock_waits()
        threading.Thread(target=a_fleet_whose_worker_was_restarted, daemon=True).start()
        ray.get(handle.make_group.remote("short-lived"))
        print("ready", flush=True)
        sys.stdin.readline()
        ray.get(handle.delete_group.remote("short-lived"))
        print("deleted", flush=True)
        sys.stdin.readline()
    partition_actor.shutdown(NAME, NAMESPACE, force=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
