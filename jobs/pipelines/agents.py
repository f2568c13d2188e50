"""The agents as the driver sees them: a fleet on this node, what its agents report, and when it cannot go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.pipelines.agent import Agent, Figures
from jobs.pipelines.worker import Job
from partition_actor import Fleet

# Seconds. Generous, because a busy machine is slow to start processes.
_START_LIMIT = 120.0
_STOP_LIMIT = 20.0
# Seconds to wait for the agents' reports. One that is stopped does not answer.
_REPORT_LIMIT = 0.5


class AgentError(Exception):
    """The agents cannot be run; the message is one line for the user."""


class Agents:
    """The agents of a job, ``config.agents`` of them. The fleet replaces those that die."""

    def __init__(self, job: Job, say: Callable[[str], None]) -> None:
        run_id = f"{int(time.time())}-{os.getpid()}"
        shards, inputs = f"pipelines-{run_id}", f"inputs-{run_id}"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.figures: dict[int, Figures] = {}
        """The latest ones of each process, past ones included."""
        self._fleet = Fleet(
            shards,
            Agent,
            size=job.config.agents,
            exclusive=True,
            args=(job, shards, inputs),
            options={"scheduling_strategy": here},  # the driver sends them signals, and they share files
            actor=job.config.name,
            namespace=job.config.namespace,
            ready_timeout=_START_LIMIT,
            drain_timeout=_STOP_LIMIT,
        )
        self._say = say
        self._restarts: dict[int, int] = {}  # slot -> those that have been told
        self._failed = ""  # the latest one
        self._complete_at = 0.0

    def start(self) -> None:
        """Start all agents; the first ``look`` lets them begin.

        Raises:
            FleetNotReady: one does not start, whose reason is told; or they do not all join.
        """
        self._fleet.start()
        self._complete_at = time.monotonic()

    @property
    def serving(self) -> dict[str, int]:
        """The process id of each agent that is a member, by its name."""
        workers = self._fleet.status()["workers"]
        return {f"agent-{each['slot']}": each["pid"] for each in workers if each["phase"] == "serving"}

    def look(self) -> None:
        """Let new agents begin, collect the figures of all, and tell who has failed.

        Raises:
            AgentError: an agent reports that it cannot continue, or one is missing and does not start.
        """
        status = self._fleet.status()
        for each in status["workers"]:
            if each["restarts"] > self._restarts.get(each["slot"], 0):
                self._restarts[each["slot"]] = each["restarts"]
                self._failed = f"agent-{each['slot']} failed: {each['reason']}"
                self._say(f"{self._failed}; another takes its place")
        if status["ready"]:
            self._complete_at = time.monotonic()
        elif time.monotonic() > self._complete_at + _START_LIMIT:
            raise AgentError(f"an agent has been missing for {_START_LIMIT:g} s; {self._failed}")
        self._collect(_REPORT_LIMIT)
        for figures in self.figures.values():
            if figures.failure:
                raise AgentError(f"{figures.name} cannot go on: {figures.failure}")

    def stop(self) -> None:
        """Collect the last figures, let all agents finish and leave, and end them."""
        self._collect(_STOP_LIMIT)
        self._fleet.stop()

    def _collect(self, limit: float) -> None:
        calls = [handle.report.remote() for handle in self._fleet.workers().values()]
        for call in ray.wait(calls, num_returns=len(calls), timeout=limit)[0] if calls else []:
            with suppress(RayActorError):  # it has died: its last figures stay
                figures = ray.get(call)
                self.figures[figures.pid] = figures
