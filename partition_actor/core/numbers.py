"""Which of the numbers 0, 1, 2, … are free."""

from __future__ import annotations

from heapq import heappop, heappush


class FreeNumbers:
    """Knows the lowest free number. A step costs the logarithm of how many there are, or a constant on average."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self._freed: list[int] = []
        """A heap of the numbers below `_next` that are free, each once, and of some that have been taken since."""
        self._in_heap: set[int] = set()
        self._next = 0

    def take(self, number: int) -> None:
        """Take a number that is free."""
        self.taken.add(number)

    def free(self, number: int) -> None:
        """Give a number back."""
        self.taken.remove(number)
        if number < self._next and number not in self._in_heap:
            self._in_heap.add(number)
            heappush(self._freed, number)

    def lowest(self) -> int:
        """The lowest free number."""
        while self._freed and self._freed[0] in self.taken:
            self._in_heap.remove(heappop(self._freed))
        if self._freed:
            return self._freed[0]
        while self._next in self.taken:
            self._next += 1
        return self._next
