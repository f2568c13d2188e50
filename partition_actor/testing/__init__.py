"""A fake clock and a simulated cluster, for tests of programs that use this library and for its own.

``simulate`` runs a ``SimulatedCluster``: production code on a virtual network with virtual clocks and random faults,
years of them in minutes, all decided by a seed. From bottom to top: ``world`` (time, events, network, processes),
``partition_actors`` (drives ``core``'s membership), ``transport`` (what a ``PartitionCoordinator`` has here in place
of Ray), ``workers`` (members and their users), ``checker`` (what must hold after every step), ``cluster`` (the whole,
with its faults), ``simulation`` (many seeds).

Public: the names in ``__all__``. The other modules are private.
"""

from __future__ import annotations

from partition_actor.testing.checker import Violation
from partition_actor.testing.clock import FakeClock
from partition_actor.testing.cluster import SimulatedCluster
from partition_actor.testing.simulation import Outcome, simulate, simulate_many

__all__ = ["FakeClock", "Outcome", "SimulatedCluster", "Violation", "simulate", "simulate_many"]
