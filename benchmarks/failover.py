"""How soon survivors have the keys of a worker that was killed with SIGKILL.

Workers are actors in one group and are killed one after another. The time runs from the signal until the last survivor
has the view without the victim, from which it computes its keys. The floor, in the same run: how soon a pending Ray
call to an actor that is killed the same way fails, which is how the partition actor learns of a death.

The peers: tooz with redis, etcd and ZooKeeper, with worker processes that do the same, at three settings each
(``_tooz_failover.py`` says how they are found). The rows of a server that is not installed are left out. Takes about
ten minutes.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _processes import processor_seconds, stopped
from _report import Target, arguments, save, show, show_targets
from _tooz_failover import Measured, peers, quick_peers
from ray.exceptions import ActorDiedError

import partition_actor
from partition_actor import GroupEvent, PartitionCoordinator, clock

GROUP, NAME, LIMIT = "workers", "failover", 60.0
PACKAGES = ["partition-actor", "ray", "tooz", "redis", "etcd3gw", "kazoo"]


@dataclass(frozen=True)
class Plan:
    """Sizes, and the trial that live members must survive first: seconds of idling, then a stall of each in turn."""

    workers: int = 20
    kills: int = 60
    floor_kills: int = 60
    idle: float = 30
    stall: float = 1


QUICK = Plan(workers=4, kills=3, floor_kills=3, idle=2, stall=0.2)


class Worker:
    """A member that records when it heard of each departure."""

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

    def departures(self) -> int:
        return len(self._heard)

    def _on_change(self, event: GroupEvent) -> None:
        self._heard.update(dict.fromkeys(event.left, clock.now()))


class Bare:
    def pid(self) -> int:
        return os.getpid()


class Pending:
    async def pending(self) -> None:
        await asyncio.get_running_loop().create_future()


def start(kind: type, *args: object) -> Any:
    return ray.remote(kind).options(num_cpus=0, max_concurrency=2).remote(*args)


def _noop(_actor: Any, _pending: Any) -> None:
    return None


def poll(handles: list[Any], method: str, *args: object) -> list[Any]:
    return ray.get([getattr(handle, method).remote(*args) for handle in handles], timeout=LIMIT)


def wait_until_all_know(handles: list[Any], size: int) -> None:
    until = time.monotonic() + LIMIT
    while set(poll(handles, "size")) != {size}:
        if time.monotonic() > until:
            raise SystemExit(f"not all members know of each other after {LIMIT} s")
        time.sleep(0.02)


class Failovers:
    """Our group. ``expired`` counts live members that were expired; ``cores`` is the CPU use of the idle workers."""

    def __init__(self, plan: Plan) -> None:
        self._chance = random.Random(0)
        self._members = {f"worker-{number}": start(Worker, number) for number in range(plan.workers)}
        self._pids = dict(zip(self._members, poll(list(self._members.values()), "pid"), strict=True))
        wait_until_all_know(list(self._members.values()), plan.workers)
        used = processor_seconds(self._pids.values())
        time.sleep(plan.idle)
        self.cores = (processor_seconds(self._pids.values()) - used) / plan.idle
        for pid in self._pids.values():
            with stopped(pid):
                time.sleep(plan.stall)
        self.expired = max(poll(list(self._members.values()), "departures"))
        self.seconds = [self._kill(plan.workers, round_) for round_ in range(plan.kills)]
        for handle in self._members.values():
            ray.kill(handle)

    def _kill(self, workers: int, round_: int) -> float:
        """Seconds from a kill until the last survivor had heard of it. Then starts another worker."""
        wait_until_all_know(list(self._members.values()), workers)
        time.sleep(self._chance.uniform(0.5, 1.5))  # let Ray finish the last start; then kill at a random moment
        victim, successor = f"worker-{round_}", f"worker-{workers + round_}"
        del self._members[victim]
        killed_at = clock.now()
        os.kill(self._pids.pop(victim), signal.SIGKILL)
        heard: list[Any] = [None]
        while None in heard:
            time.sleep(0.2)  # so that polling does not compete with what is measured
            heard = poll(list(self._members.values()), "heard", victim)
            if clock.now() > killed_at + LIMIT:
                raise SystemExit(f"{victim} is still a member {LIMIT} s after it was killed")
        self._members[successor] = start(Worker, workers + round_)
        self._pids[successor] = poll([self._members[successor]], "pid")[0]
        return float(max(heard) - killed_at)


def floors(kills: int) -> list[float]:
    """Seconds from each kill until a pending call failed."""
    holder = start(Pending)
    never_ready = holder.pending.remote()
    took = []
    for _ in range(kills):
        actor = start(Bare)
        pid = ray.get(actor.pid.remote())
        pending = actor.__ray_call__.remote(_noop, never_ready)
        time.sleep(0.2)
        killed_at = clock.now()
        os.kill(pid, signal.SIGKILL)
        try:
            ray.get(pending, timeout=LIMIT)
        except ActorDiedError:
            took.append(clock.now() - killed_at)
    ray.kill(holder)
    return took


def row(who: str, seconds: Iterable[float], ours: float, cores: object = "") -> tuple[object, ...]:
    ordered = sorted(1000 * value for value in seconds)
    middle = statistics.median(ordered)
    last = math.ceil(0.99 * len(ordered)) - 1
    return (who, len(ordered), ordered[0], middle, ordered[last], ordered[-1], middle / ours, cores)


def peer_row(peer: Measured, ours: float) -> tuple[object, ...]:
    if peer.left_out:
        return (f"{peer.title}: {peer.left_out}", *[""] * 7)
    return row(peer.title, peer.seconds, ours, peer.cores)


def promises(ours: Failovers, floor: list[float], all_peers: list[Measured], stall: float) -> list[Target]:
    """The promises about ``ours``, alone and against the peers that ran."""
    median = statistics.median(ours.seconds)
    p99 = sorted(ours.seconds)[math.ceil(0.99 * len(ours.seconds)) - 1]
    targets = [
        Target("median over the floor's", 4, median / statistics.median(floor), at_least=False),
        Target("p99", 100, 1000 * p99, "ms", at_least=False),
        Target(f"live members expired by stalls of {stall:g} s", 0, ours.expired, "", at_least=False),
    ]
    for kind in dict.fromkeys(peer.kind for peer in all_peers):
        medians = [statistics.median(peer.seconds) for peer in all_peers if peer.kind == kind and peer.seconds]
        if medians:
            targets.append(Target(f"the best of tooz, {kind}: its median over ours", 10, min(medians) / median))
    return targets


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else Plan()
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    partition_actor.deploy(NAME)
    ours, floor = Failovers(plan), floors(plan.floor_kills)
    ray.shutdown()
    all_peers = quick_peers(plan.workers) if options.quick else peers(plan.workers, plan.idle, plan.stall)
    median = 1000 * statistics.median(ours.seconds)
    rows = [
        row(f"the last of {plan.workers - 1} survivors knows", ours.seconds, median, ours.cores),
        row("a pending Ray call fails", floor, median),
        *(peer_row(peer, median) for peer in all_peers),
    ]
    columns = ["", "kills", "best", "median", "p99", "worst", "median/ours", "cores, idle"]
    show("From kill -9, in milliseconds", columns, rows)
    targets = promises(ours, floor, all_peers, plan.stall)
    show_targets(targets)
    results = {
        "failovers": ours.seconds,
        "floors": floor,
        "plan": vars(plan),
        "cores_idle": ours.cores,
        "peers": [peer.to_dict() for peer in all_peers],
    }
    save("failover", options.out, options.quick, PACKAGES, targets, results)


if __name__ == "__main__":
    main()
