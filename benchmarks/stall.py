"""How long others wait while the partition actor has much to do.

For each case, a process calls `hello`, which does nothing, again and again: the longest call of the case, against the
longest of as many on the same partition actor while it has nothing to do. Members are simulated, with the real state
machine and real Ray calls; all processes of a case share this machine's cores.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import pyarrow as pa
import ray
from _members import LIMIT, percentile
from _report import Target, arguments, save, show, show_targets

import partition_actor
from partition_actor import Settings, clock
from partition_actor.core.member import MemberState

EXCLUSIVE, PLAIN = True, False
SETTINGS = Settings(ttl=60.0, hold=10.0, handoff_timeout=60.0, max_members=1000)
PROBE_EVERY = 0.002
"""Seconds from the end of one probe to the next."""
QUIET_FOR = 5.0


@dataclass(frozen=True)
class Plan:
    """The sizes of the cases."""

    status: tuple[int, int]
    """Groups, and members of each."""
    death: tuple[int, int]
    join: tuple[int, int, int]
    """Members of the group that is joined, groups of each of them, and members of each of those."""
    items: tuple[int, int]
    """Callers, and items of each."""
    laggard: tuple[int, float]
    """Members that come and go, and seconds."""


FULL = Plan(status=(2000, 50), death=(2000, 4), join=(300, 1000, 10), items=(6, 1_000_000), laggard=(20, 15.0))
QUICK = Plan(status=(50, 5), death=(50, 3), join=(10, 20, 5), items=(2, 20_000), laggard=(4, 2.0))


class Host:
    """Members of many groups; they release lost keys at once."""

    def __init__(self, handle: Any, members: dict[str, list[tuple[str, bool]]]) -> None:
        for thread in os.listdir("/proc/self/task"):  # only when the others wait: members have their own machines
            os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        self._handle = handle
        self._members = {name: self._member(name, groups) for name, groups in members.items()}
        self._tasks: list[asyncio.Task[None]] = []
        self._told_at: dict[str, float] = {}

    @staticmethod
    def _member(name: str, groups: list[tuple[str, bool]]) -> MemberState:
        made = MemberState(name, f"session of {name}", SETTINGS)
        for group, exclusive in groups:
            made.join(group, exclusive=exclusive)
        return made

    async def start(self) -> None:
        """Let all members begin to send heartbeats."""
        gc.freeze()  # this process has a hundred processes' worth of objects, and searching them for cycles stops all
        for member in self._members.values():
            self._tasks.append(asyncio.get_running_loop().create_task(self._live(member)))

    async def _live(self, member: MemberState) -> None:
        while True:
            reply = await self._handle.sync.remote(member.request(clock.now()))
            for change in (None if reply is None else member.receive(reply)) or ():
                if change.after is not None:
                    member.acknowledge(change.group, change.after.epoch)
                    self._told_at[member.member_id] = clock.now()

    async def sizes(self, group: str | None) -> set[int]:
        """The numbers of members in these members' views of a group, or of all their groups."""
        views = (
            member.view(name)
            for member in self._members.values()
            for name in (member.groups if group is None else (group,))
        )
        return {0 if view is None else len(view.members) for view in views}

    async def told_at(self) -> float:
        """When the last member received its latest view, in seconds of ``clock``."""
        return max(self._told_at.values(), default=0.0)

    async def end(self, name: str) -> None:
        """A member's process ends, and the partition actor is told so."""
        await self._handle.close_session.remote(name, f"session of {name}")


class Probe:
    """Calls the partition actor, and notes how long each call takes."""

    def __init__(self, handle: Any) -> None:
        self._handle, self._running = handle, False
        self._took: list[float] = []

    async def run(self) -> None:
        """Call until `stop`."""
        self._running = True
        while self._running:
            start = time.perf_counter()
            await self._handle.hello.remote()
            self._took.append(time.perf_counter() - start)
            await asyncio.sleep(PROBE_EVERY)

    async def stop(self) -> list[float]:
        """The seconds of each call since the last `stop`."""
        self._running = False
        took, self._took = self._took, []
        return took


def actor(kind: type, *arguments: Any) -> Any:
    """A new actor, by its handle."""
    return ray.remote(kind).options(num_cpus=0).remote(*arguments)


