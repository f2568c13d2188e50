"""Waiters of the partition actor's event loop: woken at their turn, or before."""

import asyncio

from partition_actor.actor.timer_wheel import SLOT, TimerWheel, fire


def test_waiters_are_woken_in_their_order_and_together_when_they_are_due_together():
    async def scenario():
        wheel, loop, woken = TimerWheel(), asyncio.get_running_loop(), []

        async def wait(name, seconds):
            start = loop.time()
            await wheel.timer(seconds)
            woken.append(name)
            assert loop.time() - start >= seconds - SLOT

        await asyncio.gather(wait("late", 5 * SLOT), wait("soon", SLOT), wait("at once", 0.0))
        assert woken == ["at once", "soon", "late"]
        before = len(wheel._slots)
        many = [wheel.timer(1.0) for _ in range(50)]
        assert len(wheel._slots) <= before + 2
        for timer in many:
            fire(timer)

    asyncio.run(scenario())


def test_one_that_was_woken_before_is_left_alone_by_its_turn():
    async def scenario():
        wheel = TimerWheel()
        timer = wheel.timer(SLOT)
        fire(timer)
        fire(timer)
        await timer
        await wheel.timer(2 * SLOT)
        assert timer.result() is None

    asyncio.run(scenario())
