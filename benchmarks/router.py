"""What it costs to call the owner of a key, against a call by the actor's handle.

Calls go to three actors of an exclusive group in turn. Rounds of bare and routed calls alternate, so that other load on
the machine affects both alike. *Submit* is the time to get the reference and to release it (*CPU*: of the calling
thread, for a busy machine); *round trip* is the time to the result; *awaited* is the same on an event loop, `acall`
against an awaited reference, many at a time.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _report import Target, arguments, save, show, show_targets

import partition_actor
from partition_actor import PartitionCoordinator, Router, owned_by

GROUP, NAME, WORKERS, LIMIT = "workers", "routed", 3, 60.0
Call = Callable[[str], Any]
"""Calls the owner of a key."""
Round = Callable[[], float]
"""Makes some calls, and returns the seconds per call."""


class Worker:
    """A member with a trivial method, and the same method with ``owned_by``."""

    def __init__(self, number: int) -> None:
        self._coordinator = PartitionCoordinator(f"worker-{number}", NAME)
        self._coordinator.start()
        self._coordinator.join_group(GROUP, exclusive=True)

    def echo(self, key: str) -> str:
        return key

    @owned_by("key")
    def checked(self, key: str) -> str:
        return key


def submit(clock: Callable[[], float], call: Call, keys: list[str]) -> float:
    """Seconds per call to submit and to release the reference, as a router also releases references of its own."""
    gc.disable()
    start = clock()
    references = [call(key) for key in keys]
    seconds = clock() - start
    gc.enable()
    ray.get(references, timeout=LIMIT)
    start = clock()
    references.clear()
    return (seconds + clock() - start) / len(keys)


def round_trip(call: Call, keys: list[str]) -> float:
    start = time.perf_counter()
    for key in keys:
        ray.get(call(key))
    return (time.perf_counter() - start) / len(keys)


def awaited(loop: asyncio.AbstractEventLoop, call: Call, keys: list[str]) -> float:
    async def one(key: str) -> None:
        await call(key)

    async def every() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(one(key) for key in keys))
        return (time.perf_counter() - start) / len(keys)

    return loop.run_until_complete(every())


def alternate(rounds: int, ways: dict[str, Round]) -> dict[str, list[float]]:
    """Seconds per call of each way, by round. The order changes from round to round."""
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 2):
        order = list(ways) if number % 2 else list(reversed(ways))
        for way in order:
            seconds = ways[way]()
            if number >= 2:  # the first two rounds warm up
                took[way].append(seconds)
    return took


def measure(router: Router, rounds: int, calls: int) -> dict[str, dict[str, list[float]]]:
    keys = [f"key-{number}" for number in range(calls)]
    handle_of = {key: router.actor(key) for key in keys}

    def bare(key: str) -> Any:
        return handle_of[key].echo.remote(key)

    def routed(key: str) -> Any:
        return router.call(key, "echo", key)

    def checked(key: str) -> Any:
        return router.call(key, "checked", key)

    for key in keys:  # a call is refused until the hand-offs of the joins are over, and `get` repeats it
        router.get(checked(key))
    loop, few = asyncio.new_event_loop(), keys[: max(20, calls // 10)]
    ways: dict[str, Call] = {"handle": bare, "call": routed, "call, owned_by": checked}
    by_loop: dict[str, Call] = {"handle": bare, "acall": lambda key: router.acall(key, "echo", key)}
    result = {
        "submit, CPU": alternate(
            rounds, {way: partial(submit, time.thread_time, call, keys) for way, call in ways.items()}
        ),
        "submit": alternate(
            rounds, {way: partial(submit, time.perf_counter, call, keys) for way, call in ways.items()}
        ),
        "round trip": alternate(rounds, {way: partial(round_trip, call, few) for way, call in ways.items()}),
        "awaited": alternate(rounds, {way: partial(awaited, loop, call, keys) for way, call in by_loop.items()}),
    }
    loop.close()
    return result


def main() -> None:
    options = arguments(__doc__)
    rounds, calls = (9, 200) if options.quick else (31, 1000)
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    partition_actor.deploy(NAME)
    workers: list[Any] = [ray.remote(Worker).options(num_cpus=0).remote(number) for number in range(WORKERS)]
    ray.get([worker.__ray_ready__.remote() for worker in workers], timeout=LIMIT)
    with Router(GROUP, NAME, max_calls=10 * calls) as router:
        results = measure(router, rounds, calls)
    ray.shutdown()
    medians = {what: {way: statistics.median(took) for way, took in ways.items()} for what, ways in results.items()}
    ratios = {what: {way: took / ways["handle"] for way, took in ways.items()} for what, ways in medians.items()}
    rows = [
        (what, way, 1e6 * seconds, ratios[what][way]) for what, ways in medians.items() for way, seconds in ways.items()
    ]
    show(f"Microseconds a call, median of {rounds} rounds", ["", "by", "µs", "of a bare call"], rows)
    targets = [
        Target(
            "CPU to submit, router.call of handle.method.remote", 1.15, ratios["submit, CPU"]["call"], at_least=False
        ),
        Target("round trip by router.call, of one by handle", 1.15, ratios["round trip"]["call"], at_least=False),
    ]
    show_targets(targets)
    save("router", options.out, options.quick, ["partition-actor", "ray"], targets, {"seconds": results})


if __name__ == "__main__":
    main()
