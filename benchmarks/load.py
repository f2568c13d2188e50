"""What idle members cost the partition actor, at the heartbeat interval that it chooses.

Members in groups of 100, simulated by few processes that speak the real protocol with real Ray calls. Measured over a
steady period: CPU and memory of the partition actor's process, how late replies are, and live members that were
expired. The peers: an async Ray actor with an empty method, called as often by as many callers (the promise is about a
method that returns at once; one that is held as long as a heartbeat is shown too); and tooz with redis, whose members
heartbeat and poll their group as often, so that a crash is seen as soon.

Then what it costs to be watched: the CPU of a heartbeat with metrics, and with `top` and the page, which each ask for
everything once a second, over that with none of them; by turns on one partition actor, as a machine's speed changes.

Takes about twenty minutes.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from _load_peers import empty_calls, tooz_duty
from _members import (
    Crowd,
    Guest,
    Tally,
    deployed_for,
    groups_of,
    percentile,
    resident_bytes,
    settings_for,
)
from _processes import processor_seconds
from _report import Target, arguments, save, show, show_targets

PACKAGES = ["partition-actor", "ray", "tooz", "redis"]
GROUP_SIZE = 100
JOINS_PER_SECOND = 250.0
PROBE_EVERY = 0.5
HOUR = 3600.0


@dataclass(frozen=True)
class Plan:
    """Sizes as {members: seconds of the steady period}; the promises are about ``main``."""

    sizes: dict[int, float]
    main: int
    peer_seconds: float
    tooz: tuple[int, ...]
    watched: tuple[int, float, int]
    """Members, seconds of a turn, and turns. Metrics are recorded every ten seconds."""


FULL = Plan({100: 20.0, 1000: 30.0, 5000: 300.0, 10_000: 40.0}, 5000, 20.0, (100, 1000), (1000, 10.0, 8))
QUICK = Plan({50: 5.0, 100: 5.0}, 100, 5.0, (50,), (50, 10.0, 1))
WATCHED: dict[str, tuple[bool, bool]] = {
    "nothing": (False, False),
    "metrics": (True, False),
    "metrics, top and page": (True, True),
}
"""By what watches the partition actor: whether metrics do, and whether `top` and the page do."""


class Screen:
    """Asks the partition actor for what it shows once a second, as `top` and the page do."""

    def __init__(self, handle: Any, group: str) -> None:
        self._handle, self._group = handle, group
        self._task: asyncio.Task[None] | None = None

    async def show(self, shows: bool) -> None:
        """Begin to ask, or cease to."""
        if shows:
            self._task = asyncio.get_running_loop().create_task(self._ask())
        elif self._task is not None:
            self._task.cancel()

    async def _ask(self) -> None:
        since = 0
        while True:
            told = await self._handle.observe.remote([self._group], since)
            since = told["events"]["next"]
            await asyncio.sleep(1.0)


def heartbeats(count: int, seconds: float) -> dict[str, Any]:
    """Measure the partition actor of `count` idle members for so many seconds."""
    with deployed_for(count) as (handle, _, settings):
        guest = Guest(handle, "guest", "group-0")
        guest.join()
        pid = ray.get(handle.status.remote())["pid"]
        empty = resident_bytes(pid)
        guest.leave()
        crowd = Crowd(handle, groups_of(count, GROUP_SIZE), settings)
        crowd.start(count / JOINS_PER_SECOND)
        crowd.wait_for_size(min(count, GROUP_SIZE))
        interval = ray.get(handle.status.remote())["interval"]
        time.sleep(interval)  # until all know the final interval
        joining, taken, started = crowd.tally(), processor_seconds([pid]), time.monotonic()
        probes = probe(handle, seconds)
        tally, taken, passed = crowd.tally(), processor_seconds([pid]) - taken, time.monotonic() - started
        resident = resident_bytes(pid)
        status = ray.get(handle.status.remote())
        crowd.end()
    calls = tally.heartbeats + len(probes)
    return {
        "members": count,
        "interval": interval,
        "ttl": status["ttl"],
        "seconds": passed,
        "heartbeats_per_second": tally.heartbeats / passed,
        "seconds_per_heartbeat": taken / calls,
        "seconds_per_member_hour": taken / count * HOUR / passed,
        "bytes_per_member": (resident - empty) / count,
        "lateness": spread(tally.lateness),
        "probes": spread(probes),
        "false_expiries": false_expiries(joining, tally, count - status["sessions"]),
        "errors": sorted({*joining.errors, *tally.errors}),
        "stalled": status["stalled"],
    }


def probe(handle: Any, seconds: float) -> list[float]:
    """Seconds of calls that are not held: the jitter of a held call could hide that it was late."""
    took = []
    until = time.monotonic() + seconds
    while (start := time.monotonic()) < until:
        ray.get(handle.hello.remote())
        took.append(time.monotonic() - start)
        time.sleep(PROBE_EVERY)
    return took


def spread(seconds: list[float]) -> dict[str, float]:
    return {f"p{percent}": percentile(seconds, percent) for percent in (50, 99, 100)}


def false_expiries(joining: Tally, steady: Tally, missing: int) -> int:
    """Live members that were expired: those that have rejoined and those that are missing."""
    return joining.rejoined + steady.rejoined + max(0, missing)


def measure(count: int, seconds: float, plan: Plan) -> dict[str, Any]:
    row = heartbeats(count, seconds)
    wait = max(plan.peer_seconds, row["interval"])
    row["empty"] = empty_calls(count, row["interval"], wait, held=False)
    row["empty_held"] = empty_calls(count, row["interval"], wait, held=True)
    row["over_empty"] = row["seconds_per_heartbeat"] / row["empty"]["seconds_per_call"]
    row["over_held"] = row["seconds_per_heartbeat"] / row["empty_held"]["seconds_per_call"]
    return row


def watched(plan: Plan) -> dict[str, Any]:
    """CPU seconds of a heartbeat in each turn, by what watches the partition actor."""
    count, seconds, turns = plan.watched
    found: dict[str, list[float]] = {name: [] for name in WATCHED}
    with deployed_for(count) as (handle, _, settings):
        crowd = Crowd(handle, groups_of(count, GROUP_SIZE), settings)
        crowd.start(count / JOINS_PER_SECOND)
        crowd.wait_for_size(min(count, GROUP_SIZE))
        status = ray.get(handle.status.remote())
        screens: list[Any] = [ray.remote(Screen).options(num_cpus=0).remote(handle, "group-0") for _ in range(2)]
        for turn in range(turns):
            for name in list(WATCHED) if turn % 2 else reversed(WATCHED):
                metrics, shows = WATCHED[name]
                ray.get(handle.configure.remote({"metrics": metrics}))
                ray.get([screen.show.remote(shows) for screen in screens])
                time.sleep(2 * status["interval"])  # until all know of the settings
                crowd.tally()
                taken = processor_seconds([status["pid"]])
                time.sleep(seconds)
                heard = crowd.tally().heartbeats
                found[name].append((processor_seconds([status["pid"]]) - taken) / heard)
                ray.get([screen.show.remote(False) for screen in screens])
        crowd.end()
        for screen in screens:
            ray.kill(screen)
    return {"members": count, **found}


def over_nothing(found: dict[str, Any], name: str) -> float:
    """How many times as much a heartbeat costs: the median of the turns, each over the same turn without."""
    ratios: list[float] = [each / base for each, base in zip(found[name], found["nothing"], strict=True)]
    return statistics.median(ratios)


def show_watched(found: dict[str, Any]) -> None:
    rows = [
        [name, 1e6 * statistics.median(found[name]), over_nothing(found, name), 1e6 * min(found[name])]
        for name in WATCHED
    ]
    columns = ["watched by", "median, µs", "/ nothing, median of turns", "least, µs"]
    show(f"A heartbeat of {found['members']:,} members", columns, rows)


def tooz_peer(count: int, plan: Plan) -> dict[str, Any] | str:
    settings = settings_for(count)
    interval, ttl = settings.interval_for(count), settings.ttl_for(count)
    return tooz_duty(groups_of(count, GROUP_SIZE), interval, ttl, max(plan.peer_seconds, interval))


def show_costs(rows: list[dict[str, Any]]) -> None:
    columns = ["members", "interval, s", "heartbeats/s", "CPU s per member and hour", "a heartbeat, µs"]
    columns += ["empty call, µs", "held empty call, µs", "/ empty", "/ held", "kB per member"]
    table = [
        [
            row["members"],
            row["interval"],
            row["heartbeats_per_second"],
            row["seconds_per_member_hour"],
            1e6 * row["seconds_per_heartbeat"],
            1e6 * row["empty"]["seconds_per_call"],
            1e6 * row["empty_held"]["seconds_per_call"],
            row["over_empty"],
            row["over_held"],
            row["bytes_per_member"] / 1000,
        ]
        for row in rows
    ]
    show("What members cost the partition actor's process", columns, table)


def show_lateness(rows: list[dict[str, Any]]) -> None:
    columns = ["members", "seconds", "late p50, ms", "late p99", "late worst", "unheld call p50, ms", "p99", "worst"]
    columns += ["false expiries", "errors"]
    table = [
        [row["members"], row["seconds"]]
        + [1000 * row[what][percent] for what in ("lateness", "probes") for percent in ("p50", "p99", "p100")]
        + [row["false_expiries"], len(row["errors"])]
        for row in rows
    ]
    show("How late replies come", columns, table)


def show_tooz(rows: list[dict[str, Any] | str]) -> None:
    columns = ["members", "wanted/s", "done/s", "redis-server, µs", "members' side, µs", "errors"]
    table = [
        [
            row["members"],
            row["wanted_per_second"],
            row["duties_per_second"],
            1e6 * row["server_seconds_per_duty"],
            1e6 * row["client_seconds_per_duty"],
            len(row["errors"]),
        ]
        for row in rows
        if isinstance(row, dict)
    ]
    if table:
        show("tooz with redis: CPU for one heartbeat and one get_members", columns, table)
    for why in {row for row in rows if isinstance(row, str)}:
        print(f"left out: {why}")


def promises(rows: list[dict[str, Any]], main_size: int, found: dict[str, Any]) -> list[Target]:
    chosen = next(row for row in rows if row["members"] == main_size)
    # With fewer members, most of both costs is the process's own idling.
    busy = [row for row in rows if row["members"] >= 1000] or [chosen]
    late = max(chosen["lateness"]["p99"], chosen["probes"]["p99"])
    who, all_on = f"{main_size:,} members", over_nothing(found, "metrics, top and page")
    return [
        Target("a heartbeat over an empty call", 1.3, max(row["over_empty"] for row in busy), at_least=False),
        Target(f"{who}: false expiries", 0, chosen["false_expiries"], "", at_least=False),
        Target(f"{who}: lateness p99, held or not", 1, late, "s", at_least=False),
        Target(f"{who}: memory per member", 70, chosen["bytes_per_member"] / 1000, "kB", at_least=False),
        Target(f"{found['members']:,} members: a watched heartbeat over one that is not", 1.05, all_on, at_least=False),
    ]


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else FULL
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    rows = [measure(count, seconds, plan) for count, seconds in plan.sizes.items()]
    tooz = [tooz_peer(count, plan) for count in plan.tooz]
    watching = watched(plan)
    ray.shutdown()
    show_costs(rows)
    show_lateness(rows)
    show_tooz(tooz)
    show_watched(watching)
    targets = promises(rows, plan.main, watching)
    show_targets(targets)
    save("load", options.out, options.quick, PACKAGES, targets, {"load": rows, "tooz": tooz, "watched": watching})


if __name__ == "__main__":
    main()
