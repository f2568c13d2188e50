"""How many workers a fleet needs for its load.

The rule is that of Kubernetes' HorizontalPodAutoscaler: as many workers as bring the mean load to its target, taken
from a window of time, so that a fleet neither follows a spike up nor a lull down.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from partition_actor.arguments import check_number, check_seconds, check_text, refuse

MAX_SIZE = 10_000
"""Workers of one fleet."""


@dataclass(frozen=True)
class Autoscale:
    """Keep a fleet's mean load near a target.

    ``Autoscale(min=2, max=20, target=100.0, load="queue_depth")``: each worker's ``queue_depth()`` returns a number of
    0 or more, and the fleet has as many workers as bring the mean near 100.

    Raises ``InvalidArgument``.
    """

    min: int
    """The least number of workers, 1 or more: without workers there is nobody to report a load."""
    max: int
    """The most."""
    target: float
    """The load of one worker that the mean is to be near, above 0."""
    load: str | Callable[[Any], float]
    """The name of a worker's method, or a function of the worker that runs in its process. It is called about once a
    second, in a thread of its own."""
    up_after: float = 5.0
    """Seconds for which more workers must have been needed before the fleet grows."""
    down_after: float = 60.0
    """Seconds for which fewer workers must have been enough before the fleet shrinks."""
    tolerance: float = 0.1
    """The fraction of the target by which the mean may differ from it and nothing changes."""

    def __post_init__(self) -> None:
        check_number("min", self.min, least=1, most=MAX_SIZE)
        check_number("max", self.max, least=self.min, most=MAX_SIZE)
        for name in ("target", "tolerance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                refuse(name, value, "a number above 0")
        if self.target <= 0:
            refuse("target", self.target, "a number above 0")
        if not callable(self.load):
            check_text("load", self.load)
        check_seconds("up_after", self.up_after)
        check_seconds("down_after", self.down_after)


class Scaler:
    """Decides how many workers there are to be, from what they report."""

    def __init__(self, rule: Autoscale) -> None:
        self.rule = rule
        self._needs: deque[tuple[float, int]] = deque()
        """When so many workers were needed, oldest first."""
        self._began: float | None = None
        self.last_need: int | None = None
        """How many workers the latest loads call for, within the limits."""

    def decide(self, now: float, size: int, loads: Sequence[float | None]) -> int:
        """How many workers there are to be, of `size` now. `loads` has None for a worker that has not reported yet.

        A worker without a report counts as idle when the others call for more, and as loaded to the target when they
        call for fewer.
        """
        rule = self.rule
        size = self._within(size)
        known = [load for load in loads if load is not None and math.isfinite(load) and load >= 0]
        if not known:
            return size
        silent = max(0, size - len(known))
        wanted = sum(min(load / rule.target, MAX_SIZE) for load in known)
        need = math.ceil(wanted)
        if need < size:
            need = min(size, math.ceil(wanted + silent))
        if abs(wanted / max(1, size) - 1) <= rule.tolerance:
            need = size
        self.last_need = need = self._within(need)
        self._began = now if self._began is None else self._began
        self._needs.append((now, need))
        longest = max(rule.up_after, rule.down_after)
        while self._needs[0][0] < now - longest:
            self._needs.popleft()
        up = self._in_window(now, rule.up_after)
        if up is not None and min(up) > size:
            return min(up)
        down = self._in_window(now, rule.down_after)
        if down is not None and max(down) < size:
            return max(down)
        return size

    def _in_window(self, now: float, seconds: float) -> list[int] | None:
        """What was needed in the last `seconds`; None while it has not been watched for so long."""
        assert self._began is not None
        if now - self._began < seconds:
            return None
        return [need for at, need in self._needs if at >= now - seconds]

    def _within(self, size: int) -> int:
        return min(self.rule.max, max(self.rule.min, size))
