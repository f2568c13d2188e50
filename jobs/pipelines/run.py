"""A run with several agents: join Ray, deploy the partition actor, start agents, kill and stop some, report."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from jobs.driver.cluster import deployed, joined
from jobs.pipelines.display import Display, Outcome
from jobs.pipelines.fleet import Fleet
from jobs.pipelines.report import Cost, read_lines
from jobs.pipelines.single_agent import acknowledged_bytes, has_ended, set_corrupt_aside, total_bytes
from jobs.pipelines.worker import Job
from partition_actor import Settings

# Seconds between checks of the agents' progress.
_LOOK = 0.1
# Fractions of the input whose publication triggers the kills and the stops.
_KILL_AT, _STOP_AT = 0.25, 0.45
# Seconds from when a stopped agent is out of its group until it continues, so that others work on its keys.
_RESUME_AFTER = 0.5


def run(job: Job, address: str, display: Display) -> Outcome:
    """Run the job until its inputs end or it is interrupted.

    Args:
        job: the settings, inputs and directory.
        address: of the Ray cluster to join; ``local`` starts one for this run.
        display: shows the progress.

    Raises:
        InputError: no cluster can be joined at the address.
        AgentError: agents could not be started, or one cannot continue.
        PartitionError: the partition actor could not be deployed.
    """
    lease = job.config.lease
    settings = Settings(ttl=lease, hold=lease / 4, handoff_timeout=lease, node_proof_interval=min(1.0, lease / 4))
    with joined(address), deployed(job.config.name, job.config.namespace, settings) as handle:
        display.say(f"starting {job.config.agents} agents")
        fleet = Fleet(job, f"{int(time.time())}-{os.getpid()}", display.say)
        faults = _Faults(job, fleet, handle, display)
        before = _samples(job)
        try:
            fleet.start()
            began = time.monotonic()
            with _interruptible():
                _watch(job, fleet, faults, display)
        finally:
            display.close()
            fleet.stop()
            corrupt = set_corrupt_aside(job)
    return _outcome(job, fleet, Cost(_samples(job) - before, time.monotonic() - began, fleet.cpu), corrupt, faults.told)


def _watch(job: Job, fleet: Fleet, faults: _Faults, display: Display) -> None:
    total = total_bytes(job)
    display.start_bar(f"{job.config.agents} agents", total)
    while job.config.follow or not has_ended(job) or faults.pending:
        done = acknowledged_bytes(job)
        display.advance(done)
        if job.config.follow:
            set_corrupt_aside(job)
        fleet.look()
        faults.look(1.0 if total is None else done / max(total, 1))
        time.sleep(_LOOK)
    faults.close()


class _Faults:
    """Kills and stops agents during the run."""

    def __init__(self, job: Job, fleet: Fleet, actor: Any, display: Display) -> None:
        self.told: list[str] = []
        self._kills, self._stops = job.config.kill, job.config.stop
        self._fleet = fleet
        self._actor = actor
        self._display = display
        self._stopped: dict[str, float] = {}  # name -> since when
        self._out: dict[str, float] = {}  # name -> since when it is out of its group

    def close(self) -> None:
        """Report the faults that the run was too short for."""
        for number, what in ((self._kills, "get SIGKILL"), (self._stops, "be stopped")):
            if number:
                self._tell(f"{number} agents were to {what}, but the run ended first")

    @property
    def pending(self) -> bool:
        """Whether a stopped agent has yet to continue."""
        return bool(self._stopped)

    def look(self, done: float) -> None:
        """Do what is due when this fraction of the input is published."""
        names = [name for name in self._fleet.members if name not in self._stopped]
        if self._kills and done >= _KILL_AT:
            for name in names[: self._kills]:
                self._tell(f"{name} got SIGKILL when {done:.0%} was published")
                self._fleet.kill(name)
            self._kills = 0
        elif self._stops and done >= _STOP_AT:
            for name in names[: self._stops]:
                self._tell(f"{name} was stopped when {done:.0%} was published")
                self._fleet.halt(name)
                self._stopped[name] = time.monotonic()
            self._stops = 0
        for name, since in list(self._stopped.items()):
            if name not in self._fleet.members or self._has_been_out(name):
                self._tell(f"{name} continues after {time.monotonic() - since:.1f} s: others own its keys")
                del self._stopped[name]
                if name in self._fleet.members:
                    self._fleet.resume(name)

    def _has_been_out(self, name: str) -> bool:
        member_id = self._fleet.members[name].member_id
        if member_id not in ray.get(self._actor.get_members.remote(self._fleet.shards)):
            self._out.setdefault(name, time.monotonic())
        return name in self._out and time.monotonic() >= self._out[name] + _RESUME_AFTER

    def _tell(self, fault: str) -> None:
        self.told.append(fault)
        self._display.say(fault)


def _samples(job: Job) -> int:
    return sum(line.samples for line in read_lines(job))


def _outcome(job: Job, fleet: Fleet, cost: Cost, corrupt: int, faults: list[str]) -> Outcome:
    figures = fleet.figures
    straight = sum(each.straight.samples for each in figures)
    redirected = sum(each.redirected.samples for each in figures)
    sizes: dict[str, int] = {}
    for each in figures:
        for name, size in each.sizes:
            sizes[name] = max(size, sizes.get(name, 0))
    return Outcome(
        read_lines(job),
        cost,
        corrupt,
        has_ended(job),
        faults,
        sizes,
        redirected / max(straight + redirected, 1),
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the block, but not the program, on SIGINT and SIGTERM."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
