"""The metrics of this library: their names, and how they are recorded with ``ray.util.metrics``.

Ray exports them at each node's metrics port, with ``ray_`` before the name and ``_total`` after a counter's. Recording
one costs microseconds, so the partition actor and a ``Router`` count in plain ints and record the sums every few
seconds. Tags name groups and never members: each set of tags is a time series of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import ray

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two recordings, at most. Ray forgets a gauge that was not set within two of its own intervals."""

HELD_BACK = 3
"""Recordings by which a counter begins with its first increase: time enough to scrape the 0 before."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of a histogram's buckets: from a death that a kernel reports to a lease that has to end."""


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One metric."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    tags: tuple[str, ...]
    unit: str
    meaning: str


_ACTOR = ("actor",)
_GROUP = ("actor", "group")
_FLEET = ("actor", "group", "fleet")

_DEFINED = (
    # Of the whole partition actor; `actor` is its name.
    MetricDefinition("sessions", "gauge", _ACTOR, "sessions", "Sessions: of members, routers and holders of locks."),
    MetricDefinition("max_members", "gauge", _ACTOR, "sessions", "The most sessions that it serves: the setting."),
    MetricDefinition("groups", "gauge", _ACTOR, "groups", "Groups that it knows."),
    MetricDefinition(
        "recovering", "gauge", _ACTOR, "0 or 1", "1 while it waits for the leases of its predecessor to end."
    ),
    MetricDefinition("heartbeats", "counter", _ACTOR, "heartbeats", "Heartbeats that it has taken in."),
    MetricDefinition("held_calls", "gauge", _ACTOR, "calls", "Heartbeats that it holds until there is news."),
    MetricDefinition(
        "lateness_seconds", "gauge", _ACTOR, "seconds", "By how much the latest of the last heartbeats came late."
    ),
    MetricDefinition(
        "step_seconds", "gauge", _ACTOR, "seconds", "The longest time for which its event loop was held up of late."
    ),
    MetricDefinition(
        "lock_waiters",
        "gauge",
        _ACTOR,
        "sessions",
        "Sessions that wait for a lock; candidates for a lead do not count.",
    ),
    MetricDefinition(
        "lock_wait_seconds", "gauge", _ACTOR, "seconds", "How long the one that waits longest has waited for its lock."
    ),
    # Of one group.
    MetricDefinition("members", "gauge", _GROUP, "members", "Members; 0 once the group is forgotten."),
    MetricDefinition("epochs", "counter", _GROUP, "epochs", "Epochs published."),
    MetricDefinition(
        "changes", "counter", (*_GROUP, "what"), "events", "Events by `what` happened; `group` is empty for locks."
    ),
    MetricDefinition(
        "longest_lag_seconds",
        "gauge",
        _GROUP,
        "seconds",
        "How long the present hand-off has lasted.",
    ),
    MetricDefinition("handoff_seconds", "histogram", _GROUP, "seconds", "How long hand-offs took."),
    MetricDefinition(
        "failover_detection_seconds",
        "histogram",
        (*_GROUP, "what"),
        "seconds",
        "From the end of a process until it was known (`died`), or from its last heartbeat (`expired`).",
    ),
    # Of one fleet, as its controller tells.
    MetricDefinition("fleet_size", "gauge", _FLEET, "workers", "Workers that it is to have."),
    MetricDefinition("fleet_serving", "gauge", _FLEET, "workers", "Slots that have a serving worker."),
    MetricDefinition("fleet_ready", "gauge", _FLEET, "0 or 1", "1 while all workers serve and hold one epoch."),
    MetricDefinition("fleet_updating", "gauge", _FLEET, "0 or 1", "1 while an update is under way."),
    MetricDefinition(
        "fleet_update_failed", "gauge", _FLEET, "0 or 1", "1 from when an update was rolled back until the next one."
    ),
    MetricDefinition("fleet_restarts", "counter", _FLEET, "workers", "Workers started in place of one that failed."),
    MetricDefinition("fleet_load", "gauge", _FLEET, "of its own", "The mean load of its workers, if they tell one."),
    # Of the routers of one process, to one group.
    MetricDefinition("router_calls", "counter", _GROUP, "calls", "Calls, and batches of `map`."),
    MetricDefinition(
        "router_retries", "counter", _GROUP, "calls", "Calls sent again, after a refusal or the death of an owner."
    ),
    MetricDefinition(
        "router_refusals", "counter", _GROUP, "calls", "Calls that a worker refused, because the key was not its own."
    ),
    MetricDefinition(
        "router_waits",
        "counter",
        _GROUP,
        "calls",
        "Calls that waited for an owner, a hand-off or a place at the owner.",
    ),
    MetricDefinition("router_wait_seconds", "counter", _GROUP, "seconds", "How long they waited, all together."),
    MetricDefinition(
        "router_errors", "counter", (*_GROUP, "kind"), "calls", "Calls that ended with an error; `kind` is its class."
    ),
)

