"""What a seed decides once: the settings, how the network behaves, and which faults happen.

Leaving out some faults reaches states that no run with all of them reaches: swarm testing (Groce et al., ISSTA 2012).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from partition_actor.settings import Settings


@dataclass(slots=True)
class Conditions:
    """How the simulated world behaves. Times are seconds, the ttl of a small group being 1."""

    loss: float
    """Fraction of messages that are lost."""
    duplication: float
    """Fraction of messages that arrive twice."""
    delay: float
    """Mean latency, exponentially distributed."""
    slow: float
    """Fraction of messages that take up to two ttl, so that later ones overtake them."""
    holds: bool
    """Whether the partition actor holds a heartbeat until there is news or the next is due."""
    any_route: bool
    """Whether members that know the newer of two partition actors may go back to the older."""
    quick_gcs: bool
    """Whether the GCS gives up on a silent node and starts another partition actor within a fraction of a lease."""
    slow_callbacks: float
    """Fraction of callbacks for lost keys that take long."""
    fault_rate: float
    """Mean faults per second."""
    faults: frozenset[str]
    """The kinds of faults that may happen."""
    groups: tuple[tuple[str, bool], ...]
    """The groups, and whether each is exclusive."""
    locks: int = 0
    """How many locks the members compete for."""
    slow_to_find: bool = False
    """Whether members find the next partition actor later than by far most do."""
    acts: float = 4.0
    """Mean number of times per second that a member's user calls something."""
    stays: bool = False
    """Whether some members are replaced when their node drains, and keep their places until then."""
    slots: bool = False
    """Whether members ask for slots."""
    fleet: bool = False
    """Whether there is a fleet."""

    def end_faults(self) -> None:
        """From now on the network delivers, callbacks return and nothing breaks."""
        self.loss = self.duplication = self.slow = self.slow_callbacks = self.fault_rate = 0.0
        self.delay = 0.005
        self.any_route = False


@lru_cache(maxsize=1)
def some_settings() -> tuple[Settings, ...]:
    """Settings with a ttl of 1 s that differ in everything the rules depend on."""
    varied: dict[str, tuple[float, ...]] = {
        "hold": (0.2, 0.4),
        "clock_rate_margin": (0.02, 0.1),
        "handoff_timeout": (0.5, 1.5),
        "publish_window": (0.0, 0.02, 0.15),
        "node_proof_interval": (0.1, 0.4),
        "max_heartbeats_per_second": (1000.0, 10.0),
    }
    every = (dict(zip(varied, values, strict=True)) for values in product(*varied.values()))
    return tuple(Settings.from_dict({"ttl": 1.0, "max_members": 10, "vnodes": 3, **each}) for each in every)


def draw(rng: random.Random, kinds: tuple[str, ...]) -> Conditions:
    """The conditions of one run, with faults from `kinds`."""
    share = rng.choice((0.3, 0.6, 1.0))
    groups: tuple[tuple[str, bool], ...] = (("keys", True),)
    if rng.random() < 0.4:
        groups += (("more", True),)
    if rng.random() < 0.6:
        groups += (("shared", False),)
    return Conditions(
        loss=rng.choice((0.0, 0.0, 0.03, 0.2)),
        duplication=rng.choice((0.0, 0.05, 0.3)),
        delay=rng.choice((0.001, 0.01, 0.06)),
        slow=rng.choice((0.0, 0.0, 0.02, 0.1)),
        holds=rng.random() < 0.8,
        any_route=rng.random() < 0.3,
        quick_gcs=rng.random() < 0.3,
        slow_callbacks=rng.choice((0.0, 0.1, 0.4)),
        fault_rate=rng.choice((0.3, 1.0, 3.0)),
        faults=frozenset(kind for kind in kinds if rng.random() < share),
        groups=groups,
        locks=rng.choice((0, 1, 2)),
        acts=rng.choice((1.0, 4.0, 12.0)),
    )
