"""Members on several hosts that record when they hear of a death, and a bare Ray call beside; see `ray_hosts.Driver`.

python tests/hosts/death_driver.py
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import ray
from bed import address
from ray.exceptions import ActorDiedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_hosts import serve

import partition_actor
from partition_actor import GroupEvent, PartitionCoordinator, clock

GROUP, NAME, LIMIT = "workers", "deaths", 60.0


class Member:
    def __init__(self, member_id: str) -> None:
        self._heard: dict[str, float] = {}
        self._coordinator = PartitionCoordinator(member_id, NAME)
        self._coordinator.start()
        self._coordinator.watch_group(GROUP, self._on_change)
        self._coordinator.join_group(GROUP, exclusive=True)

    def pid(self) -> int:
        return os.getpid()

    def members(self) -> int:
        return len(self._coordinator.members(GROUP))

    def heard(self, member_id: str) -> float | None:
        """When it heard that a member has left."""
        return self._heard.get(member_id)

    def _on_change(self, event: GroupEvent) -> None:
        self._heard.update(dict.fromkeys(event.left, clock.now()))


class Bystander:
    """No member: kills those on its host, is killed, or holds what never comes."""

    def pid(self) -> int:
        return os.getpid()

    def kill(self, pid: int) -> float:
        """Kill a process of this host; returns when."""
        killed = clock.now()
        os.kill(pid, signal.SIGKILL)
        return killed

    async def never(self) -> None:
        await asyncio.get_running_loop().create_future()


def start(host: int, kind: type, *arguments: object) -> Any:
    """Start an actor on a host."""
    nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
    place = NodeAffinitySchedulingStrategy(nodes[address(host)], soft=False)
    return ray.remote(kind).options(num_cpus=0, scheduling_strategy=place).remote(*arguments)


def wait(actors: list[Any], method: str, *arguments: object, until: Any) -> list[Any]:
    """Call a method of all until `until` is true of every result."""
    stop = time.monotonic() + LIMIT
    while not all(map(until, found := ray.get([getattr(each, method).remote(*arguments) for each in actors]))):
        if time.monotonic() > stop:
            raise SystemExit(f"after {LIMIT} s {method}: {found}")
        time.sleep(0.1)  # so that asking does not compete with what is measured
    return found


class Deaths:
    def __init__(self, hosts: list[int]) -> None:
        partition_actor.deploy(NAME)
        self._survivors = [start(host, Member, f"on-{host}") for host in hosts]
        self._never = start(hosts[0], Bystander).never.remote()
        self._killer = start(hosts[-1], Bystander)
        self._victims = 0

    def wait_for_members(self) -> None:
        """Return when each member knows of all."""
        wait(self._survivors, "members", until=lambda members: members == len(self._survivors))

    def of_member(self, host: int) -> float:
        """Seconds from kill -9 of a member on a host until every other one has heard of it."""
        self._victims += 1
        name = f"victim-{self._victims}"
        victim = start(host, Member, name)
        pid = ray.get(victim.pid.remote())
        wait(self._survivors, "members", until=lambda members: members == len(self._survivors) + 1)
        time.sleep(0.5)  # let Ray finish the start
        killed = ray.get(self._killer.kill.remote(pid))
        return float(max(wait(self._survivors, "heard", name, until=bool)) - killed)

    def of_bare_actor(self, host: int) -> float:
        """Seconds from kill -9 of an actor on a host until a pending call to it, from here, fails."""
        victim = start(host, Bystander)
        pid = ray.get(victim.pid.remote())
        pending = victim.__ray_call__.remote(lambda _self, _never: None, self._never)
        time.sleep(0.5)
        killed = self._killer.kill.remote(pid)
        try:
            ray.get(pending, timeout=LIMIT)
        except ActorDiedError:
            heard = clock.now()
        return float(heard - ray.get(killed))

    def when_heard(self, member_id: str) -> float:
        """When the last member heard of the end of one; members on the head's host and the next one."""
        return float(max(wait(self._survivors[:2], "heard", member_id, until=bool)))


if __name__ == "__main__":
    serve(lambda: Deaths([0, 1, 2]))
