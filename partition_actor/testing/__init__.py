"""A fake clock and a simulated cluster, for tests of programs that use this library and for its own.

The cluster drives the production state machines through a virtual network and virtual clocks: years of faults in
minutes, and every run is decided by its seed.

Public: the names in ``__all__``.
"""

from __future__ import annotations

from partition_actor.testing.checker import Violation
from partition_actor.testing.clock import FakeClock
from partition_actor.testing.cluster import SimulatedCluster
from partition_actor.testing.simulation import Outcome, simulate, simulate_many

__all__ = ["FakeClock", "Outcome", "SimulatedCluster", "Violation", "simulate", "simulate_many"]
