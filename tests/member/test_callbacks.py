"""Which thread runs users' callbacks, what happens when they raise, and who waits for them."""

import asyncio
import contextvars
import threading
from contextlib import contextmanager

import pytest
from deployments import wait_until
from machines import KEYS, World
from sessions import FakeTransport

from partition_actor.core.member_driver import Delivery
from partition_actor.member import callbacks as callbacks_module
from partition_actor.member.background import run_in_thread
from partition_actor.member.callbacks import MAX_THREADS, Callback, Callbacks, Elected, GroupEvent, inside
from partition_actor.member.session import Session

LIMIT = 30.0


class Listener:
    """Runs `lost` and `gained` when it is told, each as one callback."""

    def __init__(self, group="g", lost=lambda everything: None, gained=lambda: None):
        self.group, self.lost, self.gained = group, lost, gained

    def tell_lost(self, everything):
        self.lost(everything)
        yield

    def tell_gained(self):
        self.gained()
        yield


class Slow:
    """A callback that returns when the test lets it."""

    def __init__(self):
        self.begun, self.go_on, self.returned = threading.Semaphore(0), threading.Event(), threading.Event()

    def __call__(self, *_):
        self.begun.release()
        assert self.go_on.wait(LIMIT)
        self.returned.set()

    def begins(self, times=1):
        return all(self.begun.acquire(timeout=LIMIT) for _ in range(times))


@pytest.fixture
def world():
    return World()


@pytest.fixture
def transport(world):
    return FakeTransport(world)


@pytest.fixture
def session(transport, world):
    made = Session("a", transport, world.settings)
    made.start()
    made.call_timeout = LIMIT
    return made


@pytest.fixture
def callbacks(session):
    return Callbacks(session)


@pytest.fixture
def slow():
    made = Slow()
    yield made
    made.go_on.set()


def serving():
    """The threads that run callbacks."""
    return [thread for thread in threading.enumerate() if thread.name == "partition-actor-callbacks-a"]


@pytest.fixture(autouse=True)
def idle():
    """No thread is left of an earlier test, nor of this one."""
    yield
    wait_until(lambda: not serving())


def done(callbacks):
    """Wait until all callbacks that were pending have returned."""
    session = callbacks._session
    assert session.wait(lambda: not session.driver.unfinished())


def join(session, group="g", exclusive=True):
    with session.event():
        session.member_state.join(group, exclusive=exclusive)
    session.send_now()


@contextmanager
def guarded(session, group="g"):
    """Run the code within as a guarded call does."""
    with session.lock:
        call = session.driver.begin_call(session.now(), session.process(), group, KEYS[:1])
    assert call is not None
    with inside(call):
        yield
    with session.event() as driver:
        driver.end_call(session.now(), call)


# -- what is told -----------------------------------------------------------------------------------------------


def test_watchers_and_listeners_are_told_in_the_order_that_a_hand_off_needs(callbacks, session, world, transport):
    told = []
    callbacks.add_watcher("g", told.append)
    callbacks.add_listener(
        Listener("g", lambda everything: told.append(("lost", everything)), lambda: told.append("gained"))
    )
    done(callbacks)
    told.clear()
    join(session)
    done(callbacks)
    event = GroupEvent("g", session.view("g").epoch, ("a",), ())
    assert told == [("lost", False), event, "gained"]
    told.clear()
    with session.event() as driver:
        driver.leave("g")
    done(callbacks)
    transport.beat()
    done(callbacks)
    assert told[-3:] == [("lost", False), GroupEvent("g", None, (), ("a",)), "gained"]


def test_every_callback_of_a_listener_is_run(callbacks):
    told = []

    class Several(Listener):
        def tell_lost(self, everything):
            for number in range(3):
                told.append((number, callbacks.is_inside("g")))
                yield

        def tell_gained(self):
            yield from self.tell_lost(False)

    callbacks.add_listener(Several())
    done(callbacks)
    assert told == [(0, True), (1, True), (2, True)] * 2


def test_another_process_under_the_same_id_is_no_change_of_membership(callbacks, session, world, transport):
    events = []
    join(session)
    callbacks.add_watcher("g", events.append)
    done(callbacks)
    world.member("a").beat()
    transport.beat()
    done(callbacks)
    assert all(event.left == ("a",) and event.epoch is None for event in events)


