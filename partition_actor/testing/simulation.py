"""Runs many seeds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from partition_actor.testing.checker import Violation
from partition_actor.testing.cluster import SimulatedCluster

SEEDS_PER_CHUNK = 20


@dataclass
class Outcome:
    """The result of running one or more seeds."""

    seeds: int = 0
    steps: int = 0
    """Events handled, over all seeds."""
    faults: Counter[str] = field(default_factory=Counter)
    """Faults and other incidents, by kind."""
    violations: list[str] = field(default_factory=list)
    """The message of each seed that failed."""
    seconds: float = 0.0
    """Wall time; 0 from ``simulate``."""

    def add(self, other: Outcome) -> None:
        """Add the seeds, steps, faults and violations of `other` to these."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.faults += other.faults
        self.violations += other.violations

    def __str__(self) -> str:
        head = f"{self.seeds} seeds, {self.steps} steps, {self.seconds:.1f} s of wall time"
        faults = [f"{number:>12} {fault}" for fault, number in sorted(self.faults.items())]
        return "\n".join([f"{head}; {len(self.violations)} failed", *faults, *self.violations])


def simulate(seed: int, steps: int = 1000) -> Outcome:
    """Run the cluster of `seed` for at least so many steps, then end all faults and let it settle.

    Returns the outcome of one seed. The same seed and steps always give the same one.

    Raises:
        Violation: a rule was broken; the message has a trace of what led to it and the command that reruns it.
    """
    try:
        return run(SimulatedCluster(seed), steps)
    except Violation:
        rerun = f"python -m partition_actor.testing --seed {seed} --steps {steps} --trace"
        try:
            run(SimulatedCluster(seed, trace=True), steps)
        except Violation as violation:
            raise Violation(f"{violation}\nrerun with: {rerun}") from None
        raise


def run(cluster: SimulatedCluster, steps: int) -> Outcome:
    """Take so many steps, then let the cluster settle. Raises ``Violation``."""
    cluster.run(steps)
    cluster.settle()
    return Outcome(1, cluster.steps, cluster.counts)


def simulate_many(seeds: Iterable[int], steps: int = 1000, processes: int = 1) -> Outcome:
    """Run each of `seeds` for `steps` steps, shared among `processes` processes.

    Returns the sum of their outcomes. Raises no ``Violation``: `violations` has the message of each seed that failed.
    """
    started, outcome, every = time.perf_counter(), Outcome(), list(seeds)
    if processes == 1:
        for seed in every:
            outcome.add(_try(steps, seed))
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for one in pool.map(partial(_try, steps), every, chunksize=SEEDS_PER_CHUNK):
                outcome.add(one)
    outcome.seconds = time.perf_counter() - started
    return outcome


def _try(steps: int, seed: int) -> Outcome:
    try:
        return simulate(seed, steps)
    except Violation as violation:
        return Outcome(1, steps, violations=[str(violation)])
