"""A cluster in one process: virtual time and network around the production state machines."""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from dataclasses import replace
from itertools import count
from typing import Any

from partition_actor.settings import Settings
from partition_actor.testing import conditions as weather
from partition_actor.testing.checker import Checker
from partition_actor.testing.clock import FakeClock
from partition_actor.testing.conditions import Conditions
from partition_actor.testing.faults import FAULTS, inject
from partition_actor.testing.partition_actors import SimulatedPartitionActor
from partition_actor.testing.process import Handler, KeyHolder, Process
from partition_actor.testing.workers import BareCaller, Watcher, Worker

WATCHED = 0.3
"""Fraction of the seeds with a process that only follows the groups."""
TRACE_KEPT = 200
"""Events that a trace keeps."""

Event = tuple[float, int, Process | None, Handler, tuple[Any, ...]]


class SimulatedCluster:
    """A partition actor, members and the network between them, all decided by `seed`.

    ``run`` takes steps, each the handling of one event, and checks after each that no key has two members that may
    work on it, that no epoch goes back and that fencing tokens grow; a breach raises ``Violation``. Faults come by
    themselves, and `settle` ends them. The methods named after faults bring one about.
    """

    def __init__(
        self,
        seed: int,
        *,
        settings: Settings | None = None,
        conditions: Conditions | None = None,
        trace: bool = False,
        members: int | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.settings = settings or self.rng.choice(weather.some_settings())
        self.conditions = replace(conditions or weather.draw(self.rng, tuple(FAULTS)))
        self.time = FakeClock()
        self.steps = 0
        self.counts: Counter[str] = Counter()
        self.partition_actors: list[SimulatedPartitionActor] = []
        self.workers: list[Worker] = []
        self.watchers: list[Watcher] = []
        self.callers: list[BareCaller] = []
        self.holders: list[KeyHolder] = []
        self.dismissed: set[tuple[str, str]] = set()
        """``(member_id, group)`` of those who left, or whom an operator drained or forgot."""
        self.cuts: set[tuple[Process, str]] = set()
        self._events: list[Event] = []
        self._order = count()
        self._trace: deque[tuple[Any, ...]] | None = deque(maxlen=TRACE_KEPT) if trace else None
        self._checker = Checker(self)
        self.calm = False
        self.start_partition_actor(first=True)
        for number in range(members or self.rng.randint(2, 4)):
            self.start_worker(f"m{number}")
        if random.Random(f"watchers of {seed}").random() < WATCHED:  # leaves the other seeds' dice as they are
            self.start_watcher("w0")
        if self.conditions.fault_rate:
            self.later(self.rng.expovariate(self.conditions.fault_rate), None, self._next_fault)

    # -- time ---------------------------------------------------------------------------------------------------

    def later(self, delay: float, process: Process | None, handler: Handler, *arguments: Any) -> None:
        """Let `process` run `handler` in `delay` seconds; a handler that returns False was no step."""
        event = (self.time.now() + delay, next(self._order), process, handler, arguments)
        heapq.heappush(self._events, event)

    def run(self, steps: int) -> None:
        """Take so many steps. Raises ``Violation``."""
        end = self.steps + steps
        while self.steps < end:
            self._next()

    def run_for(self, seconds: float) -> None:
        """Take the steps of the next `seconds`. Raises ``Violation``."""
        end = self.time.now() + seconds
        while self._events and self._events[0][0] <= end:
            self._next()
        self.time.advance(max(0.0, end - self.time.now()))

    def settle(self) -> None:
        """End all faults, let `settling_time` pass, and check that all is well then. Raises ``Violation``."""
        self._heal()
        self.run_for(self.settling_time)
        self._checker.check_settled()

    @property
    def settling_time(self) -> float:
        """Seconds after the last fault within which every key has an owner: three longest leases, two hand-offs."""
        return 3 * self.settings.max_ttl + 2 * self.settings.handoff_timeout + 1.0

    def _next(self) -> None:
        when, _, process, handler, arguments = heapq.heappop(self._events)
        self.time.advance(max(0.0, when - self.time.now()))
        if process is None:
            handler(*arguments)
            self.steps += 1
        elif not process.alive:
            self._redirect(process, handler, arguments)
        elif process.paused:
            process.backlog.append((handler, arguments))
        else:
            self._handle(process, handler, arguments)

    def _handle(self, process: Process, handler: Handler, arguments: tuple[Any, ...]) -> None:
        if handler(*arguments) is False:
            return
        self.steps += 1
        if self._trace is not None:
            self.log(process, handler.__name__, *arguments)
        process.after()
        if isinstance(process, KeyHolder):
            self._checker.check(process)

    def _redirect(self, process: Process, handler: Handler, arguments: tuple[Any, ...]) -> None:
        """What a dead partition actor never took in, Ray may hand to its successor."""
        successor = self.partition_actors[-1]
        if handler.__name__ == "on_request" and successor.alive and self.rng.random() < 0.3:
            self.later(0.0, successor, successor.on_request, *arguments)

    # -- the network and the GCS --------------------------------------------------------------------------------

    def send(self, sender: Process, receiver: Process, handler: Handler, *arguments: Any) -> None:
        """Send a message; it arrives once, never or twice, when the network likes."""
        rng, conditions = self.rng, self.conditions
        if (sender, "out") in self.cuts or (receiver, "in") in self.cuts or rng.random() < conditions.loss:
            self.counts["lost message"] += 1
            return
        copies = 1
        if rng.random() < conditions.duplication:
            self.counts["duplicated message"] += 1
            copies = 2
        for _ in range(copies):
            delay = rng.expovariate(1 / conditions.delay)
            if rng.random() < conditions.slow:
                self.counts["late message"] += 1
                delay = rng.uniform(0.0, 2 * self.settings.ttl)
            self.later(delay, receiver, handler, *arguments)

    def ask_gcs(self, actor: SimulatedPartitionActor, at: float) -> None:
        """The question of `actor`, sent at `at` by its clock, reaches the GCS."""
        if actor.counted_alive and not actor.cut_off:
            self.later(self.rng.uniform(0.0, 0.02), actor, actor.on_proof, at)

    # -- processes ----------------------------------------------------------------------------------------------

    def start_partition_actor(self, *, first: bool = False) -> SimulatedPartitionActor:
        """Start the first partition actor or the next; everybody finds it after a while."""
        restarted = not first and self.rng.random() < 0.7
        incarnation = 1000 * (len(self.partition_actors) + 1)
        actor = SimulatedPartitionActor(self, incarnation, first=first, restarted=restarted)
        self.partition_actors.append(actor)
        for holder in self.holders:
            pace = self.rng.choice((20.0, 4.0, 1.0))
            self.later(self.rng.expovariate(pace), None, self._find_partition_actor, holder, actor)
        return actor

    def _find_partition_actor(self, holder: Worker | BareCaller, actor: SimulatedPartitionActor) -> None:
        if holder.route.membership.incarnation < actor.membership.incarnation:
            holder.route = actor

    def start_worker(self, member_id: str, weight: int = 1) -> Worker:
        """Start a process that joins every group under `member_id`."""
        worker = Worker(self, member_id, self.partition_actors[-1], weight)
        self.workers.append(worker)
        self.holders.append(worker)
        return worker

    def start_watcher(self, member_id: str) -> Watcher:
        """Start a process that follows every group and is a member of none."""
        watcher = Watcher(self, member_id, self.partition_actors[-1])
        self.watchers.append(watcher)
        self.holders.append(watcher)
        return watcher

    def start_caller(self, member_id: str) -> BareCaller:
        """Start a process that calls `get_subset` by a bare handle, in any exclusive group."""
        caller = BareCaller(self, member_id, self.partition_actors[-1])
        self.callers.append(caller)
        self.holders.append(caller)
        return caller

    def kill(self, process: Process) -> None:
        """End a process; a death watch may notice. Nobody replaces a partition actor here: see
        `start_partition_actor`."""
        process.alive = False
        if isinstance(process, Worker) and process.watched:
            self.later(self.rng.uniform(0.004, 0.017), None, self.report_death, process, True)

    def report_death(self, worker: Worker, certain: bool) -> None:
        """Let the death watches of a worker end; not `certain` where only the worker's node is lost."""
        for actor in self.partition_actors:
            key = (worker.member_id, worker.session)
            if actor.alive and key in actor.membership.sessions:
                self.later(0.0, actor, actor.on_death, key, certain)

    def pause(self, process: Process, seconds: float) -> None:
        """Stop a process, and let it go on after `seconds`."""
        process.paused = True
        self.later(seconds, None, self.wake, process)

    def wake(self, process: Process) -> None:
        """Let a paused process go on: what it held before counts first, then comes what it has missed."""
        if not process.paused or not process.alive:
            return
        process.paused = False
        if self._trace is not None:
            self.log(process, "wakes")
        if isinstance(process, KeyHolder):
            self._checker.check(process)
        backlog, process.backlog = process.backlog, []
        for handler, arguments in backlog:
            if process.paused:
                process.backlog.append((handler, arguments))
            else:
                self._handle(process, handler, arguments)

    def cut(self, process: Process, direction: str, seconds: float) -> None:
        """Lose every message that `process` sends (`direction` "out") or is sent ("in"), for `seconds`."""
        self.cuts.add((process, direction))
        self.later(seconds, None, self.cuts.discard, (process, direction))

    # -- faults -------------------------------------------------------------------------------------------------

    def count(self, fault: str) -> None:
        """Count a fault of this kind."""
        self.counts[fault] += 1

    def _next_fault(self) -> None:
        if self.calm:
            return
        inject(self)
        self.later(self.rng.expovariate(self.conditions.fault_rate), None, self._next_fault)

    def _heal(self) -> None:
        self.calm = True
        self.conditions.calm()
        self.cuts.clear()
        for process in (*self.holders, *self.partition_actors):
            self.wake(process)
        for caller in self.callers:
            caller.alive = False
        for actor in self.partition_actors[:-1]:
            actor.alive = False
        last = self.partition_actors[-1]
        if last.alive and last.counted_alive:
            last.cut_off = False
        else:
            last.alive = False
            last = self.start_partition_actor()
        for holder in self.holders:
            if isinstance(holder, Worker):
                holder.route = last

    # -- traces -------------------------------------------------------------------------------------------------

    def log(self, process: Process | None, *what: Any) -> None:
        """Put a line into the trace, if there is one."""
        if self._trace is not None:
            self._trace.append((self.time.now(), process, what))

    def explain(self, what: str) -> str:
        """What went wrong, with the trace that led to it."""
        lines = [f"seed {self.seed}, step {self.steps}, {self.time.now():.3f} s: {what}"]
        for moment, process, words in self._trace or ():
            lines.append(f"  {moment:9.4f} {process!s:16} {' '.join(map(str, words))}")
        return "\n".join(lines)
