"""The agents as the driver sees them: start them, wait until they agree, kill some, replace them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from jobs.driver.cluster import on_this_node
from jobs.driver.processes import send_signal
from jobs.poll.agent import Agent, AgentSpec, Progress, View
from jobs.poll.config import PollConfig
from jobs.poll.report import Kill

# Seconds. Generous, because a busy machine is slow to start processes.
_START_LIMIT = 120.0
_ANSWER_LIMIT = 10.0
_AGREE_LIMIT = 60.0
_COVER_LIMIT = 60.0


class AgentError(Exception):
    """The agents cannot be run; the message is one line for the user."""


@dataclass(frozen=True)
class Member:
    """A running agent."""

    name: str
    member_id: str
    pid: int
    handle: Any


class Fleet:
    """The live agents of a run; normally ``config.agents`` of them."""

    def __init__(self, config: PollConfig, run_id: str, directory: str, say: Callable[[str], None]) -> None:
        self.group = f"pollers-{run_id}"
        self.members: dict[str, Member] = {}
        self.lost: list[str] = []  # agents that died or hung, but were not killed on purpose
        self._config = config
        self._run_id = run_id
        self._directory = directory
        self._say = say
        self._born = 0
        self._starting: dict[AgentSpec, tuple[Any, ray.ObjectRef[int]]] = {}

    def launch(self) -> list[str]:
        """Start as many agents as are missing and return their names; ``wait_until_agreed`` waits for them."""
        names = []
        while len(self.members) + len(self._starting) < self._config.agents:
            self._born += 1
            spec = self._spec(f"agent-{self._born}")
            handle = on_this_node(Agent).remote(spec)
            self._starting[spec] = (handle, handle.start.remote())
            names.append(spec.name)
        return names

    def ask(self, method: str, *args: Any, limit: float = _ANSWER_LIMIT) -> dict[str, Any]:
        """Call a method of all agents at once; return the replies in time by agent name.

        Agents found dead are removed as in ``lose``.
        """
        calls = {getattr(m.handle, method).remote(*args): m for m in self.members.values()}
        if not calls:
            return {}
        answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=limit)
        replies = {}
        for call in answered:
            try:
                replies[calls[call].name] = ray.get(call)
            except RayActorError:
                self.lose(calls[call].name, "died")
        return replies

    def lose(self, name: str, why: str) -> None:
        """Remove an agent that died or hangs, make sure that it is dead, and tell the user why."""
        member = self.members.pop(name, None)
        if member is not None:
            self.lost.append(name)
            self._say(f"{name} {why}; another takes its place")
            ray.kill(member.handle)

    def wait_until_agreed(self) -> None:
        """Wait until ``config.agents`` agents are live and hold one epoch in which they are the members.

        In a group that is not exclusive each member follows its newest view at once. While views differ, two agents
        may own a resource, or none.

        Raises:
            AgentError: the limit passed first, or a missing agent did not start.
        """
        self.launch()
        self._admit()
        deadline = time.monotonic() + _AGREE_LIMIT
        agreed: list[bool] = []
        while time.monotonic() < deadline:
            views: Iterable[View] = self.ask("view").values()
            wanted = sorted(member.member_id for member in self.members.values())
            agreed = [sorted(view.members) == wanted for view in views]
            if sum(agreed) == self._config.agents and len({view.epoch for view in views}) == 1:
                return
            self.launch()
            self._admit()
            time.sleep(0.02)
        raise AgentError(
            f"the {self._config.agents} agents did not reach one view of group {self.group} within "
            f"{_AGREE_LIMIT:g} s; {sum(agreed)} of them see all members"
        )

    def progress(self, cycle: int) -> dict[str, Progress]:
        """Return the progress of the agents that have begun this cycle."""
        replies: dict[str, Progress] = self.ask("progress", limit=1.0)
        return {name: progress for name, progress in replies.items() if progress.cycle == cycle}

    def half_way(self, cycle: int, names: Collection[str]) -> bool:
        """Return whether each of these agents has polled half of its resources in this cycle."""
        progress = self.progress(cycle)
        return all(name not in self.members or (name in progress and _half_done(progress[name])) for name in names)

    def kill(self, names: Collection[str], resources: Collection[str]) -> list[Kill]:
        """SIGKILL these agents' processes and wait until the others' subsets cover the resources."""
        killed = {}
        for name in names:
            if (member := self.members.pop(name, None)) is not None:
                killed[member] = time.monotonic()
                send_signal(member.pid, signal.SIGKILL)
        covered = self._wait_for_cover(resources)
        return [
            Kill(member.name, member.pid, None if covered is None else covered - at) for member, at in killed.items()
        ]

    def stop(self) -> None:
        """Let all agents leave the group, and end them."""
        self.ask("stop")
        for handle in [*(m.handle for m in self.members.values()), *(h for h, _ in self._starting.values())]:
            ray.kill(handle)
        self.members.clear()
        self._starting.clear()

    def _admit(self) -> None:
        for spec, (handle, started) in self._starting.items():
            try:
                pid = ray.get(started, timeout=_START_LIMIT)
            except (RayActorError, GetTimeoutError) as error:
                reason = str(error).strip().rpartition("\n")[2]
                raise AgentError(f"{spec.name} did not start: {reason}") from None
            self.members[spec.name] = Member(spec.name, spec.member_id, pid, handle)
        self._starting.clear()

    def _wait_for_cover(self, resources: Collection[str]) -> float | None:
        shared = ray.put(list(resources))
        deadline = time.monotonic() + _COVER_LIMIT
        while time.monotonic() < deadline:
            subsets = self.ask("subset", shared)
            if set().union(*subsets.values()).issuperset(resources):
                return time.monotonic()
        return None

    def _spec(self, name: str) -> AgentSpec:
        return AgentSpec(
            name=name,
            member_id=f"{self._run_id}/{name}",
            group=self.group,
            actor=self._config.name,
            namespace=self._config.namespace,
            directory=self._directory,
            spread=self._config.spread,
            timeout=self._config.timeout,
        )


def _half_done(progress: Progress) -> bool:
    return progress.done * 2 >= progress.total
