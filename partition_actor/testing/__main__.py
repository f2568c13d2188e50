"""Runs the simulation: ``python -m partition_actor.testing --seeds 0..20000 --processes 2``, or reruns one seed."""

from __future__ import annotations

import argparse
import sys

from partition_actor.testing.checker import Violation
from partition_actor.testing.cluster import SimulatedCluster
from partition_actor.testing.simulation import run, simulate_many


def _range(text: str) -> range:
    first, _, end = text.partition("..")
    return range(int(first), int(end))


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when no seed broke a rule, else 1."""
    parser = argparse.ArgumentParser(prog="python -m partition_actor.testing", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="run this seed")
    which.add_argument("--seeds", type=_range, metavar="A..B", help="run the seeds from A up to, not including, B")
    parser.add_argument("--steps", type=int, default=1000, help="at least so many per seed (default 1000)")
    parser.add_argument("--processes", type=int, default=1, help="share the seeds among so many processes (default 1)")
    parser.add_argument("--trace", action="store_true", help="with --seed: print the last events")
    given = parser.parse_args(arguments)
    if given.seed is not None and given.trace:
        cluster = SimulatedCluster(given.seed, trace=True)
        try:
            run(cluster, given.steps)
        except Violation as violation:
            print(violation)
            return 1
        print(cluster.explain("held"))
        return 0
    outcome = simulate_many(given.seeds or [given.seed], given.steps, given.processes)
    print(outcome)
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
