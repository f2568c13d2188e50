"""The cycles: join Ray, deploy the coordinator, start agents, poll, kill, replace, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayActorError, RayTaskError

import partition_actor
from partition_actor.errors import CoordinatorNotFound
from polling.config import PollConfig
from polling.display import Display
from polling.fleet import AgentError, Fleet, Kill
from polling.joining import join
from polling.report import Report, read_report
from polling.resources import discover
from polling.store import write_roster

# Seconds between looks at how far the agents are.
_LOOK = 0.1


@dataclass(frozen=True)
class Outcome:
    """What a run showed: its dataset's report and what was done to the agents."""

    report: Report
    kill_cycle: int | None
    kills: list[Kill]
    lost: list[str]

    @property
    def excused(self) -> frozenset[int]:
        """The two cycles around a kill, which may have gaps and duplicates."""
        return frozenset() if self.kill_cycle is None else frozenset({self.kill_cycle, self.kill_cycle + 1})

    @property
    def good(self) -> bool:
        """No gap and no duplicate outside the excused cycles, and every kill was made good."""
        return not self.report.faulty_cycles(self.excused) and all(
            kill.covered_after is not None for kill in self.kills
        )


def run(config: PollConfig, address: str, directory: Path, display: Display) -> Outcome:
    """Polls for ``config.cycles`` cycles.

    Args:
        config: what to do.
        address: of the Ray cluster to join; ``local`` starts one for this run.
        directory: where the samples go; a new one.
        display: what the user sees.

    Raises:
        InputError: no cluster is at the address.
        AgentError: agents could not be started or do not find together, or one could not write its samples.
        PartitionError: the coordinator could not be deployed.
    """
    with _joined(address), _coordinator(config):
        fleet = Fleet(config, directory.name, str(directory))
        try:
            kills = _poll_all(config, fleet, directory, display)
        finally:
            display.close()
            fleet.stop()
    return Outcome(read_report(directory), config.kill_cycle, kills, fleet.lost)


def _poll_all(config: PollConfig, fleet: Fleet, directory: Path, display: Display) -> list[Kill]:
    display.say(f"starting {config.agents} agents")
    fleet.fill()
    kills: list[Kill] = []
    due = time.monotonic()
    for cycle in range(1, config.cycles + 1):
        time.sleep(max(0.0, due - time.monotonic()))
        fleet.settle()
        due = time.monotonic() + config.interval
        kills += _Cycle(cycle, config, fleet, directory, display).run()
    return kills


class _Cycle:
    def __init__(self, number: int, config: PollConfig, fleet: Fleet, directory: Path, display: Display) -> None:
        self._number = number
        self._config = config
        self._fleet = fleet
        self._directory = directory
        self._display = display
        self._victims = list(fleet.members)[: config.kill] if number == config.kill_cycle else []

    def run(self) -> list[Kill]:
        resources = discover(self._config.targets)
        self._display.begin(self._number, len(resources))
        shared = ray.put(resources)
        running = {m.handle.poll.remote(self._number, shared): m.name for m in self._fleet.members.values()}
        kills: list[Kill] = []
        deadline = time.monotonic() + self._config.limit
        while running and time.monotonic() < deadline:
            self._collect(running)
            if self._victims and self._fleet.half_way(self._number, self._victims):
                kills = self._kill(resources)
        for name in running.values():
            self._lose(name, f"has not ended its cycle within {self._config.limit:g} s")
        write_roster(self._directory, self._number, resources, discover(self._config.targets))
        self._display.end(self._number, len(resources))
        return kills

    def _collect(self, running: dict[ray.ObjectRef[int], str]) -> None:
        ended, _ = ray.wait(list(running), num_returns=len(running), timeout=_LOOK)
        for call in ended:
            name = running.pop(call)
            try:
                ray.get(call)
            except RayActorError:
                self._lose(name, "died")
            except RayTaskError as error:
                raise AgentError(f"{name} failed in cycle {self._number}: {error.cause!r}") from None
        progress = self._fleet.ask("progress").values()
        self._display.advance(sum(p.done for p in progress if p.cycle == self._number))

    def _lose(self, name: str, why: str) -> None:
        if name in self._fleet.members:
            self._display.say(f"{name} {why} in cycle {self._number}; another takes its place")
            self._fleet.lose(name)

    def _kill(self, resources: list[str]) -> list[Kill]:
        kills = self._fleet.kill(self._victims, resources)
        self._victims = []
        for kill in kills:
            self._display.say(f"{kill.agent} (pid {kill.pid}) got SIGKILL in cycle {self._number}")
        self._display.say(f"{', '.join(self._fleet.fill())} started in its place")
        return kills


@contextmanager
def _joined(address: str) -> Iterator[None]:
    join(address)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _coordinator(config: PollConfig) -> Iterator[None]:
    name, namespace = config.name, config.namespace
    try:
        partition_actor.connect(name=name, namespace=namespace)
        found = True
    except CoordinatorNotFound:
        found = False
    handle = partition_actor.deploy(name=name, namespace=namespace)
    try:
        yield
    finally:
        # One that was there is somebody's; one that is ours may have become somebody's meanwhile.
        if not found and not any(
            ray.get(handle.get_members.remote(group)) for group in ray.get(handle.get_groups.remote())
        ):
            partition_actor.shutdown(name=name, namespace=namespace)
