"""How many samples go into a batch: chosen from what batches turn out to cost."""

from __future__ import annotations

# What sending may add to the work, as a fraction of it. Less would cost latency and win next to nothing.
_OVERHEAD = 0.1
# Seconds of work in one batch at the most: so long the owner does nothing else, and so much is repeated after a crash.
_WORK = 0.5
_FEWEST, _MOST = 50, 20_000
# How much the newest measurement counts: a batch that met a busy machine should not decide alone.
_NEWEST = 0.3


class BatchSize:
    """The size of a pipeline's batches.

    A batch costs a fixed time (the call, the commit) and a time for each sample. The size is the one at which the first
    is a tenth of the second, unless the batch would be too much work to do in one go.
    """

    def __init__(self) -> None:
        self.samples = 500
        self._fixed: float | None = None  # seconds
        self._each: float | None = None  # seconds

    def learn(self, samples: int, work: float, elapsed: float) -> None:
        """Takes a batch in.

        Args:
            samples: how many were in it that were new; one without any teaches nothing.
            work: seconds that cost by the sample.
            elapsed: seconds from sending to the receipt.
        """
        if samples < 1 or work <= 0:
            return
        self._fixed = _blend(self._fixed, max(elapsed - work, 0.0))
        self._each = _blend(self._each, work / samples)
        wanted = min(self._fixed / _OVERHEAD, _WORK) / self._each
        self.samples = round(min(max(wanted, _FEWEST), _MOST))


def _blend(known: float | None, new: float) -> float:
    return new if known is None else known + _NEWEST * (new - known)
