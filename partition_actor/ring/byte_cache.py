"""A cache that is bounded by the bytes that its values take."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    size: int
    used: int


class ByteCache(Generic[Value]):
    """Keeps the values used last: at most ``max_bytes`` together, and the newest however large it is.

    Safe to use from many threads without a lock: what they share changes by one operation of a dict or an int at a
    time. A race costs at most that a value is made twice or dropped early.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[Hashable, _Entry[Value]] = {}
        self._total = 0
        self._uses = count()

    def get(self, key: Hashable) -> Value | None:
        """The value put under ``key``, if it is still kept."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        entry.used = next(self._uses)
        return entry.value

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep ``value``, which takes ``size`` bytes with its key, and drop the values used longest ago."""
        self._entries[key] = _Entry(value, size, next(self._uses))
        self._total += size
        while self._total > self._max_bytes and len(self._entries) > 1:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        # In this order, a value that another thread puts meanwhile is counted, if perhaps twice until the next time.
        self._total = 0
        entries = self._entries.copy()
        total = sum(entry.size for entry in entries.values())
        oldest_first = sorted(entries, key=lambda key: entries[key].used)
        least = len(entries) // 8  # so that where values are tiny, few calls of ``put`` come here
        for dropped, key in enumerate(oldest_first[:-1]):
            if total <= self._max_bytes and dropped >= least:
                break
            self._entries.pop(key, None)
            total -= entries[key].size
        self._total += total