class Bench:
    """One partition actor, and how long calls of it take."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self._probe = actor(Probe, handle)
        self._hosts: list[Any] = []

    def probed(self, action: Callable[[], Any]) -> tuple[list[float], Any]:
        """The seconds of calls made while `action` runs, and its result."""
        running = self._probe.run.remote()
        ray.get(self.handle.hello.remote())
        result = action()
        took = ray.get(self._probe.stop.remote())
        ray.get(running)
        return took, result

    def hosts(self, *members: dict[str, list[tuple[str, bool]]]) -> list[Any]:
        """Hosts of these members, started."""
        made = [actor(Host, self.handle, share) for share in members]
        ray.get([host.start.remote() for host in made])
        self._hosts += made
        return made

    def end(self) -> None:
        """Kill the hosts."""
        for process in (*self._hosts, self._probe):
            ray.kill(process)


@contextmanager
def bench() -> Iterator[Bench]:
    """A new partition actor."""
    name = f"stall-{time.monotonic_ns()}"
    made = Bench(partition_actor.deploy(name, settings=SETTINGS))
    yield made
    made.end()
    partition_actor.shutdown(name, force=True)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > until:
            raise SystemExit(f"the members were not ready after {LIMIT} s")
        time.sleep(0.2)


def know_of(hosts: list[Any], *sizes: int, group: str | None = None) -> bool:
    """Whether the views of a group, or of all groups, have these numbers of members."""
    return set().union(*ray.get([host.sizes.remote(group) for host in hosts])) == set(sizes)


def spread_over(count: int, groups: int, exclusive: bool) -> list[dict[str, list[tuple[str, bool]]]]:
    """Two hosts' worth of members that are all in all groups."""
    every = [(f"group-{number}", exclusive) for number in range(groups)]
    return [{f"member-{number}": every for number in range(first, count, 2)} for first in range(2)]


def told_after(hosts: list[Any], start: float) -> float:
    """Seconds from `start` until the last member had its latest view."""
    return float(max(ray.get([host.told_at.remote() for host in hosts]))) - start


def quiet(bench: Bench) -> list[float]:
    return bench.probed(lambda: time.sleep(QUIET_FOR))[0]


Case = tuple[list[float], list[float], float | None]
"""Seconds of calls on the quiet partition actor, and during the case; and seconds until all were told."""


def status(plan: Plan) -> Case:
    """`status()` ten times."""
    groups, size = plan.status
    with bench() as made:
        hosts = made.hosts(*spread_over(size, groups, PLAIN))
        wait_until(lambda: know_of(hosts, size))
        before = quiet(made)
        took, _ = made.probed(lambda: [ray.get(made.handle.status.remote()) for _ in range(10)])
        return before, took, None


def death(plan: Plan) -> Case:
    """A member of many exclusive groups dies."""
    groups, size = plan.death
    with bench() as made:
        hosts = made.hosts(*spread_over(size, groups, EXCLUSIVE))
        wait_until(lambda: know_of(hosts, size))
        before = quiet(made)
        dead = actor(Mortal, made.handle, groups)
        ray.get(dead.joined.remote(), timeout=LIMIT)
        wait_until(lambda: know_of(hosts, size + 1))

        def die() -> float:
            start = clock.now()
            ray.get(dead.close.remote())
            while not know_of(hosts, size):
                time.sleep(0.2)  # so that polling does not compete with what is measured
            return told_after(hosts, start)

        took, seconds = made.probed(die)
        return before, took, seconds


class Mortal:
    """A member that is in many exclusive groups, and ends."""

    def __init__(self, handle: Any, groups: int) -> None:
        self._handle = handle
        self._state = MemberState("dead", "session of dead", SETTINGS)
        for number in range(groups):
            self._state.join(f"group-{number}", exclusive=True)

    def joined(self) -> None:
        while any(held.view is None for held in self._state.groups.values()):
            for change in (
                self._state.receive(ray.get(self._handle.sync.remote(self._state.request(clock.now())))) or ()
            ):
                if change.after is not None:
                    self._state.acknowledge(change.group, change.after.epoch)

    def close(self) -> None:
        ray.get(self._handle.close_session.remote("dead", "session of dead"))


def join(plan: Plan) -> Case:
    """One joins one group, whose members are in many groups each."""
    members, groups, size = plan.join
    shares: list[dict[str, list[tuple[str, bool]]]] = [{}, {}]
    for number in range(members):
        others = [(f"group-{number // size}-{at}", PLAIN) for at in range(groups - 1)]
        shares[number % 2][f"member-{number}"] = [("shared", PLAIN), *others]
    with bench() as made:
        hosts = made.hosts(*shares)
        wait_until(lambda: know_of(hosts, members, size))
        before = quiet(made)

        def one() -> float:
            start = clock.now()
            ray.get(made.handle.join.remote("shared", "newcomer"))
            while not know_of(hosts, members + 1, group="shared"):
                time.sleep(0.2)  # so that polling does not compete with what is measured
            return told_after(hosts, start)

        took, seconds = made.probed(one)
        return before, took, seconds


