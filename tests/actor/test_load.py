"""What the partition actor tells of its load."""

from __future__ import annotations

import asyncio
import time

from partition_actor import clock
from partition_actor.actor.load import WINDOW, Load, Longest


def test_the_longest_of_the_last_seconds_is_told_and_then_forgotten():
    longest = Longest()
    longest.note(100.0, 0.5)
    longest.note(100.1, 0.2)
    assert longest.at(100.2) == 0.5
    assert longest.at(100.0 + WINDOW) == 0.5
    assert longest.at(100.0 + 2 * WINDOW) == 0.0


def test_the_next_window_does_not_hide_the_one_before():
    longest = Longest()
    longest.note(100.0, 0.5)
    longest.note(100.0 + WINDOW, 0.1)
    assert longest.at(100.0 + WINDOW) == 0.5
    assert longest.at(100.0 + 2 * WINDOW) == 0.1


def test_heartbeats_are_counted_and_late_ones_told():
    load, now = Load(), clock.now()
    load.heartbeat(now, None)
    load.heartbeat(now, now + 1.0)
    assert load.late() == 0.0
    load.heartbeat(now, now - 0.5)
    assert load.late() == 0.5
    assert load.heartbeats == 3


def test_a_loop_that_is_held_up_is_told():
    async def scenario():
        load = Load()
        load.watch_loop()
        await asyncio.sleep(0)
        time.sleep(0.4)
        while load.longest_step() < 0.1:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 20.0))