def test_the_partition_actor_hears_when_the_callbacks_for_lost_keys_have_returned(
    callbacks, session, world, transport, slow
):
    gaining = Slow()
    join(session)
    listener = Listener()
    callbacks.add_listener(listener)
    done(callbacks)
    listener.lost, listener.gained = slow, gaining
    b = world.member("b")
    b.beat()
    transport.beat()
    assert slow.begins()
    b.beat()
    assert b.works_on == []
    slow.go_on.set()
    assert gaining.begins()
    b.beat()
    assert b.works_on
    gaining.go_on.set()


def test_callbacks_of_an_election_are_told_of_the_lead(callbacks, session):
    elected = []
    session.elect("g", Callback(elected.append))
    done(callbacks)
    ((group, token),) = [(told.group, told.fencing_token) for told in elected]
    assert isinstance(elected[0], Elected)
    assert group == "g"
    assert token > 0


def test_who_was_removed_is_told_of_nothing_more(callbacks):
    told = []
    removed, kept = Listener(gained=lambda: told.append("removed")), Listener(gained=lambda: told.append("kept"))
    for listener in (removed, kept):
        callbacks.add_listener(listener)
    done(callbacks)
    told.clear()
    callbacks.remove_listener(removed)
    callbacks.remove_listener(removed)
    callbacks.refresh("g")
    done(callbacks)
    assert told == ["kept"]


# -- threads ----------------------------------------------------------------------------------------------------


def test_callbacks_of_a_group_run_one_at_a_time_in_another_thread_that_ends(callbacks):
    threads, at_once = [], []

    def gained():
        at_once.append(len(at_once) - len(threads))
        threads.append(threading.current_thread())

    callbacks.add_listener(Listener(gained=gained))
    for _ in range(20):
        done(callbacks)
        callbacks.refresh("g")
    done(callbacks)
    assert len(threads) == 21
    assert set(at_once) == {0}
    assert threading.current_thread() not in threads
    wait_until(lambda: not serving())
    callbacks.refresh("g")
    done(callbacks)
    assert threads[-1] not in threads[:-1]


def test_a_slow_callback_holds_up_its_own_group_alone(callbacks, slow):
    told = []
    callbacks.add_listener(Listener("g", gained=slow))
    assert slow.begins()
    callbacks.refresh("g")
    callbacks.add_listener(Listener("h", gained=lambda: told.append("h")))
    wait_until(lambda: told == ["h"])
    assert not slow.begun.acquire(blocking=False)
    slow.go_on.set()
    assert slow.begins()


def test_an_election_does_not_wait_for_the_group_nor_the_group_for_it(callbacks, session, slow):
    told = []
    session.elect("g", Callback(slow))
    assert slow.begins()
    callbacks.add_listener(Listener("g", gained=lambda: told.append("g")))
    wait_until(lambda: told == ["g"])


def test_there_are_never_more_threads_than_the_limit_and_all_groups_get_their_turn(callbacks, slow):
    groups = [f"group-{number}" for number in range(MAX_THREADS + 5)]
    for group in groups:
        callbacks.add_listener(Listener(group, gained=slow))
    assert slow.begins(MAX_THREADS)
    assert len(serving()) == MAX_THREADS
    assert not slow.begun.acquire(blocking=False)
    slow.go_on.set()
    assert slow.begins(len(groups) - MAX_THREADS)


def test_a_child_process_has_threads_of_its_own(callbacks, transport, session, slow):
    """Those that were busy at the fork do not exist in the child."""
    for number in range(MAX_THREADS):
        callbacks.add_listener(Listener(f"group-{number}", gained=slow))
    assert slow.begins(MAX_THREADS)
    told = []
    transport.pid = "child"
    session.start()
    callbacks.add_listener(Listener(gained=lambda: told.append("child")))
    wait_until(lambda: told == ["child"])


