"""Many members in few processes, with the real state machine, the real protocol and real Ray calls.

Left out is only what costs the partition actor nothing: users' callbacks and look-ups of keys.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

import partition_actor
from partition_actor import Settings, clock
from partition_actor.core.member import MemberState
from partition_actor.core.messages import Reply, Request, ShortRequest

HOSTS = 4
LIMIT = 120.0
"""Seconds after which waiting for something fails."""
RETRY_AFTER = 1.0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else math.nan


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def settings_for(members: int) -> Settings:
    """The default settings, with room for so many members."""
    return Settings(max_members=max(Settings().max_members, members + 10))


def session_of(member_id: str) -> str:
    return f"session of {member_id}"


@dataclass
class Tally:
    """What happened to a host's members since it was last asked."""

    heartbeats: int = 0
    lateness: list[float] = field(default_factory=list)
    """Seconds by which each reply without news was late."""
    rejoined: int = 0
    """Live members that the partition actor had expired."""
    errors: list[str] = field(default_factory=list)


class Member:
    """One simulated member of one group; it releases lost keys at once."""

    def __init__(self, member_id: str, group: str, *, exclusive: bool, settings: Settings) -> None:
        self._member_state = MemberState(member_id, session_of(member_id), settings)
        self._member_state.join(group, exclusive=exclusive)
        self._group = group
        self._sent = self._due = 0.0
        self.started: float | None = None
        """When it sent its first request, in seconds of ``clock``."""
        self.told_at = -math.inf
        """When it received its current epoch."""
        self.received_bytes = 0
        """Total pickled size of the replies with news."""

    def request(self, now: float) -> Request | ShortRequest:
        """Make the next request. A reply without news is due one interval later."""
        self.started = now if self.started is None else self.started
        self._due = now + self._member_state.interval
        return self._member_state.request(now)

    def take(self, reply: Reply | None, now: float, tally: Tally) -> None:
        """Process a reply that arrived at `now`, and count it."""
        if reply is None:
            return
        tally.heartbeats += 1
        if reply["groups"]:
            self.received_bytes += len(pickle.dumps(reply, protocol=5))
        elif not reply["resync"]:
            tally.lateness.append(max(0.0, now - self._due))
        before = self.epoch
        for change in self._member_state.receive(reply) or ():
            tally.rejoined += change.rejoined
            if change.after is not None:
                self._member_state.acknowledge(change.group, change.after.epoch)
        if self.epoch != before:
            self.told_at = now

    @property
    def epoch(self) -> tuple[int, int] | None:
        view = self._member_state.view(self._group)
        return None if view is None else view.epoch

    @property
    def size(self) -> int:
        """The number of members in its view; 0 before it has one."""
        view = self._member_state.view(self._group)
        return 0 if view is None else len(view.members)


