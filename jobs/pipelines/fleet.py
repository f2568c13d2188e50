"""The agents as the driver sees them: start, check, kill and stop them, and replace the dead."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from jobs.driver.cluster import on_this_node
from jobs.driver.processes import send_signal
from jobs.pipelines.agent import Agent, AgentSpec, Figures
from jobs.pipelines.worker import Job

# Seconds. Generous, because a busy machine is slow to start processes.
_START_LIMIT = 120.0
_STOP_LIMIT = 20.0
# Seconds between requests for an agent's figures.
_ASK = 0.5


class AgentError(Exception):
    """The agents cannot be run; the message is one line for the user."""


@dataclass
class Member:
    """A running agent."""

    name: str
    member_id: str
    handle: Any
    pid: int = 0
    stopped: bool = False
    figures: Figures = field(default_factory=Figures)
    asked: ray.ObjectRef[Any] | None = None


class Fleet:
    """The live agents of a job; normally ``config.agents`` of them."""

    def __init__(self, job: Job, run_id: str, say: Callable[[str], None]) -> None:
        self.shards, self.inputs = f"pipelines-{run_id}", f"inputs-{run_id}"
        self.members: dict[str, Member] = {}
        self.gone: list[Member] = []
        self._job = job
        self._run_id = run_id
        self._say = say
        self._born = 0
        self._asked = -_ASK
        self._starting: dict[ray.ObjectRef[int], Member] = {}

    def start(self) -> None:
        """Start all agents, and let them begin when all have joined.

        Raises:
            AgentError: one did not start.
        """
        self._launch()
        deadline = time.monotonic() + _START_LIMIT
        while self._starting:
            self._admit(max(0.0, deadline - time.monotonic()))
            if self._starting and time.monotonic() > deadline:
                raise AgentError(f"{next(iter(self._starting.values())).name} did not start in {_START_LIMIT:g} s")
        begun = [member.handle.begin.remote() for member in self.members.values()]
        ray.wait(begun, num_returns=len(begun))  # one that has died by now is replaced by look()

    def look(self) -> None:
        """Collect the agents' figures and replace the agents that died; do not wait.

        Raises:
            AgentError: an agent reports that it cannot continue, or one did not start.
        """
        for member in self._admit(0.0):
            member.handle.begin.remote()
        ask = time.monotonic() >= self._asked + _ASK
        if ask:
            self._asked = time.monotonic()
        for member in list(self.members.values()):
            if member.asked is None:
                if ask:
                    member.asked = member.handle.figures.remote()
            elif ray.wait([member.asked], timeout=0)[0]:
                self._take_in(member, member.asked)
        self._launch()

    def kill(self, name: str) -> None:
        """SIGKILL an agent's process; another agent will replace it."""
        send_signal(self.members[name].pid, signal.SIGKILL)
        self._lose(self.members[name])

    def halt(self, name: str) -> None:
        """Stop an agent's process until ``resume``."""
        self.members[name].stopped = True
        send_signal(self.members[name].pid, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a stopped agent continue."""
        member = self.members[name]
        if member.stopped:
            member.stopped = False
            send_signal(member.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Let all agents finish and leave, and end them."""
        for name in list(self.members):
            self.resume(name)
        self._last_figures()
        calls = [member.handle.stop.remote() for member in self.members.values()]
        if calls:
            ray.wait(calls, num_returns=len(calls), timeout=_STOP_LIMIT)
        for member in [*self.members.values(), *self._starting.values()]:
            ray.kill(member.handle)
        self.gone += self.members.values()
        self.members.clear()
        self._starting.clear()

    @property
    def figures(self) -> list[Figures]:
        """The latest figures of all agents, past ones included."""
        return [member.figures for member in [*self.gone, *self.members.values()]]

    @property
    def cpu(self) -> float:
        """CPU seconds that all agents have spent."""
        return sum(figures.cpu for figures in self.figures)

    def _launch(self) -> None:
        while len(self.members) + len(self._starting) < self._job.config.agents:
            self._born += 1
            name = f"agent-{self._born}"
            spec = AgentSpec(
                name=name,
                member_id=f"{self._run_id}/{name}",
                inputs=self.inputs,
                shards=self.shards,
                actor=self._job.config.name,
                namespace=self._job.config.namespace,
                job=self._job,
            )
            member = Member(name, spec.member_id, on_this_node(Agent).remote(spec))
            self._starting[member.handle.start.remote()] = member

    def _admit(self, limit: float) -> list[Member]:
        """Return the agents that have started; wait up to ``limit`` seconds for one."""
        started = ray.wait(list(self._starting), timeout=limit)[0] if self._starting else []
        admitted = []
        for call in started:
            member = self._starting.pop(call)
            try:
                member.pid = ray.get(call)
            except (RayActorError, GetTimeoutError) as error:
                raise AgentError(f"{member.name} did not start: {str(error).strip().rpartition(chr(10))[2]}") from None
            self.members[member.name] = member
            admitted.append(member)
        return admitted

    def _last_figures(self) -> None:
        calls = {member.handle.figures.remote(): member for member in self.members.values()}
        for call in ray.wait(list(calls), num_returns=len(calls), timeout=_STOP_LIMIT)[0] if calls else []:
            try:
                calls[call].figures = ray.get(call)
            except RayActorError:
                continue  # keep its last figures

    def _take_in(self, member: Member, asked: ray.ObjectRef[Any]) -> None:
        member.asked = None
        try:
            member.figures = ray.get(asked)
        except RayActorError:
            self._say(f"{member.name} died; another takes its place")
            self._lose(member)
            return
        if member.figures.failure:
            raise AgentError(f"{member.name} cannot go on: {member.figures.failure}")

    def _lose(self, member: Member) -> None:
        del self.members[member.name]
        self.gone.append(member)
