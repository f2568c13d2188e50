"""One run: join Ray, deploy the partition actor, start agents, poll in cycles, kill and replace agents, report."""

from __future__ import annotations

import time
from pathlib import Path

import ray
from ray.exceptions import RayActorError, RayTaskError

from jobs.driver.cluster import deployed, joined
from jobs.poll.config import PollConfig
from jobs.poll.display import Display
from jobs.poll.fleet import AgentError, Fleet
from jobs.poll.report import Kill, Outcome, read_report
from jobs.poll.resources import discover
from jobs.poll.store import write_roster

# Seconds between checks of the agents' progress.
_LOOK = 0.1


def run(config: PollConfig, address: str, directory: Path, display: Display) -> Outcome:
    """Poll for ``config.cycles`` cycles.

    Args:
        config: the settings.
        address: of the Ray cluster to join; ``local`` starts one for this run.
        directory: the run's, new and empty.
        display: shows the progress.

    Raises:
        InputError: no cluster can be joined at the address.
        AgentError: agents could not be started or did not agree on a view, or one could not write its samples.
        PartitionError: the partition actor could not be deployed.
    """
    with joined(address), deployed(config.name, config.namespace):
        fleet = Fleet(config, directory.name, str(directory), display.say)
        try:
            kills = _poll_all(config, fleet, directory, display)
        finally:
            display.close()
            fleet.stop()
    return Outcome(read_report(directory), config.kill_cycle, kills, fleet.lost)


def _poll_all(config: PollConfig, fleet: Fleet, directory: Path, display: Display) -> list[Kill]:
    display.say(f"starting {config.agents} agents")
    kills: list[Kill] = []
    due = time.monotonic()
    for cycle in range(1, config.cycles + 1):
        time.sleep(max(0.0, due - time.monotonic()))
        fleet.wait_until_agreed()
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
            self._fleet.lose(name, f"has not ended its cycle within {self._config.limit:g} s")
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
                self._fleet.lose(name, "died")
            except RayTaskError as error:
                raise AgentError(f"{name} failed in cycle {self._number}: {error.cause!r}") from None
        self._display.advance(sum(p.done for p in self._fleet.progress(self._number).values()))

    def _kill(self, resources: list[str]) -> list[Kill]:
        kills = self._fleet.kill(self._victims, resources)
        self._victims = []
        for kill in kills:
            self._display.say(f"{kill.agent} (pid {kill.pid}) got SIGKILL in cycle {self._number}")
        started = self._fleet.launch()
        self._display.say(f"{', '.join(started)} start{'s' if len(started) == 1 else ''} instead")
        return kills