DEFINITIONS: Mapping[str, MetricDefinition] = {f"partition_actor_{each.name}": each for each in _DEFINED}
"""By the name that Ray is given."""


_Series = tuple[str, tuple[tuple[str, str], ...]]
"""A name, and tags with their values."""


def recording_interval() -> float:
    """Seconds between two recordings: `INTERVAL`, or Ray's own interval if that is shorter."""
    try:
        return min(INTERVAL, max(1.0, float(ray._config.metrics_report_interval_ms()) / 1000))
    except Exception:  # private to Ray
        return INTERVAL


@cache
def _instrument(name: str) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    made = DEFINITIONS[name]
    if made.kind == "histogram":
        return Histogram(name, made.meaning, boundaries=list(SECONDS), tag_keys=made.tags)
    return (Gauge if made.kind == "gauge" else Counter)(name, made.meaning, tag_keys=made.tags)


class Recorder:
    """Records metrics that have some tags in common. If that fails it records no more, and nothing else is lost.

    Its methods take the name without ``partition_actor_``. Call `begin` before each recording. The first increase of a
    counter is held back for some recordings, after a 0: of a series that begins with 5, Prometheus sees no increase.
    """

    def __init__(self, **tags: str) -> None:
        self._tags = tags
        self.works = True
        """Whether nothing has failed so far."""
        self._recording = 0
        self._counting: set[_Series] = set()
        """Counters that have begun."""
        self._held_back: dict[_Series, float] = {}
        self._begins: dict[_Series, int] = {}
        """The number of the recording at which each of those is to begin."""

    def begin(self, *, last: bool = False) -> None:
        """Begin a recording. `last`: none is sure to follow, so hold nothing back."""
        self._recording += 1
        for series, at in list(self._begins.items()):
            if last or at <= self._recording:
                del self._begins[series]
                self._counting.add(series)
                self._record("inc", series[0], self._held_back.pop(series), dict(series[1]))

    def set(self, name: str, value: float, **tags: str) -> None:
        """Set a gauge."""
        self._record("set", name, value, tags)

    def add(self, name: str, value: float, **tags: str) -> None:
        """Add to a counter; 0 adds nothing."""
        series = (name, tuple(tags.items()))
        if value <= 0:
            return
        if series in self._counting:
            self._record("inc", name, value, tags)
            return
        if series not in self._begins:
            self._begins[series] = self._recording + HELD_BACK
            with contextlib.suppress(Exception):  # `inc` refuses 0, and this is private to Ray
                _instrument(f"partition_actor_{name}")._record(0.0, {**self._tags, **tags})
        self._held_back[series] = self._held_back.get(series, 0) + value

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Add a value to a histogram."""
        self._record("observe", name, value, tags)

    def _record(self, verb: str, name: str, value: float, tags: dict[str, str]) -> None:
        if not self.works or not ray.is_initialized():
            return
        try:
            getattr(_instrument(f"partition_actor_{name}"), verb)(value, {**self._tags, **tags})
        except Exception:
            self.works = False
            log.warning("no metrics from now on: %s cannot be recorded", name, exc_info=True)
