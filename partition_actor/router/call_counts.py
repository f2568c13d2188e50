"""What becomes of a router's calls, for its metrics."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from partition_actor.errors import PartitionError
from partition_actor.metrics import Recorder, recording_interval

E = TypeVar("E", bound=PartitionError)


@dataclass(eq=False, slots=True)
class CallCounts:
    """Totals. Any thread adds to them without a lock: at worst a count is lost, and a call costs no more for it."""

    calls: int = 0
    retries: int = 0
    refusals: int = 0
    waits: int = 0
    """Calls that have waited."""
    wait_seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    """By the name of their class."""

    def failed(self, error: E) -> E:
        """Count a call that ends with `error`, which is to be raised."""
        self.errors[type(error).__name__] += 1
        return error

    def totals(self) -> dict[tuple[str, str | None], float]:
        """By name, and for errors by class."""
        names = ("calls", "retries", "refusals", "waits", "wait_seconds")
        totals: dict[tuple[str, str | None], float] = {(name, None): getattr(self, name) for name in names}
        totals.update({("errors", kind): count for kind, count in self.errors.copy().items()})
        return totals


class CallMetrics:
    """Records what was counted since the last time, every few seconds and only if there is something."""

    def __init__(self, counts: CallCounts, group: str, actor: object) -> None:
        """`actor` is the partition actor's name or handle; the tag is empty for a handle."""
        self._counts = counts
        self._recorder = Recorder(actor=actor if isinstance(actor, str) else "", group=group)
        self._recorded: dict[tuple[str, str | None], float] = {}
        self._due = 0.0

    def record(self, *, at_once: bool = False) -> None:
        """Record if it is time, or `at_once`: for the last time."""
        now = time.monotonic()
        if now < self._due and not at_once:
            return
        self._due = now + recording_interval()
        totals = self._counts.totals()
        self._recorder.begin()
        for (name, kind), total in totals.items():
            tags = {} if kind is None else {"kind": kind}
            self._recorder.add(f"router_{name}", total - self._recorded.get((name, kind), 0), **tags)
        self._recorded = totals
        if at_once:
            self._recorder.begin(last=True)