# -- callbacks that raise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, asyncio.CancelledError, GeneratorExit, StopIteration, TimeoutError]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_callback_raises_is_logged_and_stops_nothing(callbacks, session, caplog, error, is_async):
    told = []

    def broken(_event):
        raise error("on purpose")

    async def broken_later(_event):
        raise error("on purpose")

    callbacks.add_watcher("g", broken_later if is_async else broken)
    callbacks.add_watcher("g", told.append)
    join(session)
    with session.event() as driver:
        driver.leave("g")
    wait_until(lambda: len(told) == 2)
    done(callbacks)
    assert caplog.text.count("failed") == 2
    assert caplog.text.count("on purpose") >= 1


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_whatever_else_raises_sticks_neither_its_group_nor_its_thread(callbacks, caplog, error):
    """Such as a key that cannot be turned into text."""
    told = []
    listener = Listener(gained=lambda: told.append("gained"))
    callbacks.add_listener(listener)
    done(callbacks)

    def broken(everything):
        raise error("on purpose")

    listener.lost = broken
    for _ in range(MAX_THREADS + 1):
        callbacks.refresh("g")
        done(callbacks)
    listener.lost = lambda everything: None
    told.clear()
    callbacks.refresh("g")
    done(callbacks)
    assert told == ["gained"]
    wait_until(lambda: caplog.text.count("callbacks of member 'a' failed") == MAX_THREADS + 1)


def test_an_interrupt_reaches_the_program_that_runs_the_callbacks_itself(callbacks, session, transport):
    """ctrl-C in ``run_watchers``: the program ends, and the group goes on if it does not."""

    def interrupted(_event):
        raise KeyboardInterrupt

    with not_in_threads(session):
        callbacks.add_watcher("g", interrupted)
        join(session)
        with pytest.raises(KeyboardInterrupt):
            callbacks.run_pending()
        callbacks.run_pending()
        assert session.driver.unfinished() == []


@contextmanager
def not_in_threads(session):
    """Leave deliveries to those who ask for them."""
    deliver, session.deliver = session.deliver, lambda: None
    yield
    session.deliver = deliver


# -- async callbacks --------------------------------------------------------------------------------------------


def test_an_async_callback_runs_on_the_loop_on_which_it_was_registered_and_is_awaited(callbacks, session):
    async def scenario():
        loop, seen = asyncio.get_running_loop(), []

        async def on_event(event):
            for _ in range(10):
                await asyncio.sleep(0)
            seen.append(asyncio.get_running_loop() is loop)

        callbacks.add_watcher("g", on_event)
        callbacks.add_watcher("g", lambda event: seen.append("next"))
        join(session)
        await run_in_thread(done, callbacks)
        return seen

    assert asyncio.run(scenario()) == [True, "next"]


def test_what_an_async_callback_raises_on_its_loop_is_logged(callbacks, session, caplog):
    async def scenario():
        async def broken(event):
            raise RuntimeError("on purpose")

        callbacks.add_watcher("g", broken)
        join(session)
        await run_in_thread(done, callbacks)

    asyncio.run(scenario())
    assert "RuntimeError: on purpose" in caplog.text


@pytest.mark.parametrize("registered_on", ["no loop", "a loop that has stopped", "a loop that is closed"])
def test_an_async_callback_without_its_loop_runs_on_one_of_its_own(registered_on):
    seen = []

    async def on_event(event):
        await asyncio.sleep(0)
        seen.append(event)

    async def register():
        return Callback(on_event)

    loop = asyncio.new_event_loop()
    callback = Callback(on_event) if registered_on == "no loop" else loop.run_until_complete(register())
    if registered_on == "a loop that is closed":
        loop.close()
    callback("event")
    loop.close()
    assert seen == ["event"]


def test_an_async_callback_whose_loop_stops_while_it_runs_is_given_up(callbacks, session, caplog, monkeypatch):
    monkeypatch.setattr(callbacks_module, "LOOP_CHECK_INTERVAL", 0.01)
    begun, told = threading.Event(), []
    loop = asyncio.new_event_loop()

    async def for_ever(event):
        begun.set()
        await asyncio.Event().wait()

    async def register():
        callbacks.add_watcher("g", for_ever)
        callbacks.add_watcher("g", told.append)
        join(session)
        await run_in_thread(begun.wait, LIMIT)

    loop.run_until_complete(register())
    wait_until(lambda: told)
    assert "its event loop was stopped while it ran" in caplog.text
    loop.run_until_complete(asyncio.sleep(0))  # lets the cancelled task end
    loop.close()


