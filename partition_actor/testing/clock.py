"""Clocks that go only when they are told to."""

from __future__ import annotations


class FakeClock:
    """A clock in seconds, for the `now` that ``Membership`` and ``MemberState`` take.

    It shows `offset` + `rate` * the time of the clock `of`, or of its own time when it follows none; its own time
    goes by `advance` alone.
    """

    __slots__ = ("_of", "_offset", "_rate", "_time")

    def __init__(self, offset: float = 0.0, rate: float = 1.0, of: FakeClock | None = None) -> None:
        self._offset, self._rate, self._of, self._time = offset, rate, of, 0.0

    def now(self) -> float:
        """The time it shows."""
        return self._offset + self._rate * (self._time if self._of is None else self._of.now())

    def advance(self, seconds: float) -> float:
        """Let `seconds` (at least 0) go by on a clock that follows no other; returns the time it shows then.

        Raises ``ValueError`` otherwise.
        """
        if self._of is not None or not seconds >= 0:
            raise ValueError(f"seconds: got {seconds!r}, expected at least 0, on a clock that follows no other")
        self._time += seconds
        return self.now()
