"""What members and newcomers notice of ``deploy(replace=True)``, which puts a new partition actor in the place of one.

Members of one exclusive group look at their keys all the time: none may change. Newcomers join all the time, by the
partition actor's name. The peer is Ray: a named actor that does nothing is killed and created again, and somebody calls
it by its name all the time.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _report import Target, arguments, save, show, show_targets
from ray.exceptions import RayActorError

import partition_actor
from partition_actor import PartitionCoordinator
from partition_actor.errors import PartitionActorUnavailable

GROUP, KEYS = "group", [str(number) for number in range(1000)]
LIMIT = 120.0


@dataclass(frozen=True)
class Plan:
    """Processes, members in each, and how often the partition actor is replaced."""

    processes: int
    members: int
    replacements: int


FULL, QUICK = Plan(4, 50, 15), Plan(2, 2, 2)


class Members:
    """Some members in one process, whose keys are looked at all the time."""

    def __init__(self, name: str, prefix: str, count: int) -> None:
        self._members = [PartitionCoordinator(f"{prefix}-{number}", name) for number in range(count)]
        for member in self._members:
            member.start()
            member.join_group(GROUP, exclusive=True)
        self._before: list[Any] | None = None
        self._looks = self._changes = 0
        threading.Thread(target=self._look, daemon=True).start()

    def keys(self) -> list[str]:
        return [key for member in self._members for key in self._keys_of(member)]

    def watch(self) -> None:
        """From now on the keys must stay as they are."""
        self._before = [self._keys_of(member) for member in self._members]

    def seen(self) -> tuple[int, int]:
        """How often it has looked, and seen other keys than before."""
        return self._looks, self._changes

    @staticmethod
    def _keys_of(member: PartitionCoordinator) -> list[str]:
        return list(member.extract_my_subset(GROUP, KEYS))

    def _look(self) -> None:
        while True:
            for at, member in enumerate(self._members):
                if self._before is not None:
                    self._looks += 1
                    self._changes += self._keys_of(member) != self._before[at]
            time.sleep(0.005)


class Nothing:
    """An actor that does nothing."""

    def call(self) -> None: ...


def longest_wait(call: Callable[[], object], change: Callable[[], object]) -> float:
    """Seconds that the slowest of the calls takes, each begun when the one before is through, while `change` runs."""
    waits, done = [0.0], threading.Event()

    def keep_calling() -> None:
        while not done.is_set():
            began = time.perf_counter()
            while True:
                with contextlib.suppress(ValueError, RayActorError, PartitionActorUnavailable):
                    call()
                    break
                time.sleep(0.001)
            waits.append(time.perf_counter() - began)

    caller = threading.Thread(target=keep_calling)
    caller.start()
    change()
    time.sleep(0.5)  # calls that were under way
    done.set()
    caller.join()
    return max(waits)


def restart_of_nothing() -> float:
    """The same of an actor that does nothing."""
    name = f"nothing-{uuid.uuid4().hex}"
    kind: Any = ray.remote(Nothing).options(
        name=name, namespace="bench", lifetime="detached", num_cpus=0, max_restarts=-1
    )
    ray.get(kind.remote().call.remote())

    def replace() -> object:
        ray.kill(ray.get_actor(name, "bench"), no_restart=True)
        while True:
            with contextlib.suppress(ValueError):  # Ray frees the name in a moment
                return ray.get(kind.remote().call.remote(), timeout=LIMIT)

    wait = longest_wait(lambda: ray.get(ray.get_actor(name, "bench").call.remote(), timeout=LIMIT), replace)
    ray.kill(ray.get_actor(name, "bench"), no_restart=True)
    return wait


def measure(plan: Plan) -> dict[str, Any]:
    name = f"benchmark-{time.monotonic_ns()}"
    partition_actor.deploy(name)
    kind = ray.remote(Members).options(num_cpus=0)
    hosts: list[Any] = [kind.remote(name, f"m{at}", plan.members) for at in range(plan.processes)]
    until = time.monotonic() + LIMIT
    while sorted(key for keys in ray.get([host.keys.remote() for host in hosts]) for key in keys) != sorted(KEYS):
        if time.monotonic() > until:
            raise SystemExit(f"the keys were not shared out within {LIMIT} s")
        time.sleep(0.1)
    handle = partition_actor.connect(name)
    epoch = ray.get(handle.status.remote(GROUP))["epoch"]
    ray.get([host.watch.remote() for host in hosts])
    waits, floors, took = [], [], []

    def join() -> None:
        found = ray.get_actor(name, partition_actor.deployment.NAMESPACE)
        ray.get(found.join.remote("newcomers", "newcomer"), timeout=LIMIT)

    def replace() -> None:
        began = time.perf_counter()
        partition_actor.deploy(name, replace=True)
        took.append(time.perf_counter() - began)

    for _ in range(plan.replacements):
        waits.append(longest_wait(join, replace))
        floors.append(restart_of_nothing())
    looks, changes = map(sum, zip(*ray.get([host.seen.remote() for host in hosts]), strict=True))
    handle = partition_actor.connect(name)
    results = {
        "members": plan.processes * plan.members,
        "waits": waits,
        "floors": floors,
        "took": took,
        "looks": looks,
        "changes": changes,
        "epochs": ray.get(handle.status.remote(GROUP))["epoch"][1] - epoch[1],
    }
    for host in hosts:
        ray.kill(host)
    partition_actor.shutdown(name, force=True)
    return results


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else FULL
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    found = measure(plan)
    rows = [
        (what, statistics.median(values), min(values), max(values))
        for what, values in (
            ("longest wait of a join", found["waits"]),
            ("the same of a bare Ray actor", found["floors"]),
            ("deploy(replace=True)", found["took"]),
        )
    ]
    show(
        f"{plan.replacements} replacements under {found['members']} members", ["seconds", "median", "min", "max"], rows
    )
    targets = [
        Target(f"keys that moved, in {found['looks']:,} looks", 0, found["changes"], "", at_least=False),
        Target("epochs published", 0, found["epochs"], "", at_least=False),
        Target("longest wait of a join, median", 1.0, statistics.median(found["waits"]), "s", at_least=False),
    ]
    show_targets(targets)
    save("replace", options.out, options.quick, ["ray", "partition-actor"], targets, found)
    ray.shutdown()


if __name__ == "__main__":
    main()
