"""A run with several agents: join Ray, deploy the partition actor, start agents, kill and stop some, report."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.driver.cluster import deployed, joined
from jobs.driver.processes import send_signal
from jobs.pipelines.agents import Agents
from jobs.pipelines.display import Display, Outcome
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
        AgentError: an agent cannot continue, or its replacement does not start.
        PartitionError: the partition actor could not be deployed, or agents not be started.
    """
    lease = job.config.lease
    settings = Settings(ttl=lease, hold=lease / 4, handoff_timeout=lease, node_proof_interval=min(1.0, lease / 4))
    with joined(address), deployed(job.config.name, job.config.namespace, settings):
        display.say(f"starting {job.config.agents} agents")
        agents = Agents(job, display.say)
        faults = _Faults(job, agents, display)
        before = _samples(job)
        agents.start()
        began = time.monotonic()
        try:
            with _interruptible():
                _watch(job, agents, faults, display)
        finally:
            display.close()
            faults.resume_all()
            agents.stop()
            corrupt = set_corrupt_aside(job)
    return _outcome(job, agents, before, time.monotonic() - began, corrupt, faults.told)


def _watch(job: Job, agents: Agents, faults: _Faults, display: Display) -> None:
    total = total_bytes(job)
    display.start_bar(f"{job.config.agents} agents", total)
    while job.config.follow or not has_ended(job) or faults.pending:
        done = acknowledged_bytes(job)
        display.advance(done)
        if job.config.follow:
            set_corrupt_aside(job)
        agents.look()
        faults.look(1.0 if total is None else done / max(total, 1))
        time.sleep(_LOOK)
    faults.close()


class _Faults:
    """Kills and stops agents during the run."""

    def __init__(self, job: Job, agents: Agents, display: Display) -> None:
        self.told: list[str] = []
        self._kills, self._stops = job.config.kill, job.config.stop
        self._agents = agents
        self._display = display
        self._hit: set[int] = set()  # processes
        self._stopped: dict[int, tuple[str, float]] = {}  # process -> its name, and since when
        self._out: dict[int, float] = {}  # process -> since when it is out of its group

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
        serving = self._agents.serving
        free = [(name, pid) for name, pid in serving.items() if pid not in self._hit]
        if self._kills and done >= _KILL_AT:
            for name, pid in free[: self._kills]:
                self._tell(f"{name} got SIGKILL when {done:.0%} was published")
                self._hit.add(pid)
                send_signal(pid, signal.SIGKILL)
            self._kills = 0
        elif self._stops and done >= _STOP_AT:
            for name, pid in free[: self._stops]:
                self._tell(f"{name} was stopped when {done:.0%} was published")
                self._hit.add(pid)
                self._stopped[pid] = (name, time.monotonic())
                send_signal(pid, signal.SIGSTOP)
            self._stops = 0
        for pid in self._stopped.keys() - serving.values():
            name, since = self._stopped[pid]
            if time.monotonic() >= self._out.setdefault(pid, time.monotonic()) + _RESUME_AFTER:
                self._tell(f"{name} continues after {time.monotonic() - since:.1f} s: others own its keys")
                self._resume(pid)

    def resume_all(self) -> None:
        """Let all stopped agents continue."""
        for pid in list(self._stopped):
            self._resume(pid)

    def _resume(self, pid: int) -> None:
        del self._stopped[pid]
        send_signal(pid, signal.SIGCONT)

    def _tell(self, fault: str) -> None:
        self.told.append(fault)
        self._display.say(fault)


def _samples(job: Job) -> int:
    return sum(line.samples for line in read_lines(job))


def _outcome(job: Job, agents: Agents, before: int, seconds: float, corrupt: int, faults: list[str]) -> Outcome:
    figures = agents.figures.values()
    cost = Cost(_samples(job) - before, seconds, sum(each.cpu for each in figures))
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