class Host:
    """A Ray actor that hosts many members."""

    def __init__(self, handle: Any, names: list[tuple[str, str]], settings: dict[str, Any], exclusive: bool) -> None:
        known = Settings.from_dict(settings)
        self._handle = handle
        self._members = [Member(*name, exclusive=exclusive, settings=known) for name in names]
        self._tally = Tally()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, over: float) -> None:
        """Let the members join one after another, evenly spread over `over` seconds."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for at, member in enumerate(self._members):
            wait = start + over * at / len(self._members) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            self._tasks.append(loop.create_task(self._live(member)))

    async def _live(self, member: Member) -> None:
        while True:
            request = member.request(clock.now())
            try:
                reply = await self._handle.sync.remote(request)
            except RayError as error:
                self._tally.errors.append(str(error).strip().rpartition("\n")[2])
                await asyncio.sleep(RETRY_AFTER)
                continue
            member.take(reply, clock.now(), self._tally)

    async def sizes(self) -> tuple[int, int]:
        """The smallest and the largest view of these members, in members."""
        sizes = [member.size for member in self._members]
        return min(sizes), max(sizes)

    async def told(self) -> list[tuple[float, int]]:
        """For each member, when it received its current epoch, and its bytes of news since the last call."""
        found = [(member.told_at, member.received_bytes) for member in self._members]
        for member in self._members:
            member.received_bytes = 0
        return found

    async def received_bytes(self) -> int:
        """Bytes of news to all members."""
        return sum(member.received_bytes for member in self._members)

    async def first_request(self) -> float:
        """When the first member asked to join."""
        return min(member.started for member in self._members if member.started is not None)

    async def tally(self) -> Tally:
        """What happened since the last call."""
        found, self._tally = self._tally, Tally()
        return found

    async def stop(self) -> None:
        """Let the members stop sending."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Crowd:
    """Simulated members of one partition actor, seen from the driver. `names` holds (member id, group) pairs."""

    def __init__(self, handle: Any, names: list[tuple[str, str]], settings: Settings, *, exclusive: bool = False):
        self.count = len(names)
        shares = [share for at in range(HOSTS) if (share := names[at::HOSTS])]
        kind = ray.remote(Host).options(num_cpus=0)
        self._hosts: list[Any] = [kind.remote(handle, share, settings.to_dict(), exclusive) for share in shares]
        self.ask("tally")

    def ask(self, method: str, *args: object) -> list[Any]:
        """Call a method of every host."""
        return list(ray.get([getattr(host, method).remote(*args) for host in self._hosts]))

    def start(self, over: float = 0.0) -> None:
        """Let all members join, over so many seconds; return when all have asked to."""
        self.ask("start", over)

    def wait_for_size(self, size: int) -> None:
        """Wait until every member's view has `size` members."""
        until = time.monotonic() + LIMIT
        while any(found != (size, size) for found in self.ask("sizes")):
            if time.monotonic() > until:
                raise SystemExit(f"not all of {self.count} members know of {size} after {LIMIT} s")
            time.sleep(0.2)  # so that polling does not compete with what is measured

    def wait_until_quiet(self) -> None:
        """Wait until no member has had news for a second: a hand-off continues after all know of the change."""
        before = -1
        while before != (before := sum(self.ask("received_bytes"))):
            time.sleep(1.0)

    def told(self) -> tuple[float, list[int]]:
        """When the last member received the latest epoch, and the bytes of news to each member since the last call."""
        found = [each for host in self.ask("told") for each in host]
        return max(at for at, _ in found), [size for _, size in found]

    def tally(self) -> Tally:
        """What happened since the last call, to all members together."""
        tallies: list[Tally] = self.ask("tally")
        return Tally(
            sum(tally.heartbeats for tally in tallies),
            [seconds for tally in tallies for seconds in tally.lateness],
            sum(tally.rejoined for tally in tallies),
            [error for tally in tallies for error in tally.errors],
        )

    def first_request(self) -> float:
        """When the first member asked to join, in seconds of ``clock``."""
        return float(min(self.ask("first_request")))

    def end(self) -> None:
        """Kill the hosts."""
        self.ask("stop")
        for host in self._hosts:
            ray.kill(host)


class Guest:
    """One more member, in this process, that joins and leaves."""

    def __init__(self, handle: Any, member_id: str, group: str, *, exclusive: bool = False) -> None:
        self._handle, self._id, self._group = handle, member_id, group
        self._member = Member(member_id, group, exclusive=exclusive, settings=Settings())

    def join(self) -> tuple[float, int, int]:
        """Join; returns when it asked, the counter of its first epoch, and the bytes of that view without laggards."""
        start = clock.now()
        while True:
            reply = ray.get(self._handle.sync.remote(self._member.request(clock.now())), timeout=LIMIT)
            self._member.take(reply, clock.now(), Tally())
            if self._member.size:
                view = {**reply["groups"][self._group]["view"], "laggards": [], "rings": []}
                return start, view["epoch"][1], len(pickle.dumps(view, protocol=5))

    def leave(self) -> None:
        ray.get(self._handle.close_session.remote(self._id, session_of(self._id)), timeout=LIMIT)


@contextmanager
def deployed_for(members: int) -> Iterator[tuple[Any, str, Settings]]:
    """A partition actor with room for so many members: its handle, its name and its settings.

    The name is new, because a second partition actor under a name waits for the members of the first (rule 7).
    """
    name, settings = f"benchmark-{time.monotonic_ns()}", settings_for(members)
    yield partition_actor.deploy(name, settings=settings), name, settings
    partition_actor.shutdown(name, force=True)


def groups_of(count: int, size: int) -> list[tuple[str, str]]:
    """`count` members in groups of `size`, as (member id, group) pairs."""
    return [(f"member-{at}", f"group-{at // size}") for at in range(count)]
