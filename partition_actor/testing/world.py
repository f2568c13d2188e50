"""The simulated world: virtual time, the network, and the processes that live in it."""

from __future__ import annotations

import heapq
import logging
import random
from collections import Counter, deque
from collections.abc import Callable
from itertools import count
from typing import Any

from partition_actor.settings import Settings
from partition_actor.testing.clock import FakeClock
from partition_actor.testing.conditions import Conditions

NODES = 3
TRACE_KEPT = 200
"""Events that a trace keeps."""

Handler = Callable[..., Any]


class Process:
    """A process with a clock of its own. While it is `paused`, its events wait in `backlog`."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.alive, self.paused = True, False
        self.backlog: list[tuple[Handler, tuple[Any, ...]]] = []
        dice = random.Random(f"node of {name}, {world.seed}")  # does not change the dice of other processes
        self.node = dice.choice([*world.nodes, None])
        """The node that it runs on; None: nobody knows."""
        rng = world.rng
        fastest = 1 + world.settings.clock_rate_margin
        rate = rng.choice((1.0, fastest, rng.uniform(1.0, fastest)))
        self.clock = FakeClock(rng.uniform(0.0, 1000.0), rate, of=world.time)

    def __repr__(self) -> str:
        return self.name

    def after(self) -> None:
        """Called after each event that the process has handled."""

    def missed(self, handler: Handler, arguments: tuple[Any, ...]) -> None:
        """Called in place of `handler` when the process is dead."""


class _Silence(logging.Filter):
    """What simulated members log is dropped: their troubles are meant."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is to be logged."""
        return self._depth == 0


silent = _Silence()
for _module in ("session", "coordinator", "callbacks"):
    logging.getLogger(f"partition_actor.member.{_module}").addFilter(silent)


class World:
    """Virtual time, an event queue and a network; `rng` decides everything, in the order of the calls."""

    def __init__(
        self, seed: int, rng: random.Random, settings: Settings, conditions: Conditions, *, trace: bool
    ) -> None:
        self.seed, self.rng, self.settings, self.conditions = seed, rng, settings, conditions
        self.time = FakeClock()
        self.steps = 0
        self.counts: Counter[str] = Counter()
        """Faults and other incidents, by kind."""
        self.faults_over = False
        self.check: Callable[[Process], None] = lambda process: None
        """Called after each step of a process."""
        self.cuts: set[tuple[Process, str]] = set()
        self.nodes = [f"node-{number}" for number in range(NODES)]
        """The nodes that are alive; one that has ended has a successor."""
        self.draining: set[str] = set()
        """Those of them that are draining, as the GCS tells it."""
        self.drains_end: dict[str, float | None] = {}
        """When each of those ends, if that is not in 30 s; None: nobody knows."""
        self.ended: set[str] = set()
        self._events: list[tuple[float, int, Process | None, Handler, tuple[Any, ...]]] = []
        self._order = count()
        self._trace: deque[tuple[Any, ...]] | None = deque(maxlen=TRACE_KEPT) if trace else None

    def later(self, delay: float, process: Process | None, handler: Handler, *arguments: Any) -> None:
        """Run `handler` in `delay` seconds, in `process` or outside of all. It is no step if it returns False."""
        heapq.heappush(self._events, (self.time.now() + delay, next(self._order), process, handler, arguments))

    def next_event(self) -> None:
        """Advance to the next event and handle it."""
        when, _, process, handler, arguments = heapq.heappop(self._events)
        self.time.advance(max(0.0, when - self.time.now()))
        if process is None:
            with silent:
                handler(*arguments)
            self.steps += 1
        elif not process.alive:
            process.missed(handler, arguments)
        elif process.paused:
            process.backlog.append((handler, arguments))
        else:
            self.handle(process, handler, arguments)

    def run_until(self, end: float) -> None:
        """Handle every event up to the time `end`."""
        while self._events and self._events[0][0] <= end:
            self.next_event()
        self.time.advance(max(0.0, end - self.time.now()))

    def handle(self, process: Process, handler: Handler, arguments: tuple[Any, ...]) -> None:
        """Let a process handle an event, and check what it may do after it."""
        with silent:
            if handler(*arguments) is False:
                return
        self.steps += 1
        self.log(process, handler.__name__, *arguments)
        process.after()
        self.check(process)

    def send(self, sender: Process, receiver: Process, handler: Handler, *arguments: Any) -> None:
        """Send a message. The conditions decide whether it arrives once, twice or never, and when."""
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

    def log(self, process: Process | None, *what: Any) -> None:
        """Add a line to the trace, if there is one."""
        if self._trace is not None:
            self._trace.append((self.time.now(), process, what))

    def explain(self, what: str) -> str:
        """`what`, with the seed, the time and the trace."""
        head = f"seed {self.seed}, step {self.steps}, {self.time.now():.3f} s: {what}"
        trace = (f"  {at:9.4f} {process!s:16} {' '.join(map(str, words))}" for at, process, words in self._trace or ())
        return "\n".join([head, *trace])