class Taker:
    """A bare Ray actor that does nothing with the items that it takes: what a list costs without us."""

    async def hello(self) -> None:
        """Return."""

    async def take(self, items: list[str]) -> list[str]:
        return items[: len(items) // 6]


def asked_for(made: Bench, plan: Plan, items: Any, call: Callable[[int, Any], Any]) -> Case:
    """Several callers give all of the items at once, three times."""
    callers, _ = plan.items
    given = ray.put(items)
    ray.get(call(0, items[:10]))  # Python loads Arrow at its first array
    before = quiet(made)

    def ask() -> None:
        for _ in range(3):
            ray.wait([call(at, given) for at in range(callers)], num_returns=callers)

    took, _ = made.probed(ask)
    return before, took, None


def texts(plan: Plan) -> list[str]:
    return [f"item-{number}" for number in range(plan.items[1])]


def subset(plan: Plan, items: Any) -> Case:
    with bench() as made:
        ray.get([made.handle.join.remote("group", f"member-{at}") for at in range(plan.items[0])])
        return asked_for(
            made, plan, items, lambda at, given: made.handle.get_subset.remote("group", f"member-{at}", given)
        )


def array(plan: Plan) -> Case:
    """Several callers ask for their parts of a long Arrow array at once."""
    return subset(plan, pa.array(texts(plan)))


def texts_in_a_list(plan: Plan) -> Case:
    """The same of a list, which Python unpacks while nothing else of the process runs."""
    return subset(plan, texts(plan))


def peer(plan: Plan) -> Case:
    """A bare Ray actor that is given such lists."""
    taker = actor(Taker)
    made = Bench(taker)
    try:
        return asked_for(made, plan, texts(plan), lambda _, given: taker.take.remote(given))
    finally:
        made.end()
        ray.kill(taker)


def laggard(plan: Plan) -> Case:
    """A member does not acknowledge, while others come and go every 50 ms."""
    others, seconds = plan.laggard
    with bench() as made:
        handle = made.handle
        ray.get(handle.join.remote("group", "laggard", exclusive=True))
        before = quiet(made)
        state = MemberState("laggard", "session", SETTINGS)
        state.join("group", exclusive=True)
        while state.view("group") is None:
            state.receive(ray.get(handle.sync.remote(state.request(clock.now()))))

        def churn() -> None:
            until = time.monotonic() + seconds
            number = 0
            while time.monotonic() < until:
                number += 1
                handle.join.remote("group", f"member-{number}", exclusive=True)
                if number > others:
                    handle.leave.remote("group", f"member-{number - others}")
                if number % others == 0:
                    ray.get(handle.hello.remote())
                time.sleep(0.05)

        took, _ = made.probed(churn)
        return before, took, None


LIST = "the same, in a list"
PEER = "a bare Ray actor that takes such lists"

CASES = {
    "status() of 2,000 groups of 50": status,
    "a death in 2,000 exclusive groups": death,
    "a join to a group whose 300 members are in 1,000 each": join,
    "get_subset of 1,000,000 items in an Arrow array, six at once": array,
    LIST: texts_in_a_list,
    PEER: peer,
    "a member lags while 20 come and go": laggard,
}


def main() -> None:
    options = arguments(__doc__)
    plan = QUICK if options.quick else FULL
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    rows: list[dict[str, Any]] = []
    for name, case in CASES.items():
        before, took, told = case(plan)
        rows.append(
            {
                "case": name,
                "quiet": {"p50": percentile(before, 50), "p100": max(before)},
                "busy": {"p50": percentile(took, 50), "p99": percentile(took, 99), "p100": max(took)},
                "calls": len(took),
                "told_after": told,
            }
        )
    ray.shutdown()
    columns = ["case", "calls", "p50, quiet", "longest, quiet", "p50", "p99", "longest", "all told after, ms"]
    show(
        "Milliseconds of an empty call",
        columns,
        [
            [row["case"], row["calls"]]
            + [1000 * row["quiet"][at] for at in ("p50", "p100")]
            + [1000 * row["busy"][at] for at in ("p50", "p99", "p100")]
            + ["" if row["told_after"] is None else 1000 * row["told_after"]]
            for row in rows
        ],
    )
    longest = {row["case"]: 1000 * row["busy"]["p100"] for row in rows}
    targets = [Target(case, 20, longest[case], "ms", at_least=False) for case in CASES if case not in (LIST, PEER)]
    targets.append(Target(f"{LIST}, against {PEER}", 1.2, longest[LIST] / longest[PEER], "x", at_least=False))
    death_told = next(row["told_after"] for row in rows if row["case"].startswith("a death"))
    targets.append(Target("a death in 2,000 exclusive groups: all told", 1, death_told, "s", at_least=False))
    show_targets(targets)
    save("stall", options.out, options.quick, ["ray", "partition-actor"], targets, {"rows": rows})


if __name__ == "__main__":
    main()
