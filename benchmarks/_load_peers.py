"""The peers of ``load.py``: an empty async Ray method with as many callers, and tooz with redis doing the same work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from typing import Any

import psutil
import ray
from _members import HOSTS
from _processes import processor_seconds
from _services import REDIS, running

JITTER = 0.9
"""A caller waits for a random time from this fraction of the interval to the whole, as a held heartbeat does."""
THREADS = 8
"""Threads of a host that share its tooz members: each call blocks its thread."""


class Empty:
    """An async actor whose methods do nothing."""

    async def pid(self) -> int:
        return os.getpid()

    async def empty(self) -> None:
        return None

    async def held(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Callers:
    """A Ray actor that hosts many callers of an ``Empty``, each with one call per interval."""

    def __init__(self, actor: Any, count: int, interval: float, held: bool) -> None:
        self._actor, self._count, self._interval, self._held = actor, count, interval, held
        self._calls = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the callers, evenly spread over one interval."""
        self._tasks = [asyncio.create_task(self._call(at / self._count)) for at in range(self._count)]

    async def _call(self, part: float) -> None:
        await asyncio.sleep(part * self._interval)
        while True:
            pause = self._interval * random.uniform(JITTER, 1.0)
            if self._held:
                await self._actor.held.remote(pause)
            else:
                await asyncio.sleep(pause)
                await self._actor.empty.remote()
            self._calls += 1

    async def calls(self) -> int:
        """Calls answered so far."""
        return self._calls


def empty_calls(count: int, interval: float, seconds: float, *, held: bool) -> dict[str, Any]:
    """CPU seconds of an actor's process per call of an empty async method.

    If `held`, the method waits for the interval, as a heartbeat does; otherwise the callers wait.
    """
    actor: Any = ray.remote(Empty).options(num_cpus=0, max_concurrency=2 * count + 100).remote()
    pid = ray.get(actor.pid.remote())
    shares = [len(range(at, count, HOSTS)) for at in range(HOSTS)]
    kind = ray.remote(Callers).options(num_cpus=0)
    hosts: list[Any] = [kind.remote(actor, share, interval, held) for share in shares if share]
    ray.get([host.start.remote() for host in hosts])
    time.sleep(interval)
    calls, taken, started = sum(ray.get([host.calls.remote() for host in hosts])), processor_seconds([pid]), time.time()
    time.sleep(seconds)
    calls = sum(ray.get([host.calls.remote() for host in hosts])) - calls
    taken, passed = processor_seconds([pid]) - taken, time.time() - started
    for host in [*hosts, actor]:
        ray.kill(host)
    return {"held": held, "calls_per_second": calls / passed, "seconds_per_call": taken / calls}


class ToozMembers:
    """A Ray actor that hosts many tooz members; THREADS threads do their duties in turn."""

    def __init__(self, url: str, names: list[tuple[str, str]], interval: float) -> None:
        from tooz import coordination

        self._interval = interval
        self._duties = 0
        self._error = ""
        self._members: list[tuple[Any, bytes]] = []
        for name, group in names:
            member = coordination.get_coordinator(url, name.encode())
            member.start()
            with contextlib.suppress(coordination.GroupAlreadyExist):
                member.create_group(group.encode()).get()
            member.join_group(group.encode()).get()
            self._members.append((member, group.encode()))

    def start(self) -> None:
        for at in range(THREADS):
            threading.Thread(target=self._work, args=(self._members[at::THREADS],), daemon=True).start()

    def _work(self, members: list[tuple[Any, bytes]]) -> None:
        try:
            due = time.monotonic()
            while True:
                for member, group in members:
                    due += self._interval / len(members)
                    time.sleep(max(0.0, due - time.monotonic()))
                    member.heartbeat()
                    member.get_members(group).get()
                    self._duties += 1
        except Exception as error:
            self._error = repr(error)

    def state(self) -> tuple[int, float, str]:
        """Duties done so far, CPU seconds of this process, and the error that ended a thread."""
        return self._duties, time.process_time(), self._error


def tooz_duty(names: list[tuple[str, str]], interval: float, ttl: float, seconds: float) -> dict[str, Any] | str:
    """CPU of redis-server and of its clients for one heartbeat and one look at the group; or why it was left out.

    A lease lasts `ttl - interval` and its end is seen at the next look, so a crash is known to all within `ttl`, as
    with this library's heartbeats.
    """
    missing = REDIS.missing()
    if missing:
        return f"redis: {missing}"
    with running(REDIS, {}) as address:
        pid = next(each.pid for each in psutil.Process().children() if each.name() == "redis-server")
        url = f"redis://{address}?membership_timeout={ttl - interval}"
        kind = ray.remote(ToozMembers).options(num_cpus=0)
        shares = [share for at in range(HOSTS) if (share := names[at::HOSTS])]
        hosts: list[Any] = [kind.remote(url, share, interval) for share in shares]
        ray.get([host.start.remote() for host in hosts])
        time.sleep(interval)
        before, taken, started = states(hosts), processor_seconds([pid]), time.time()
        time.sleep(seconds)
        after, passed = states(hosts), time.time() - started
        taken = processor_seconds([pid]) - taken
        for host in hosts:
            ray.kill(host)
    duties = sum(state[0] for state in after) - sum(state[0] for state in before)
    clients = sum(state[1] for state in after) - sum(state[1] for state in before)
    return {
        "members": len(names),
        "wanted_per_second": len(names) / interval,
        "duties_per_second": duties / passed,
        "server_seconds_per_duty": taken / duties,
        "client_seconds_per_duty": clients / duties,
        "errors": sorted({state[2] for state in after if state[2]}),
    }


def states(hosts: list[Any]) -> list[tuple[int, float, str]]:
    return list(ray.get([host.state.remote() for host in hosts]))
