"""A clock that moves only when told to."""

from __future__ import annotations


class FakeClock:
    """A clock in seconds, for the `now` that ``Membership`` and ``MemberState`` take.

    It shows `offset` + `rate` * the time of the clock `of`. With no clock to follow it has a time of its own, which
    starts at 0 and moves only by ``advance``.
    """

    __slots__ = ("_of", "_offset", "_rate", "_time")

    def __init__(self, offset: float = 0.0, rate: float = 1.0, of: FakeClock | None = None) -> None:
        self._offset, self._rate, self._of, self._time = offset, rate, of, 0.0

    def now(self) -> float:
        """The time in seconds."""
        return self._offset + self._rate * (self._time if self._of is None else self._of.now())

    def advance(self, seconds: float) -> float:
        """Let `seconds` pass; returns the new time.

        Raises:
            ValueError: `seconds` is negative or not a number, or the clock follows another.
        """
        if self._of is not None or not seconds >= 0:
            raise ValueError(f"seconds: got {seconds!r}, expected at least 0, on a clock that follows no other")
        self._time += seconds
        return self.now()
