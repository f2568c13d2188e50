"""Runs many seeds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from partition_actor.testing.checker import Violation
from partition_actor.testing.cluster import SimulatedCluster


@dataclass
class Outcome:
    """What came of one or more seeds."""

    seeds: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: Outcome) -> None:
        """Take in another outcome."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.faults += other.faults


def simulate(seed: int, steps: int = 1000) -> Outcome:
    """Run the cluster of `seed` for at least so many steps, then let it settle.

    Raises:
        Violation: a rule was broken; the message has a trace of what led to it and the command that reruns it.
    """
    try:
        return _run(SimulatedCluster(seed), steps)
    except Violation:
        _run(SimulatedCluster(seed, trace=True), steps)
        raise


def _run(cluster: SimulatedCluster, steps: int) -> Outcome:
    cluster.run(steps)
    cluster.settle()
    return Outcome(1, cluster.steps, cluster.counts)
