"""How soon survivors have the keys of a worker that was killed with -9.

Workers are actors in one group. They are killed one after another; the time runs from the signal until the last of the
survivors has the view without the victim, from which it computes its keys. The floor, in the same run: how soon a
pending Ray call to an actor that is killed the same way fails, which is how the coordinator learns of a death.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import statistics
import time
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _report import Target, arguments, save, show, show_targets
from ray.exceptions import ActorDiedError

import partition_actor
from partition_actor import GroupEvent, PartitionCoordinator, clock

GROUP, NAME, LIMIT = "workers", "failover", 60.0


class Worker:
    """A member that notes when it heard of each departure."""

    def __init__(self, number: int) -> None:
        self._heard: dict[str, float] = {}
        self._coordinator = PartitionCoordinator(f"worker-{number}", NAME)
        self._coordinator.start()
        self._coordinator.watch_group(GROUP, self._on_change)
        self._coordinator.join_group(GROUP)

    def pid(self) -> int:
        return os.getpid()

    def size(self) -> int:
        return len(self._coordinator.members(GROUP))

    def heard(self, member: str) -> float | None:
        return self._heard.get(member)

    def _on_change(self, event: GroupEvent) -> None:
        self._heard.update(dict.fromkeys(event.left, clock.now()))


class Bare:
    def pid(self) -> int:
        return os.getpid()


class Never:
    async def never(self) -> None:
        await asyncio.get_running_loop().create_future()


def start(kind: type, *args: object) -> Any:
    return ray.remote(kind).options(num_cpus=0, max_concurrency=2).remote(*args)


def _noop(_actor: Any, _never: Any) -> None:
    return None


def poll(handles: list[Any], method: str, *args: object) -> list[Any]:
    return ray.get([getattr(handle, method).remote(*args) for handle in handles], timeout=LIMIT)


def wait_until_all_know(handles: list[Any], size: int) -> None:
    until = time.monotonic() + LIMIT
    while set(poll(handles, "size")) != {size}:
        if time.monotonic() > until:
            raise SystemExit(f"not all members know of each other after {LIMIT} s")
        time.sleep(0.02)


def failovers(workers: int, kills: int) -> list[float]:
    """Seconds from each kill until the last survivor had heard of it."""
    members = {f"worker-{number}": start(Worker, number) for number in range(workers)}
    pids = dict(zip(members, poll(list(members.values()), "pid"), strict=True))
    took = []
    for round_ in range(kills):
        wait_until_all_know(list(members.values()), workers)
        victim = f"worker-{round_}"
        del members[victim]
        killed_at = clock.now()
        os.kill(pids.pop(victim), signal.SIGKILL)
        heard: list[Any] = [None]
        while None in heard:
            time.sleep(0.2)  # asking must not compete with what is measured
            heard = poll(list(members.values()), "heard", victim)
            if clock.now() > killed_at + LIMIT:
                raise SystemExit(f"{victim} is still a member {LIMIT} s after it was killed")
        took.append(max(heard) - killed_at)
        new = start(Worker, workers + round_)
        members[f"worker-{workers + round_}"] = new
        pids[f"worker-{workers + round_}"] = poll([new], "pid")[0]
    for handle in members.values():
        ray.kill(handle)
    return took


def floors(kills: int) -> list[float]:
    """Seconds from each kill until a pending call failed."""
    holder = start(Never)
    never = holder.never.remote()
    took = []
    for _ in range(kills):
        actor = start(Bare)
        pid = ray.get(actor.pid.remote())
        pending = actor.__ray_call__.remote(_noop, never)
        time.sleep(0.2)
        killed_at = clock.now()
        os.kill(pid, signal.SIGKILL)
        try:
            ray.get(pending, timeout=LIMIT)
        except ActorDiedError:
            took.append(clock.now() - killed_at)
    ray.kill(holder)
    return took


def row(who: str, seconds: list[float]) -> tuple[object, ...]:
    ordered = sorted(1000 * value for value in seconds)
    return (
        who,
        len(ordered),
        ordered[0],
        statistics.median(ordered),
        ordered[math.ceil(0.99 * len(ordered)) - 1],
        ordered[-1],
    )


def main() -> None:
    options = arguments(__doc__)
    workers, kills = (4, 3) if options.quick else (20, 60)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    partition_actor.deploy(NAME)
    ours, floor = failovers(workers, kills), floors(kills)
    ray.shutdown()
    rows = [row(f"the last of {workers - 1} survivors knows", ours), row("a pending Ray call fails", floor)]
    show("From kill -9, in milliseconds", ["", "kills", "best", "median", "p99", "worst"], rows)
    targets = [
        Target("median over the floor's", 4, statistics.median(ours) / statistics.median(floor), at_least=False),
        Target("p99", 100, float(str(rows[0][4])), "ms", at_least=False),
    ]
    show_targets(targets)
    results = {"failovers": ours, "floors": floor, "workers": workers}
    save("failover", options.out, options.quick, ["partition-actor", "ray"], targets, results)


if __name__ == "__main__":
    main()
