"""How busy the partition actor is: what its status tells of heartbeats and of its event loop."""

from __future__ import annotations

import asyncio

from partition_actor import clock

WINDOW = 5.0
"""Seconds. The longest of the last one or two windows is told."""
LOOK_EVERY, LOOK_IDLE = 0.02, 0.1
"""Seconds between two looks at how late the event loop is, while heartbeats come and while none do. To wake an idle
loop takes 90 µs, a look in a busy one a tenth of that."""


class Longest:
    """The longest of some times, each in seconds, of the last `WINDOW` to two of them."""

    def __init__(self) -> None:
        self._window = 0
        self._now = self._before = 0.0

    def note(self, now: float, seconds: float) -> None:
        """Something took so long."""
        self._turn(now)
        self._now = max(self._now, seconds)

    def at(self, now: float) -> float:
        """The longest time; 0.0 if there was none."""
        self._turn(now)
        return max(self._now, self._before)

    def _turn(self, now: float) -> None:
        window = int(now / WINDOW)
        if window != self._window:
            self._before = self._now if window == self._window + 1 else 0.0
            self._now, self._window = 0.0, window


class Load:
    """The heartbeats taken in, how late they came, and for how long the event loop was held up."""

    def __init__(self) -> None:
        self.heartbeats = 0
        """Taken in since the start."""
        self._late, self._steps = Longest(), Longest()
        self._look_at = 0.0
        self._looked_at_heartbeats = 0

    def heartbeat(self, now: float, due: float | None) -> None:
        """One has come, which was `due` then; None if nobody knows when."""
        self.heartbeats += 1
        if due is not None and now > due:
            self._late.note(now, now - due)

    def watch_loop(self) -> None:
        """Look from now on at how late the running event loop is."""
        delay = LOOK_IDLE if self.heartbeats == self._looked_at_heartbeats else LOOK_EVERY
        self._look_at, self._looked_at_heartbeats = clock.now() + delay, self.heartbeats
        asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        now = clock.now()
        self._steps.note(now, now - self._look_at)
        self.watch_loop()

    def late(self) -> float:
        """Seconds: the longest time by which a heartbeat came after its interval, in the last ten seconds or so."""
        return self._late.at(clock.now())

    def longest_step(self) -> float:
        """Seconds: the longest time for which the event loop was held up, in the last ten seconds or so.

        Up to the time between two looks less than it was, as one may have been due in the middle of that.
        """
        return self._steps.at(clock.now())