def test_an_async_callback_may_take_as_long_as_it_likes(caplog, monkeypatch):
    monkeypatch.setattr(callbacks_module, "LOOP_CHECK_INTERVAL", 0.0)

    async def scenario():
        seen = []

        async def on_event(event):
            for _ in range(200):
                await asyncio.sleep(0)
            seen.append(event)

        await run_in_thread(Callback(on_event), "event")
        return seen

    for _ in range(20):
        assert asyncio.run(scenario()) == ["event"]
    assert caplog.text == ""


def test_any_awaitable_is_awaited():
    class Awaitable:
        awaited = 0

        def __await__(self):
            self.awaited += 1
            return iter(())

    awaitable = Awaitable()
    Callback(lambda event: awaitable)("event")
    assert awaitable.awaited == 1


# -- running them oneself ---------------------------------------------------------------------------------------


def test_run_pending_runs_in_the_callers_thread_what_has_not_begun(callbacks, session):
    threads = []
    with not_in_threads(session):
        callbacks.add_listener(Listener("g", gained=lambda: threads.append(threading.current_thread())))
        callbacks.add_listener(Listener("h", gained=lambda: threads.append(threading.current_thread())))
        callbacks.run_pending()
        assert threads == [threading.current_thread()] * 2
        callbacks.run_pending()
        assert len(threads) == 2


def test_run_pending_waits_for_what_runs_elsewhere(callbacks, slow):
    callbacks.add_listener(Listener(gained=slow))
    assert slow.begins()
    returned = []
    caller = threading.Thread(target=lambda: (callbacks.run_pending(), returned.append(slow.returned.is_set())))
    caller.start()
    slow.go_on.set()
    caller.join(LIMIT)
    assert returned == [True]


def test_run_pending_does_not_wait_for_what_comes_later(callbacks, session, slow, monkeypatch):
    """Else a group that always changes would hold the caller up for ever."""
    waiting, later, wait = threading.Event(), Slow(), session.wait
    monkeypatch.setattr(session, "wait", lambda done: (waiting.set(), wait(done))[1])
    listener = Listener(gained=slow)
    callbacks.add_listener(listener)
    assert slow.begins()
    caller = threading.Thread(target=callbacks.run_pending)
    caller.start()
    assert waiting.wait(LIMIT)
    listener.gained = later
    callbacks.refresh("g")
    slow.go_on.set()
    caller.join(LIMIT)
    assert not caller.is_alive()
    assert later.begins()
    later.go_on.set()


def test_run_pending_waits_no_longer_than_the_timeout(callbacks, session, slow):
    session.call_timeout = 0.01
    callbacks.add_listener(Listener(gained=slow))
    assert slow.begins()
    callbacks.run_pending()
    assert not slow.returned.is_set()


def test_run_pending_on_an_event_loop_leaves_callbacks_to_their_threads(callbacks, session):
    """As in a loop in the seed's style in an asyncio actor: a callback may need the loop that would wait for it."""

    async def scenario():
        seen = asyncio.Event()

        async def on_event(event):
            seen.set()

        callbacks.add_watcher("g", on_event)
        join(session)
        callbacks.run_pending()
        await asyncio.wait_for(seen.wait(), LIMIT)

    asyncio.run(scenario())


def test_run_pending_within_a_callback_runs_what_may_run_and_waits_for_nobody(callbacks, session, slow):
    session.call_timeout = 1000.0
    callbacks.add_listener(Listener("slow", gained=slow))
    assert slow.begins()
    seen = []

    def nested():
        callbacks.add_listener(Listener("h", gained=lambda: seen.append("h")))
        callbacks.refresh("g")
        callbacks.run_pending()
        seen.append("g")

    with not_in_threads(session):
        callbacks.add_listener(Listener("g", gained=lambda: seen.append("g again") if seen else nested()))
        caller = threading.Thread(target=callbacks.run_pending)
        caller.start()
        wait_until(lambda: seen == ["h", "g", "g again"])
        slow.go_on.set()
        caller.join(LIMIT)
        assert not caller.is_alive()


