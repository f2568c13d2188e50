"""How soon all members of a group know of a change, and how many bytes it takes to tell them.

One join, and a burst of joins, in plain and exclusive groups. Twenty members are worker actors with a
``PartitionCoordinator`` each. Larger groups are simulated by few processes that make the same calls; there most of the
time goes into reading a thousand replies on the same cores. Bytes are those of pickled replies with news, compared with
the bytes of one whole view, as it is sent to a member that has none.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _members import LIMIT, Crowd, Guest, deployed_for, percentile
from _report import Target, arguments, save, show, show_targets

from partition_actor import GroupEvent, PartitionCoordinator, clock

GROUP = "group"


@dataclass(frozen=True)
class Plan:
    """Sizes and repeats: ``changes`` among ``workers``; single joins and bursts as {members: repeats}."""

    workers: int
    changes: int
    joins: dict[int, int]
    bursts: dict[int, int]


FULL = Plan(20, 50, {100: 10, 1000: 3}, {100: 2, 1000: 2})
QUICK = Plan(4, 3, {20: 3}, {20: 2})


class Worker:
    """A member that records when it heard of each change: ``+id`` for a join, ``-id`` for a leave."""

    def __init__(self, name: str, number: int, exclusive: bool) -> None:
        self._heard: dict[str, float] = {}
        self._coordinator = PartitionCoordinator(f"worker-{number}", name)
        self._coordinator.start()
        self._coordinator.watch_group(GROUP, self._on_change)
        self._coordinator.join_group(GROUP, exclusive=exclusive)

    def _on_change(self, event: GroupEvent) -> None:
        heard = [f"+{member}" for member in event.joined] + [f"-{member}" for member in event.left]
        self._heard.update(dict.fromkeys(heard, clock.now()))

    def size(self) -> int:
        return len(self._coordinator.members(GROUP))

    def heard(self, what: str) -> float | None:
        return self._heard.get(what)


def ask(workers: list[Any], method: str, *args: object) -> list[Any]:
    return list(ray.get([getattr(worker, method).remote(*args) for worker in workers], timeout=LIMIT))


def wait_for(workers: list[Any], what: str) -> float:
    """When the last of the workers had heard of a change."""
    until = time.monotonic() + LIMIT
    heard: list[float | None] = [None]
    while None in heard:
        if time.monotonic() > until:
            raise SystemExit(f"not all workers have heard of {what} after {LIMIT} s")
        time.sleep(0.2)  # so that polling does not compete with what is measured
        heard = ask(workers, "heard", what)
    return max(at for at in heard if at is not None)


def changes_among_workers(count: int, changes: int, *, exclusive: bool) -> dict[str, list[float]]:
    """Seconds from each join and each leave of one more member until all workers knew."""
    with deployed_for(count) as (_, name, _):
        kind = ray.remote(Worker).options(num_cpus=0, max_concurrency=2)
        workers: list[Any] = [kind.remote(name, number, exclusive) for number in range(count)]
        wait_until_all_know(workers)
        took: dict[str, list[float]] = {"join": [], "leave": []}
        for number in range(changes):
            with PartitionCoordinator(f"guest-{number}", name) as guest:
                start = clock.now()
                guest.join_group(GROUP, exclusive=exclusive)
                took["join"].append(wait_for(workers, f"+guest-{number}") - start)
                start = clock.now()
                guest.leave_group(GROUP)
                took["leave"].append(wait_for(workers, f"-guest-{number}") - start)
        for worker in workers:
            ray.kill(worker)
    return took


def wait_until_all_know(workers: list[Any]) -> None:
    until = time.monotonic() + LIMIT
    while set(ask(workers, "size")) != {len(workers)}:
        if time.monotonic() > until:
            raise SystemExit(f"the workers do not all know of each other after {LIMIT} s")
        time.sleep(0.2)


@contextmanager
def crowd_of(count: int, *, exclusive: bool) -> Iterator[tuple[Any, Crowd]]:
    """A new partition actor, and so many members that have not joined yet."""
    with deployed_for(count) as (handle, _, settings):
        crowd = Crowd(handle, [(f"member-{at}", GROUP) for at in range(count)], settings, exclusive=exclusive)
        yield handle, crowd
        crowd.end()


def single_joins(count: int, repeats: int, *, exclusive: bool) -> dict[str, Any]:
    """One more member joins a group of `count` and leaves it, `repeats` times."""
    seconds, received = [], []
    with crowd_of(count, exclusive=exclusive) as (handle, crowd):
        crowd.start()
        crowd.wait_for_size(count)
        for number in range(repeats):
            crowd.wait_until_quiet()
            crowd.told()
            guest = Guest(handle, f"guest-{number}", GROUP, exclusive=exclusive)
            start, _, view_bytes = guest.join()
            crowd.wait_for_size(count + 1)
            crowd.wait_until_quiet()
            last, sizes = crowd.told()
            seconds.append(last - start)
            received += sizes
            guest.leave()
            crowd.wait_for_size(count)
    return {
        "members": count,
        "exclusive": exclusive,
        "seconds": seconds,
        "mean_bytes": statistics.mean(received),
        "view_bytes": view_bytes,
    }


def burst(count: int, *, exclusive: bool) -> dict[str, Any]:
    """All join at once."""
    with crowd_of(count, exclusive=exclusive) as (handle, crowd):
        crowd.start()
        crowd.wait_for_size(count)
        crowd.wait_until_quiet()
        last, received = crowd.told()
        start = crowd.first_request()
        # The next member to join is sent the whole view, and makes one more epoch.
        _, epochs, view_bytes = Guest(handle, "guest", GROUP, exclusive=exclusive).join()
        lost = crowd.tally()
    return {
        "members": count,
        "exclusive": exclusive,
        "seconds": last - start,
        "epochs": epochs - 1,
        "mean_bytes": statistics.mean(received),
        "most_bytes": max(received),
        "view_bytes": view_bytes,
        "errors": sorted(set(lost.errors)),
        "rejoined": lost.rejoined,
    }


def mode(exclusive: bool) -> str:
    return "exclusive" if exclusive else "plain"


def show_singles(workers: int, among: dict[str, dict[str, list[float]]], joins: list[dict[str, Any]]) -> None:
    columns = ["", "group", "changes", "median, ms", "p99, ms", "worst, ms", "bytes a member", "whole view, bytes"]
    rows: list[list[object]] = []
    for kind, took in among.items():
        for what, seconds in took.items():
            rows.append([f"{workers} workers, one {what}", kind, *times(seconds), "", ""])
    for row in joins:
        who = f"{row['members']:,} simulated, one join"
        rows.append([who, mode(row["exclusive"]), *times(row["seconds"]), row["mean_bytes"], row["view_bytes"]])
    show("From one change until all know", columns, rows)


def times(seconds: list[float]) -> list[object]:
    return [len(seconds), *(1000 * percentile(seconds, percent) for percent in (50, 99, 100))]


def show_bursts(bursts: list[dict[str, Any]]) -> None:
    columns = ["joins at once", "group", "seconds", "epochs", "bytes a member", "most", "whole view", "most / view"]
    rows = [
        [
            row["members"],
            mode(row["exclusive"]),
            row["seconds"],
            row["epochs"],
            row["mean_bytes"],
            row["most_bytes"],
            row["view_bytes"],
            row["most_bytes"] / row["view_bytes"],
        ]
        for row in bursts
    ]
    show("Bursts of joins, each on a new partition actor", columns, rows)


def promises(workers: int, among: dict[str, dict[str, list[float]]], bursts: list[dict[str, Any]]) -> list[Target]:
    every = [seconds for took in among.values() for each in took.values() for seconds in each]
    size = max(row["members"] for row in bursts)
    largest = [row for row in bursts if row["members"] == size]
    epochs = max(row["epochs"] for row in largest)
    most = max(row["most_bytes"] / row["view_bytes"] for row in largest)
    return [
        Target(f"a change among {workers} workers, p99", 50, 1000 * percentile(every, 99), "ms", at_least=False),
        Target(f"epochs of {size:,} joins at once", 20, epochs, "epochs", at_least=False),
        Target(f"the most bytes that a member is sent then, over one view of {size:,}", 2, most, at_least=False),
    ]


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else FULL
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    modes = (False, True)
    among = {mode(each): changes_among_workers(plan.workers, plan.changes, exclusive=each) for each in modes}
    joins = [single_joins(*size, exclusive=each) for size in plan.joins.items() for each in modes]
    bursts = [
        burst(count, exclusive=each) for count, times_ in plan.bursts.items() for each in modes for _ in range(times_)
    ]
    ray.shutdown()
    show_singles(plan.workers, among, joins)
    show_bursts(bursts)
    targets = promises(plan.workers, among, bursts)
    show_targets(targets)
    results = {"workers": plan.workers, "among_workers": among, "joins": joins, "bursts": bursts}
    save("change", options.out, options.quick, ["partition-actor", "ray"], targets, results)


if __name__ == "__main__":
    main()
