"""The events that the page knows. Pure.

A call brings at most a few hundred events, and the partition actor keeps thousands. So the newest are asked for first,
and each second call then brings older ones, until all are here.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any

KEPT = 10_000
"""Events that are kept: as many as the partition actor keeps."""
AT_ONCE = 500
"""Events in one answer of the partition actor, at most, and in the first message to a browser."""
ARRIVALS_KEPT = 2_000
"""New events up to which a slow browser is sent only those that it lacks."""

Event = dict[str, Any]


class History:
    """Takes in answers of ``handle.events``, and gives each browser what it does not have yet."""

    def __init__(self) -> None:
        self._incarnation: int | None = None
        self._next = 0
        """All ids below are known, but for those in `_gap`."""
        self._gap: tuple[int, int] | None = None
        """The ids from the first up to the second are still to be asked for."""
        self._is_gap_next = False
        self._events: dict[tuple[int, float], Event] = {}
        self._order: list[tuple[int, float]] = []
        self._arrivals: deque[Event] = deque(maxlen=ARRIVALS_KEPT)
        self.arrived = 0
        """How many events have ever arrived."""

    def since(self) -> int:
        """The `since` of the next call."""
        return self._gap[0] if self._gap is not None and self._is_gap_next else self._next

    def take(self, since: int, incarnation: int, answer: Mapping[str, Any], latest: int) -> None:
        """Take in the answer to a call with `since`; `latest` is the cursor behind the latest event."""
        if incarnation != self._incarnation:
            self._incarnation, self._next, self._gap = incarnation, 0, None
            if since != 0:
                return  # a cursor of the former partition actor means nothing to this one
        if self._next and since == self._next and answer["missed"] > 0:
            self._add_missing(answer)
        for event in answer["events"]:
            self._add(event["id"], event)
        if self._gap is not None and since == self._gap[0] and since != self._next:
            gap = (answer["next"], self._gap[1])
            self._gap = gap if answer["more"] and gap[0] < gap[1] else None
            self._is_gap_next = False
        elif answer["more"] and latest - AT_ONCE > answer["next"]:
            self._gap = (self._gap[0] if self._gap else answer["next"], latest - AT_ONCE)
            self._next = latest - AT_ONCE
            self._is_gap_next = False
        else:
            self._next = answer["next"]
            self._is_gap_next = True

    def first(self, group: str | None) -> list[Event]:
        """The latest events, oldest first; only those of `group` and of all groups if it is not None."""
        newest = (self._events[key] for key in reversed(self._order))
        return list(islice((event for event in newest if concerns(event, group)), AT_ONCE))[::-1]

    def arrived_since(self, arrived: int, group: str | None) -> list[Event] | None:
        """The events that have arrived since `arrived` was so large; None if they are not kept: take `first` anew."""
        new = self.arrived - arrived
        if new > len(self._arrivals):
            return None
        latest = islice(self._arrivals, len(self._arrivals) - new, None)
        return [event for event in latest if concerns(event, group)]

    def _add_missing(self, answer: Mapping[str, Any]) -> None:
        events = answer["events"]
        text = f"{answer['missed']} events before this one are no longer kept: nobody had the page open."
        self._add(
            (events[0]["id"] if events else answer["next"]) - 0.5,
            {"what": "missing", "why": text, "time": events[0]["time"] if events else None},
        )

    def _add(self, number: float, event: Mapping[str, Any]) -> None:
        key = (self._incarnation or 0, number)
        if key in self._events or (len(self._order) == KEPT and key < self._order[0]):
            return
        taken = {**event, "id": number, "incarnation": key[0]}
        self._events[key] = taken
        insort(self._order, key)
        self._arrivals.append(taken)
        self.arrived += 1
        if len(self._order) > KEPT:
            del self._events[self._order.pop(0)]


def concerns(event: Mapping[str, Any], group: str | None) -> bool:
    """Whether a page that shows `group` shows this event; None shows all."""
    return group is None or event.get("group") == group or (event.get("group") is None and not event.get("lock"))
