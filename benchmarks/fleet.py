"""How long a fleet takes to be whole again after half of its workers were killed.

Half of the processes of 16 workers get SIGKILL at once. Measured is the time until every slot has a worker again, all
hold one epoch and every key has an owner that says so. The peers have the same workers without a group: 16 actors with
Ray's own ``max_restarts``, until all answer again; and Ray's ActorPool, which is asked for results after the kill.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _report import Target, arguments, save, show, show_targets
from ray.exceptions import RayError
from ray.util import ActorPool

import partition_actor
from partition_actor import Fleet, PartitionCoordinator

KEYS = list(range(1000))
LIMIT = 120.0
POOL_LIMIT = 20.0
"""Seconds in which an ActorPool must give a result."""


@dataclass(frozen=True)
class Plan:
    """Workers, and how often half of them are killed."""

    workers: int
    rounds: int


FULL, QUICK = Plan(16, 5), Plan(4, 1)


class Worker:
    """A worker of the fleet."""

    def __init__(self, coordinator: PartitionCoordinator) -> None:
        self._keys = coordinator.partition("fleet", KEYS)

    def keys(self) -> list[Any]:
        return list(self._keys.keys())


class Bare:
    """A worker without a group."""

    def pid(self) -> int:
        return os.getpid()

    def work(self, item: int) -> int:
        return item


def kill(pids: list[int]) -> float:
    """Kill these processes; returns when that began."""
    began = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return began


def until(done: Callable[[], bool], began: float) -> float:
    """Seconds from `began` until it is done."""
    while not done():
        if time.perf_counter() > began + LIMIT:
            raise SystemExit(f"it was not done within {LIMIT:g} s")
        time.sleep(0.005)
    return time.perf_counter() - began


def heal_fleet(plan: Plan) -> list[float]:
    partition_actor.deploy("benchmark")
    times = []
    with Fleet("fleet", Worker, size=plan.workers, exclusive=True, actor="benchmark", ready_timeout=LIMIT) as fleet:

        def is_whole() -> bool:
            if not fleet.status()["ready"] or set(pids()) & dead:
                return False
            try:
                owned = ray.get([handle.keys.remote() for handle in fleet.workers().values()])
            except RayError:
                return False
            return sorted(key for keys in owned for key in keys) == KEYS

        def pids() -> list[int]:
            return [each["pid"] for each in fleet.status()["workers"]]

        dead: set[int] = set()
        for _ in range(plan.rounds):
            victims = pids()[: plan.workers // 2]
            dead |= set(victims)
            times.append(until(is_whole, kill(victims)))
            time.sleep(11.0)  # a crash after 10 s of service is the first one again, and has no pause
    partition_actor.shutdown("benchmark")
    return times


def restart_by_ray(plan: Plan) -> list[float]:
    kind: Any = ray.remote(Bare).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    actors = [kind.remote() for _ in range(plan.workers)]
    times = []
    for _ in range(plan.rounds):
        victims = ray.get([actor.pid.remote() for actor in actors])[: plan.workers // 2]
        began = kill(victims)
        while set(ray.get([actor.pid.remote() for actor in actors])) & set(victims):
            time.sleep(0.005)
        times.append(time.perf_counter() - began)
    for actor in actors:
        ray.kill(actor)
    return times


def ask_pool(plan: Plan) -> dict[str, Any]:
    """What an ActorPool gives for four items a worker after half of its actors were killed."""
    kind: Any = ray.remote(Bare).options(num_cpus=0)
    actors = [kind.remote() for _ in range(plan.workers)]
    pids = ray.get([actor.pid.remote() for actor in actors])
    pool: Any = ActorPool(actors)
    kill(pids[: plan.workers // 2])
    asked, results, failed, ended = 4 * plan.workers, 0, 0, ""
    for item in range(asked):
        pool.submit(lambda actor, value: actor.work.remote(value), item)
    while pool.has_next() and not ended:
        try:
            pool.get_next_unordered(timeout=POOL_LIMIT)
            results += 1
        except TimeoutError:
            ended = f"no result within {POOL_LIMIT:g} s"
        except RayError:
            failed += 1
        except Exception as error:
            ended = repr(error)
    for actor in actors:
        ray.kill(actor)
    return {"asked": asked, "results": results, "failed": failed, "ended": ended or "all asked for"}


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else FULL
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    fleet, restarts, pool = heal_fleet(plan), restart_by_ray(plan), ask_pool(plan)
    rows = [
        (what, statistics.median(values), min(values), max(values))
        for what, values in (("Fleet: whole again", fleet), ("max_restarts: all answer again", restarts))
    ]
    title = f"{plan.workers // 2} of {plan.workers} workers killed, {plan.rounds} times"
    show(title, ["seconds", "median", "min", "max"], rows)
    show("ActorPool after such a kill", list(pool), [tuple(pool.values())])
    targets = [Target("whole again, median", 3.0, statistics.median(fleet), "s", at_least=False)]
    show_targets(targets)
    found = {"fleet": fleet, "max_restarts": restarts, "actor_pool": pool}
    save("fleet", options.out, options.quick, ["ray", "partition-actor"], targets, found)
    ray.shutdown()


if __name__ == "__main__":
    main()
