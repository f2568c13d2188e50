"""Timers and lease expiry, in seconds on any one clock. Cost scales with what fires, not with what is pending."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Timers(Generic[K]):
    """One moment for each key."""

    def __init__(self) -> None:
        self._moments: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        """With entries that a later `set` has replaced; they are dropped when they come up."""
        self._set = 0

    def set(self, key: K, moment: float | None) -> None:
        """Let `key` fire at `moment` and not at the moment that it had before; None: let it not fire."""
        if moment is None:
            self._moments.pop(key, None)
        elif self._moments.get(key) != moment:
            self._set += 1
            self._moments[key] = moment
            heappush(self._heap, (moment, self._set, key))

    def moment(self, key: K) -> float | None:
        """When `key` fires, or None."""
        return self._moments.get(key)

    def next(self) -> float | None:
        """The first moment, or None."""
        while self._heap and self._moments.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self, now: float) -> K | None:
        """Drop and return the key of the first moment that is at or before `now`; None when there is none."""
        if (moment := self.next()) is None or moment > now:
            return None
        key = heappop(self._heap)[2]
        del self._moments[key]
        return key

    def fire(self, now: float) -> list[K]:
        """Drop and return the keys whose moment is at or before `now`, in order of their moments."""
        keys = []
        while (key := self.pop(now)) is not None:
            keys.append(key)
        return keys


class LeaseQueue(Generic[K]):
    """The ends of many leases. Time never goes back.

    Leases of one length end in the order of their last renewal, so each length has a queue whose head ends first. There
    are few lengths at a time (see ``Settings.ttl_for``).
    """

    def __init__(self) -> None:
        self._queues: dict[float, OrderedDict[K, float]] = {}
        """``{length: {key: when its lease began}}``, in the order of beginning."""
        self._length_of: dict[K, float] = {}

    def __len__(self) -> int:
        return len(self._length_of)

    def __contains__(self, key: K) -> bool:
        return key in self._length_of

    def end(self, key: K) -> float:
        """When the lease of `key` ends. Raises ``KeyError`` when it has none."""
        length = self._length_of[key]
        return self._queues[length][key] + length

    def renew(self, key: K, now: float, length: float) -> None:
        """Let the lease of `key` run until `now + length`; one that already runs longer keeps its end."""
        try:
            queue = self._queues[length]
            queue.move_to_end(key)
        except KeyError:
            self._begin(key, now, length)
        else:
            queue[key] = now

    def _begin(self, key: K, now: float, length: float) -> None:
        if key in self._length_of:
            if self.end(key) >= now + length:
                return
            self.drop(key)
        self._length_of[key] = length
        self._queues.setdefault(length, OrderedDict())[key] = now

    def left(self, now: float) -> dict[K, float]:
        """The seconds that each lease has left."""
        return {key: self.end(key) - now for key in self._length_of}

    def drop(self, key: K) -> None:
        """Forget the lease of `key`, if there is one."""
        length = self._length_of.pop(key, None)
        if length is not None:
            queue = self._queues[length]
            del queue[key]
            if not queue:
                del self._queues[length]

    def next_end(self) -> float | None:
        """When the first lease ends, or None when none is held."""
        return min((next(iter(queue.values())) + length for length, queue in self._queues.items()), default=None)

    def expire(self, now: float) -> list[K]:
        """Drop and return the leases whose end is at or before `now`."""
        ended: list[K] = []
        for length, queue in list(self._queues.items()):
            for key, began in queue.items():
                if began + length > now:
                    break
                ended.append(key)
        for key in ended:
            self.drop(key)
        return ended
