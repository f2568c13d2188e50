"""How many samples go into a batch: as many as its owner works on for 50 ms, from what earlier batches cost."""

from __future__ import annotations

FIRST = 500
"""Samples in a batch before any cost is known."""
FEWEST, MOST = 50, 20_000
"""Bounds of the size, in samples."""

# Seconds of work in a batch. A call and a commit cost some milliseconds whatever the batch holds, little against this.
# A longer batch would gain little, block its owner for longer, and repeat more work after a crash.
_WORK = 0.05
# Weight of the newest measurement, so that one odd batch does not decide the size.
_NEWEST = 0.3


class BatchSize:
    """The size of one pipeline's batches."""

    def __init__(self) -> None:
        self.samples = FIRST
        self._each: float | None = None  # seconds

    def learn(self, samples: int, work: float) -> None:
        """Take the cost of a batch into account.

        Args:
            samples: number of new samples in it; a batch without any is ignored.
            work: CPU seconds that its owner spent on it.
        """
        if samples < 1 or work <= 0:
            return
        each = work / samples
        self._each = each if self._each is None else self._each + _NEWEST * (each - self._each)
        self.samples = round(min(max(_WORK / self._each, FEWEST), MOST))
