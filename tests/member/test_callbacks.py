"""The thread in which users' callbacks run, and the loops of those that are async."""

import asyncio
import threading

import pytest

from partition_actor.member.callbacks import Callback, CallbackQueue

LIMIT = 30.0
NAME = "callbacks-under-test"


@pytest.fixture
def queue():
    queue = CallbackQueue(NAME)
    yield queue
    queue.close()


def drained(queue):
    """Wait until the queue's own thread has run all that was posted so far."""
    done = threading.Event()
    queue.post(done.set)
    return done.wait(LIMIT)


def ended():
    """Wait until the queue's thread has ended."""
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join(LIMIT)
            assert not thread.is_alive()


def test_jobs_run_in_order_in_one_thread_of_their_own(queue):
    seen = []
    for n in range(100):
        queue.post(lambda n=n: seen.append((n, threading.get_ident())))
    assert drained(queue)
    assert [n for n, _ in seen] == list(range(100))
    assert len({thread for _, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_a_job_that_raises_is_logged_and_does_not_stop_the_next(queue, caplog):
    seen = []
    queue.post(lambda: 1 / 0)
    queue.post(lambda: seen.append("next"))
    assert drained(queue)
    assert seen == ["next"]
    assert "ZeroDivisionError" in caplog.text


def test_run_pending_runs_in_the_callers_thread_what_has_not_begun(queue):
    begun, go_on, threads = threading.Event(), threading.Event(), []

    def held_up():
        begun.set()
        go_on.wait(LIMIT)

    queue.post(held_up)
    assert begun.wait(LIMIT)
    queue.post(lambda: threads.append(threading.get_ident()))
    caller = threading.Thread(target=queue.run_pending)
    caller.start()
    assert not threads  # after the job that is running, not beside it
    go_on.set()
    caller.join(LIMIT)
    assert len(threads) == 1


def test_run_pending_with_nothing_pending_returns(queue):
    queue.run_pending()


def test_run_pending_within_a_job_runs_the_next_and_returns(queue):
    seen = []

    def first():
        queue.run_pending()
        seen.append("first")

    queue.post(first)
    queue.post(lambda: seen.append("second"))
    assert drained(queue)
    assert sorted(seen) == ["first", "second"]


def test_close_runs_what_is_pending_and_takes_no_more(queue):
    seen, go_on = [], threading.Event()
    queue.post(lambda: go_on.wait(LIMIT))
    queue.post(lambda: seen.append("pending"))
    queue.close()
    queue.post(lambda: seen.append("late"))
    go_on.set()
    ended()
    assert seen == ["pending"]


def test_a_closed_queue_opens_again(queue):
    assert drained(queue)
    queue.close()
    ended()
    queue.open()
    assert drained(queue)


def test_opening_before_the_old_thread_has_ended_keeps_the_order(queue):
    seen, go_on = [], threading.Event()
    queue.post(lambda: go_on.wait(LIMIT))
    queue.close()
    queue.open()
    for n in range(10):
        queue.post(lambda n=n: seen.append(n))
    go_on.set()
    assert drained(queue)
    assert seen == list(range(10))


def test_a_callback_that_raises_is_logged_not_raised(caplog):
    def broken(_event):
        raise RuntimeError("on purpose")

    Callback(broken)("event")
    assert "on purpose" in caplog.text


def test_an_async_callback_runs_on_the_loop_on_which_it_was_registered(queue):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), asyncio.Queue()

        async def on_event(event):
            await asyncio.sleep(0)
            seen.put_nowait((event, asyncio.get_running_loop() is loop))

        callback = Callback(on_event)
        queue.post(lambda: callback("event"))
        return await asyncio.wait_for(seen.get(), LIMIT)

    assert asyncio.run(scenario()) == ("event", True)


def test_the_queue_waits_for_an_async_callback_to_end(queue):
    async def scenario():
        order = []

        async def slow(_event):
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("callback")

        callback = Callback(slow)
        queue.post(lambda: callback("event"))
        queue.post(lambda: order.append("next job"))
        await asyncio.to_thread(drained, queue)
        return order

    assert asyncio.run(scenario()) == ["callback", "next job"]


def test_an_async_callback_registered_outside_a_loop_runs_on_one_of_its_own():
    seen = []

    async def on_event(event):
        seen.append(event)

    Callback(on_event)("event")
    assert seen == ["event"]


def test_an_async_callback_outlives_the_loop_on_which_it_was_registered():
    seen = []

    async def on_event(event):
        seen.append(event)

    async def register():
        return Callback(on_event)

    asyncio.run(register())("event")
    assert seen == ["event"]


def test_run_pending_on_the_loop_of_an_async_callback_does_not_wait_for_itself(queue):
    """As in a loop in the seed's style in an asyncio actor: the callback needs the loop that would wait for it."""

    async def scenario():
        begun, go_on, seen = threading.Event(), threading.Event(), asyncio.Queue()

        async def on_event(event):
            seen.put_nowait(event)

        def held_up():
            begun.set()
            go_on.wait(LIMIT)

        callback = Callback(on_event)
        queue.post(held_up)
        begun.wait(LIMIT)
        queue.post(lambda: callback("event"))
        queue.run_pending()
        go_on.set()
        return await asyncio.wait_for(seen.get(), LIMIT)

    assert asyncio.run(scenario()) == "event"
