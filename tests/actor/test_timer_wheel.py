"""Waiters of the partition actor's event loop: woken at their turn, or before."""

import asyncio

from partition_actor.actor.timer_wheel import TURN, Turns, wake


def test_waiters_are_woken_in_their_order_and_together_when_they_are_due_together():
    async def scenario():
        turns, loop, woken = Turns(), asyncio.get_running_loop(), []

        async def wait(name, seconds):
            start = loop.time()
            await turns.waiter(seconds)
            woken.append(name)
            assert loop.time() - start >= seconds - TURN

        await asyncio.gather(wait("late", 5 * TURN), wait("soon", TURN), wait("at once", 0.0))
        assert woken == ["at once", "soon", "late"]
        before = len(turns._waiters)
        many = [turns.waiter(1.0) for _ in range(50)]
        assert len(turns._waiters) <= before + 2
        for waiter in many:
            wake(waiter)

    asyncio.run(scenario())


def test_one_that_was_woken_before_is_left_alone_by_its_turn():
    async def scenario():
        turns = Turns()
        waiter = turns.waiter(TURN)
        wake(waiter)
        wake(waiter)
        await waiter
        await turns.waiter(2 * TURN)
        assert waiter.result() is None

    asyncio.run(scenario())
