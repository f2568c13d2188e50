"""How many samples go into a batch: chosen from what batches turn out to cost."""

from __future__ import annotations

# Seconds of work in a batch. A call and a commit cost some milliseconds, whatever is in them: next to this that is
# little. More would win little, and so long the batch's owner does nothing else, and so much is repeated after a crash.
_WORK = 0.05
_FEWEST, _MOST = 50, 20_000
# How much the newest measurement counts: one odd batch should not decide alone.
_NEWEST = 0.3


class BatchSize:
    """The size of a pipeline's batches: as many samples as its owner works on for 50 ms."""

    def __init__(self) -> None:
        self.samples = 500
        self._each: float | None = None  # seconds

    def learn(self, samples: int, work: float) -> None:
        """Takes a batch in.

        Args:
            samples: how many were in it that were new; one without any teaches nothing.
            work: the CPU time, in seconds, that its owner spent on it.
        """
        if samples < 1 or work <= 0:
            return
        each = work / samples
        self._each = each if self._each is None else self._each + _NEWEST * (each - self._each)
        self.samples = round(min(max(_WORK / self._each, _FEWEST), _MOST))
