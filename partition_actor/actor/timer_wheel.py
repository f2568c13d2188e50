"""A timer wheel for held heartbeats: many timers fire in few turns of the event loop."""

from __future__ import annotations

import asyncio

SLOT = 0.02  # seconds; timers that are due within one slot fire together


class TimerWheel:
    """Groups timers by the slot in which they are due."""

    def __init__(self) -> None:
        self._slots: dict[int, list[asyncio.Future[None]]] = {}

    def timer(self, seconds: float) -> asyncio.Future[None]:
        """A future that is done after `seconds`, up to one `SLOT` earlier, or when `fire` is called on it."""
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        slot = int((loop.time() + seconds) / SLOT)
        if slot not in self._slots:
            self._slots[slot] = []
            loop.call_at(slot * SLOT, self._fire_slot, slot)
        self._slots[slot].append(made)
        return made

    def _fire_slot(self, slot: int) -> None:
        for timer in self._slots.pop(slot):
            fire(timer)


def fire(timer: asyncio.Future[None]) -> None:
    """Fire a timer now; does nothing if it has fired."""
    if not timer.done():
        timer.set_result(None)