def test_run_pending_within_a_guarded_call_does_not_wait(callbacks, session, slow):
    join(session)
    callbacks.add_listener(Listener("g", gained=slow))
    assert slow.begins()
    session.call_timeout = 1000.0
    with guarded(session):
        callbacks.run_pending()
    assert not slow.returned.is_set()


# -- what belongs to a callback ---------------------------------------------------------------------------------


def told_inside(callbacks, session, ask):
    """What `ask` returns within a callback of group g."""
    told = []
    callbacks.add_listener(Listener(gained=lambda: told.append(ask()) if not told else None))
    done(callbacks)
    return told[0]


def test_a_callback_knows_that_it_is_inside_its_group(callbacks, session):
    assert not callbacks.is_inside()
    ask = lambda: (callbacks.is_inside(), callbacks.is_inside("g"), callbacks.is_inside("h"))  # noqa: E731
    assert told_inside(callbacks, session, ask) == (True, True, False)
    assert not callbacks.is_inside()


def test_so_do_the_watchers_and_the_callbacks_of_elections(callbacks, session):
    told = []
    callbacks.add_watcher("g", lambda event: told.append(callbacks.is_inside("g")))
    session.elect("h", Callback(lambda elected: told.append(callbacks.is_inside("h"))))
    join(session)
    wait_until(lambda: told == [True, True])


def test_threads_and_tasks_that_a_callback_starts_are_inside_it(callbacks, session):
    async def ask():
        here = callbacks.is_inside("g")
        in_task = await asyncio.create_task(ask_in_task())
        return (
            here,
            in_task,
            await run_in_thread(callbacks.is_inside, "g"),
            await asyncio.to_thread(callbacks.is_inside),
        )

    async def ask_in_task():
        return callbacks.is_inside("g")

    assert told_inside(callbacks, session, lambda: asyncio.run(ask())) == (True,) * 4
    context = told_inside(callbacks, session, contextvars.copy_context)
    assert not context.run(callbacks.is_inside)  # the callback has returned


def test_an_async_callback_is_inside_on_its_own_loop(callbacks, session):
    async def scenario():
        told = []

        async def on_event(event):
            told.append(callbacks.is_inside("g"))
            told.append(await asyncio.create_task(is_inside()))

        async def is_inside():
            return callbacks.is_inside("g")

        callbacks.add_watcher("g", on_event)
        join(session)
        await run_in_thread(done, callbacks)
        return told, callbacks.is_inside()

    assert asyncio.run(scenario()) == ([True, True], False)


def test_a_guarded_call_is_inside_its_group_until_it_returns(callbacks, session):
    join(session)
    with guarded(session):
        assert callbacks.is_inside("g")
        assert not callbacks.is_inside("h")
        context = contextvars.copy_context()
        assert context.run(callbacks.is_inside)
    assert not callbacks.is_inside()
    assert not context.run(callbacks.is_inside)


def test_what_runs_in_one_member_is_not_inside_another(callbacks, session):
    other = Session("b", FakeTransport(World()), session.member_state.settings)
    other.start()
    others = Callbacks(other)
    assert told_inside(callbacks, session, others.is_inside) is False


def test_a_delivery_that_was_never_begun_is_not_inside(callbacks, session):
    with inside(Delivery("g", session.member_state)):
        assert not callbacks.is_inside()


def test_a_thread_that_cannot_be_started_is_tried_again_with_the_next_event(callbacks, monkeypatch, caplog):
    told, start, refused = [], threading.Thread.start, []

    def refuse_once(self):
        if not refused:
            refused.append(self)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    callbacks.add_listener(Listener(gained=lambda: told.append("gained")))
    assert "cannot start a thread" in caplog.text
    callbacks.refresh("g")
    wait_until(lambda: told)


def test_a_listener_looks_once_for_all_that_was_asked_for_meanwhile(callbacks, slow):
    looks = []
    callbacks.add_listener(Listener(gained=slow))
    assert slow.begins()
    callbacks.add_listener(Listener(gained=lambda: looks.append("look")))
    for _ in range(1000):
        callbacks.refresh("g")
    slow.go_on.set()
    done(callbacks)
    assert len(looks) <= 3
