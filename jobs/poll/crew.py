"""The agents as the driver sees them: ask them, wait until they agree, notice who died."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayActorError, RayTaskError

from jobs.poll.agent import Agent, Batch, View, agent_name
from jobs.poll.config import Source
from partition_actor.errors import PartitionError

# Seconds. Generous, because a busy machine is slow to start processes.
_ANSWER_LIMIT = 10.0
_AGREE_LIMIT = 60.0
_COVER_LIMIT = 60.0


Survey = dict[str, str | None]
"""What there is to poll, with its owner's member id."""


class AgentError(Exception):
    """The agents cannot be run; the message is one line for the user."""


class Member(NamedTuple):
    """An agent that holds the same view as the others."""

    name: str
    agent: Any  # an Agent, or one in another process
    view: View


class RemoteAgent:
    """An ``Agent`` in another process: the same methods."""

    def __init__(self, handle: Any) -> None:
        """Take the actor's handle."""
        self.handle = handle

    def __getattr__(self, method: str) -> Any:
        return getattr(self.handle, method).remote

    async def poll(self, *arguments: Any) -> AsyncIterator[Batch]:
        """As ``Agent.poll``."""
        async for batch in self.handle.poll.options(num_returns="streaming").remote(*arguments):
            yield await batch


async def ask(agents: Mapping[str, Any], method: str, *arguments: Any, limit: float = _ANSWER_LIMIT) -> dict[str, Any]:
    """Call a method of all agents at once; return the replies that come in time, by agent."""

    async def call(agent: Any) -> Any:
        return await getattr(agent, method)(*arguments)

    calls = {name: asyncio.create_task(call(agent)) for name, agent in agents.items()}
    if calls:
        await asyncio.wait(calls.values(), timeout=limit)
    replies = {}
    for name, task in calls.items():
        if not task.done():
            task.cancel()
            continue
        with suppress(RayActorError):
            try:
                replies[name] = task.result()
            except RayTaskError as error:
                if not isinstance(error.cause, PartitionError):  # which it raises while it is being drained
                    raise AgentError(f"{name} failed: {error.cause!r}") from None
    return replies


class Crew:
    """The agents of a run: those of a ``Fleet``, or a single one in this process."""

    def __init__(self, prefix: str, fleet: Any, say: Callable[[str], None]) -> None:
        """Take the agents.

        Args:
            prefix: what the agents' member ids begin with.
            fleet: a started ``partition_actor.Fleet`` of ``Agent``, or an ``Agent``.
            say: tells the user.
        """
        self.prefix = prefix
        self.lost: list[str] = []  # agents that died or hung, but were not killed on purpose
        self._fleet = fleet
        self._say = say
        self._pids: dict[str, int] = {}
        self._gone: set[str] = set()  # they have not been replaced yet

    def agents(self) -> dict[str, Any]:
        """Return the agents that serve, by name."""
        if isinstance(self._fleet, Agent):
            return {agent_name(self._fleet.member_id): self._fleet}
        return {agent_name(str(slot)): RemoteAgent(handle) for slot, handle in self._fleet.workers().items()}

    def owns(self, owner: str | None) -> bool:
        """Return whether a resource of this owner is this run's; one that has no owner is, too."""
        return owner is None or owner.startswith(self.prefix)

    async def share(self, source: Source, listed: list[str]) -> tuple[dict[str, Member], Survey]:
        """Let all agents take their shares of a source's resources, in one epoch; return them and what there is.

        In a group that is not exclusive each member follows its newest view at once. While views differ, two agents
        may own a resource, or none. After a minute an agent that does not answer is replaced, and the others go on.

        Raises:
            AgentError: no agent answers.
        """
        until = time.monotonic() + _AGREE_LIMIT
        while True:
            agents = await asyncio.to_thread(self.agents)
            views: dict[str, View] = await ask(agents, "view")
            members = {name: Member(name, agents[name], view) for name, view in sorted(views.items(), key=_by_length)}
            survey = await self.survey(source, listed, members.values())
            views = await ask(agents, "share", source, listed)
            late = time.monotonic() > until
            if views and (late or self._agree(agents, views)):
                break
            if late:
                raise AgentError(f"no agent answers within {_AGREE_LIMIT:g} s")
            await asyncio.sleep(0.02)
        for name in agents.keys() - views.keys():
            self.lose(name, "does not answer", agents[name])
        for name in self._pids.keys() - agents.keys():
            self.lose(name, "is gone", None)
        for name in views:
            self._notice(name, views[name].pid)
        return {name: member for name, member in members.items() if name in views}, survey

    async def survey(self, source: Source, listed: list[str], members: Iterable[Member]) -> Survey:
        """Return what there is to poll: an agent of each node looks there, and any one for what is remote."""

        async def first(of: list[Member], remote: bool) -> Survey:
            for member in of:
                if reply := await ask({member.name: member.agent}, "survey", source, listed, remote):
                    found: Survey = reply[member.name]
                    return found
            return {}

        nodes: defaultdict[str, list[Member]] = defaultdict(list)
        for member in members:
            nodes[member.view.node].append(member)
        asked = [first(list(members), True), *(first(there, False) for there in nodes.values())]
        return {resource: owner for part in await asyncio.gather(*asked) for resource, owner in part.items()}

    def _agree(self, agents: Mapping[str, Any], views: Mapping[str, View]) -> bool:
        """Return whether all agents hold one epoch, in which they and no other agents of this run are members."""
        if isinstance(self._fleet, Agent):
            return True
        held = defaultdict(set)  # "" or a node -> (epoch, this run's agents in it)
        there = defaultdict(set)  # "" or a node -> its agents
        for name, view in views.items():
            for group, epoch, members in zip(("", view.node), view.epochs, view.members, strict=True):
                ours = frozenset(agent_name(member) for member in members if self.owns(member))
                held[group].add((epoch, ours))
                there[group].add(name)
        return len(views) == len(agents) and all(
            {names for _, names in held[group]} == {frozenset(names)} and len(held[group]) == 1
            for group, names in there.items()
        )

    def _notice(self, name: str, pid: int) -> None:
        known = self._pids.get(name, pid)
        self._pids[name] = pid
        if known != pid:
            if name not in self._gone:
                self.lost.append(name)
            self._gone.discard(name)
            self._say(f"{name} is replaced: pid {known} is dead, pid {pid} has its place")

    def lose(self, name: str, why: str, agent: Any) -> None:
        """Note that an agent died or hangs, make sure that it is dead, and tell the user why."""
        if name not in self._gone:
            self.lost.append(name)
            self._gone.add(name)
            self._say(f"{name} {why}")
        if isinstance(agent, RemoteAgent):
            ray.kill(agent.handle)

    async def kill(self, victims: Collection[Member], resources: Collection[str]) -> float | None:
        """SIGKILL these agents' processes; return the seconds until the others' shares cover the resources.

        None: they do not within a minute.
        """
        self._gone.update(victim.name for victim in victims)
        at = time.monotonic()
        await ask({victim.name: victim.agent for victim in victims}, "die")
        handles = {victim.agent.handle for victim in victims}
        while time.monotonic() < at + _COVER_LIMIT:
            agents = await asyncio.to_thread(self.agents)
            survivors = {name: each for name, each in agents.items() if each.handle not in handles}
            owned = await ask(survivors, "owned", list(resources))
            if set().union(*owned.values()).issuperset(resources):
                return time.monotonic() - at
        return None


def _by_length(item: tuple[str, object]) -> tuple[int, str]:
    return len(item[0]), item[0]  # agent-2 before agent-10
