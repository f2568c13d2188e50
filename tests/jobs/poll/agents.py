"""Agents for tests without Ray: real ones in this process, in groups that a test changes by hand."""

import asyncio
import itertools
import zlib
from collections import Counter, defaultdict

from ray.exceptions import RayActorError

from jobs.driver.machine import Measured, Reading
from jobs.poll.agent import Agent

GROUP = "g"


class Groups:
    """What the partition actor would know."""

    def __init__(self):
        self.members = defaultdict(set)
        self.epochs = Counter()

    def change(self, group, member_id, joins):
        (self.members[group].add if joins else self.members[group].discard)(member_id)
        self.epochs[group] += 1

    def owner(self, group, key):
        members = sorted(self.members[group])
        return members[zlib.crc32(key.encode()) % len(members)] if members else None


class Coordinator:
    """A member's side; ``late`` is the number of looks at its epoch for which its view is an old one, without keys."""

    def __init__(self, my_id, groups):
        self.my_id, self.groups, self.late = my_id, groups, 0

    def join_group(self, group, metadata=None):
        self.groups.change(group, self.my_id, joins=True)

    def epoch(self, group):
        if self.late:
            self.late -= 1
            return (1, 0)
        return (1, self.groups.epochs[group])

    def members(self, group):
        return sorted(self.groups.members[group])

    def owner(self, group, key):
        return self.groups.owner(group, key)

    def extract_my_subset(self, group, keys):
        return [key for key in keys if self.owner(group, key) == self.my_id]

    async def aextract_my_subset(self, group, keys):
        return self.extract_my_subset(group, keys)


class Process:
    """An agent's process, and a handle to it as Ray's."""

    pids = itertools.count(1000)

    def __init__(self, groups, member_id, node):
        self.pid, self.node, self.member_id = next(self.pids), node, member_id
        self.groups = groups
        self.coordinator = Coordinator(member_id, groups)
        self.agent = Agent(self.coordinator, GROUP, "", 5.0, node=node)
        self.coordinator.join_group(GROUP)
        self.end = asyncio.Event()
        self.hangs = False

    def kill(self):
        if self.end.is_set():
            return
        self.end.set()
        for group in (GROUP, f"{GROUP}@{self.node}"):
            self.groups.change(group, self.member_id, joins=False)

    async def alive(self, work):
        """The result of the work, unless the process dies before; nothing comes back while it hangs."""
        ended = asyncio.create_task(self.end.wait())
        work = asyncio.ensure_future(work)
        await asyncio.wait([ended, work], return_when=asyncio.FIRST_COMPLETED)
        if self.hangs:
            await ended
        if self.end.is_set():
            work.cancel()
            raise RayActorError
        ended.cancel()
        return await work

    def __getattr__(self, name):
        return Method(self, name)


class Method:
    def __init__(self, process, name):
        self.process, self.name = process, name

    def options(self, **options):
        assert options == {"num_returns": "streaming"}
        return self

    def remote(self, *arguments):
        return self.stream(*arguments) if self.name == "poll" else self.call(*arguments)

    async def call(self, *arguments):
        if self.name == "die":
            self.process.kill()
            raise RayActorError
        reply = await self.process.alive(getattr(self.process.agent, self.name)(*arguments))
        return reply._replace(pid=self.process.pid) if hasattr(reply, "pid") else reply

    async def stream(self, *arguments):
        batches = self.process.agent.poll(*arguments)
        try:
            while True:
                batch = await self.process.alive(anext(batches))
                yield asyncio.sleep(0, batch)
        except StopAsyncIteration:
            return


class Fleet:
    """The workers of one run on these nodes, each in a slot."""

    def __init__(self, groups, run, nodes):
        self.groups, self.run = groups, run
        self.processes = {}
        for slot, node in enumerate(nodes):
            self.begin(slot, node)

    def begin(self, slot, node):
        self.processes[slot] = Process(self.groups, f"{self.run}/{slot}", node)

    def workers(self):
        return {slot: process for slot, process in self.processes.items() if not process.end.is_set()}


def measured(resource):
    """What a poll of any resource gives here."""
    return Measured([Reading(f"{resource.partition(':')[0]}.up", "gauge", "bool", 1)], {"of": resource})
