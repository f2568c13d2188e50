"""Failover of tooz's groups with each of its stores, at default settings and at the tightest stable ones.

The tightest stable settings are searched for on this machine, from the tightest upwards: the first at which a group of
all workers expires no live member, neither while nothing happens nor while others are killed. Workers that do nothing
make that easy. So in a second search each worker in turn is stopped for a moment, as by a call that holds the GIL,
before any is killed.

Limits of tooz and its stores: tooz takes whole seconds for an etcd lease, and etcd grants none under 1.5 of its
election timeouts. tooz also takes whole seconds for a ZooKeeper session; only the server's ``maxSessionTimeout`` gives
less. And tooz's heartbeat thread beats twice per timeout, whatever the timeout is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from _services import ETCD, REDIS, ZOOKEEPER, Service, running
from _tooz_group import Group, UnstableError

DEFAULTS, TIGHTEST = "defaults", "tightest"


@dataclass(frozen=True)
class Settings:
    """What decides how soon tooz finds a member dead, in seconds, and how to pass it to client and server."""

    service: Service
    ttl: float
    poll: float
    query: str = ""
    server: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"timeout {self.ttl:g} s, polled every {self.poll:g} s"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"timeout": self.ttl, "poll": self.poll, "url_query": self.query, "server": dict(self.server)}

    def url(self, address: str) -> str:
        return f"{self.service.scheme}://{address}{self.query}"


@dataclass(frozen=True)
class Scenario:
    """Numbers of workers and kills; before the kills, seconds of idling and then of stalling each worker in turn."""

    workers: int
    kills: int
    idle: float
    stall: float = 0


@dataclass(frozen=True)
class Measured:
    """One row: ``seconds`` from each kill at ``settings``, or why it was ``left_out``."""

    service: str
    kind: str
    settings: Settings | None = None
    seconds: Sequence[float] = ()
    cores: float = 0
    left_out: str = ""
    rejected: Sequence[tuple[Settings, str]] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        described = None if self.settings is None else self.settings.to_dict()
        rejected = [{**settings.to_dict(), "because": why} for settings, why in self.rejected]
        return {**vars(self), "settings": described, "rejected": rejected}

    @property
    def title(self) -> str:
        return f"tooz + {self.service}, {self.kind}" + (f" ({self.settings})" if self.settings else "")


Trial = Callable[[Settings, Scenario], tuple[list[float], float]]


def redis(ttl: float, poll: float) -> Settings:
    return Settings(REDIS, ttl, poll, f"?membership_timeout={ttl:g}")


def etcd(ttl: int, poll: float) -> Settings:
    server = {"heartbeat-interval": 60, "election-timeout": 600}  # ms; with the defaults no lease is under 2 s
    return Settings(ETCD, ttl, poll, f"?membership_timeout={ttl}", server)


def zookeeper(ttl: float, poll: float) -> Settings:
    milliseconds = round(1000 * ttl)
    # Sessions end only at multiples of tickTime, and maxSessionTimeout overrides what clients ask for.
    server = {"tickTime": 20, "minSessionTimeout": milliseconds, "maxSessionTimeout": milliseconds}
    return Settings(ZOOKEEPER, ttl, poll, f"?timeout={math.ceil(ttl)}", server)


# tooz leaves the polling interval to the user. Once a second is more often than its users poll (ceilometer: 10 s).
AT_DEFAULTS = (Settings(REDIS, 30, 1), Settings(ETCD, 30, 1), Settings(ZOOKEEPER, 10, 1))
# Four polls per timeout: fewer would add to the time, more would take CPU from the heartbeats.
LADDERS = (
    tuple(redis(ttl, ttl / 4) for ttl in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4)),
    tuple(etcd(ttl, 0.1) for ttl in (1, 2, 3, 4)),
    tuple(zookeeper(ttl, ttl / 4) for ttl in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 4)),
)


def peers(workers: int, idle: float, stall: float) -> list[Measured]:
    """Every store at its defaults, at the tightest settings that are stable when idle, and likewise under stalls."""
    by_default = [measure(DEFAULTS, (settings,), Scenario(workers, 3, 5)) for settings in AT_DEFAULTS]
    idling = [measure(TIGHTEST, ladder, Scenario(workers, 20, idle)) for ladder in LADDERS]
    stalled = [measure(f"stalls of {stall:g} s", ladder, Scenario(workers, 5, 5, stall)) for ladder in LADDERS]
    return by_default + idling + stalled


def quick_peers(workers: int) -> list[Measured]:
    """Redis alone, to check that it runs."""
    return [measure(TIGHTEST, LADDERS[0], Scenario(workers, 3, 2))]


def failovers(settings: Settings, scenario: Scenario, seed: int = 1) -> tuple[list[float], float]:
    """Seconds from each kill until the last survivor's ring was right, and the number of cores that idle workers use.

    Kills come at random moments between heartbeats: just after one is the worst moment, just before one the best.

    Raises:
        UnstableError: a live member was expired, before the kills or during them.
    """
    chance, limit = random.Random(seed), 10 + 4 * settings.ttl
    with running(settings.service, settings.server) as address, Group(settings.url(address), settings.poll) as group:
        for number in range(scenario.workers):
            group.add(f"worker-{number}", limit)
        group.wait_until_all_know(scenario.workers, limit)
        used = group.processor_seconds()
        group.stay_idle(scenario.idle)
        cores = (group.processor_seconds() - used) / scenario.idle
        if scenario.stall:
            group.stall_each(scenario.stall)
        took = []
        for round_ in range(scenario.kills):
            group.stay_idle(chance.uniform(0, settings.ttl / 2))
            took.append(group.kill(f"worker-{round_}", limit))
            group.add(f"worker-{scenario.workers + round_}", limit)
            group.wait_until_all_know(scenario.workers, limit)
    return took, cores


def measure(kind: str, ladder: Sequence[Settings], scenario: Scenario, trial: Trial = failovers) -> Measured:
    """The first stable settings of ``ladder``, and their failovers."""
    service = ladder[0].service.name
    if missing := ladder[0].service.missing():
        return Measured(service, kind, left_out=missing)
    rejected = []
    for settings in ladder:
        if settings.ttl <= scenario.stall:  # no member survives a stall that is longer than its lease
            continue
        try:
            seconds, cores = trial(settings, scenario)
        except UnstableError as error:
            rejected.append((settings, str(error)))
        except (RuntimeError, OSError) as error:
            return Measured(service, kind, left_out=f"did not run: {error}", rejected=rejected)
        else:
            return Measured(service, kind, settings, seconds, cores, rejected=rejected)
    return Measured(service, kind, left_out="no settings were stable", rejected=rejected)
