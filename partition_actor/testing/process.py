"""What every simulated process has: a clock, and a life that may be stopped, continued or ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from partition_actor.testing.clock import FakeClock

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster

Handler = Callable[..., Any]


class Process:
    """A process with a clock of its own. While it is `paused`, what happens to it waits in its `backlog`."""

    def __init__(self, cluster: SimulatedCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.alive = True
        self.paused = False
        self.backlog: list[tuple[Handler, tuple[Any, ...]]] = []
        rng = cluster.rng
        fastest = 1 + cluster.settings.clock_rate_margin
        rate = rng.choice((1.0, fastest, rng.uniform(1.0, fastest)))
        self.clock = FakeClock(rng.uniform(0.0, 1000.0), rate, of=cluster.time)

    def __repr__(self) -> str:
        return self.name

    def after(self) -> None:
        """Called when the process has dealt with something."""

    def woken(self) -> None:
        """Called when it goes on after a pause, before it deals with its backlog."""


class KeyHolder(Process, ABC):
    """A process that works on keys of exclusive groups, as the checker sees it. Sets of keys are bit masks."""

    session: str = ""
    member_id: str = ""

    @abstractmethod
    def working_on(self) -> int:
        """The keys that it may be working on at this moment, were it not paused."""

    @abstractmethod
    def tokens(self) -> list[tuple[int, int]]:
        """For each exclusive group that it may act in: the keys that it may take up, and the fencing token."""
