"""Is it faster to share one ring through Ray's object store than to build it in each process?

In a fresh worker process: the first ring, built from its members; the ring after one member joined, derived from the
first; and the same two fetched from the object store, without copying their arrays. Wall-clock milliseconds, medians
over processes.

On a two-core machine fetching saved 13 ms of a process's first ring at 100 members and 160 ms at 1,000, once in its
life, and 1 to 3 ms per change. For that, each view would have to wait until the partition actor had built and stored
its ring, and references would die with the partition actor. So members build their own rings.
"""

from __future__ import annotations

import os
import time
from statistics import median
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _report import arguments, save, show

from partition_actor.ring import ring_of


def names(count: int) -> tuple[tuple[str, int], ...]:
    return tuple((f"worker-{number:05}", 1) for number in range(count))


@ray.remote(num_cpus=0, max_calls=1)
def times_in_a_fresh_process(first: list[Any], second: list[Any], members: int) -> dict[str, float]:
    """`first` and `second` hold references to the ring of `members`, and of one more."""
    took = {}

    def timed(what: str, call: Any) -> None:
        start = time.perf_counter()
        ring = call()
        ring.owner("key")
        took[what] = time.perf_counter() - start

    timed("first, fetched", lambda: ray.get(first[0]))
    timed("after a join, fetched", lambda: ray.get(second[0]))
    timed("first, built", lambda: ring_of(names(members)))
    timed("after a join, built", lambda: ring_of(names(members + 1)))
    return took


def main() -> None:
    options = arguments(__doc__)
    sizes, repeats = ((10, 100), 2) if options.quick else ((10, 100, 1000), 9)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    rows = []
    for members in sizes:
        # In lists, because Ray replaces a reference that is an argument itself by its value.
        first, second = ([ray.put(ring_of(names(count)))] for count in (members, members + 1))
        runs = [ray.get(times_in_a_fresh_process.remote(first, second, members)) for _ in range(repeats)]
        middle = {what: median(run[what] for run in runs) for what in runs[0]}
        rows += [{"members": members, "ring": what, "milliseconds": 1000 * value} for what, value in middle.items()]
    ray.shutdown()
    show(
        "A ring in a fresh process",
        ["ring", "members", "ms"],
        [(r["ring"], r["members"], r["milliseconds"]) for r in rows],
    )
    save("shared_ring", options.out, options.quick, ["partition-actor", "ray", "numpy"], [], {"rings": rows})


if __name__ == "__main__":
    main()
