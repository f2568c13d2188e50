"""Waiting in the partition actor's event loop: for a moment, or until somebody has news."""

from __future__ import annotations

import asyncio

TURN = 0.02
"""Seconds. Those whose time comes within it are woken in one turn of the event loop, which costs less than one each."""


def wake(waiter: asyncio.Future[None]) -> None:
    """Let whoever awaits this go on, if it still waits."""
    if not waiter.done():
        waiter.set_result(None)


class Turns:
    """Wakes many waiters in few turns of the event loop."""

    def __init__(self) -> None:
        self._waiters: dict[int, list[asyncio.Future[None]]] = {}

    def waiter(self, seconds: float) -> asyncio.Future[None]:
        """What is woken so many seconds from now, up to `TURN` earlier; it may be woken before."""
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        turn = int((loop.time() + seconds) / TURN)
        if turn not in self._waiters:
            self._waiters[turn] = []
            loop.call_at(turn * TURN, self._wake_all, turn)
        self._waiters[turn].append(made)
        return made

    def _wake_all(self, turn: int) -> None:
        for waiter in self._waiters.pop(turn):
            wake(waiter)
