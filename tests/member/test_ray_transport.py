"""A session's heartbeats through Ray, against a partition actor in this process that answers when the test lets it."""

import asyncio
import gc
import logging
import os
import queue
import signal
import threading
import time
import traceback
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import ray
from deployments import LIMIT, wait_until
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from partition_actor import Settings
from partition_actor.core.messages import PROTOCOL
from partition_actor.errors import (
    GroupFull,
    InvalidArgument,
    NotStarted,
    PartitionActorNotFound,
    PartitionActorUnavailable,
    VersionMismatch,
)
from partition_actor.member import ray_transport
from partition_actor.member.background import run_in_background
from partition_actor.member.ray_transport import FIRST_PAUSE, LOG_INTERVAL, LOST_AFTER, RayTransport
from partition_actor.member.session import Session
from partition_actor.processes import ProcessIdentity

KEYS = [f"key-{number}" for number in range(12)]
SETTINGS = Settings(ttl=1000.0, hold=100.0, handoff_timeout=1000.0, publish_window=0.0)
"""No request of these is repeated because the answer is late."""


class Call:
    """A heartbeat that waits for its answer."""

    def __init__(self, request, death_watch=None):
        self.request, self.death_watch = request, death_watch
        self.future = Future()
        self.at = time.monotonic()

    def answer(self, resync=False, incarnation=1, lease=1000.0, interval=100.0, **groups):
        reply = {"seq": self.request["seq"], "incarnation": incarnation, "lease": lease, "exclusive_lease": lease}
        self.future.set_result({**reply, "interval": interval, "resync": resync, "views": False, "groups": groups})


class FakeActor:
    """Answers `hello`. Keeps heartbeats, which the test answers, and what else it is told."""

    def __init__(self, settings=SETTINGS):
        self.protocol = PROTOCOL
        self.settings = settings
        self.heartbeats = queue.SimpleQueue()
        self.closed = queue.SimpleQueue()
        self.greetings = 0
        self.lent = [["reference"]]
        """What it lends, the last one for good."""
        self.error = None
        """What each call raises before it is sent."""

    def __getattr__(self, method):
        def remote(*arguments):
            if self.error is not None:
                raise self.error
            future = getattr(self, f"_{method}")(*arguments)
            return SimpleNamespace(future=lambda: future, method=method)

        return SimpleNamespace(remote=remote)

    def _hello(self):
        self.greetings += 1
        return done({"protocol": self.protocol, "version": "its", "settings": self.settings.to_dict()})

    def _sync(self, *arguments):
        call = Call(*arguments)
        self.heartbeats.put(call)
        return call.future

    def _close_session(self, member_id, session):
        self.closed.put((member_id, session))
        return done(None)

    def _lend_pending_reference(self):
        return done(self.lent.pop(0) if len(self.lent) > 1 else self.lent[0])

    def _get_groups(self, *arguments):
        return done(["g", *arguments])

    def _hang(self):
        return Future()

    def next(self):
        """The next heartbeat."""
        return self.heartbeats.get(timeout=LIMIT)


def done(result):
    future = Future()
    future.set_result(result)
    return future


def view(counter=1, *members, exclusive=True, awaited=0):
    """What a reply says of a group."""
    members = members or ("a",)
    told = {"epoch": (1, counter), "rev": 0, "exclusive": exclusive, "mine": "a" in members, "base": None}
    changed = dict.fromkeys(members, 1)
    return {"view": {**told, "changed": changed, "laggards": [], "rings": [], "awaited": awaited}}


def settled():
    """Wait until the background loop has done what it can do at once."""
    for _ in range(3):
        run_in_background(asyncio.sleep(0)).result(LIMIT)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(ray_transport, "LOST_AFTER", 0.0)


@pytest.fixture
def actor(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray_transport, "own_identity", lambda: None)
    monkeypatch.setattr(ray_transport, "ray_life", lambda: "first")
    monkeypatch.setattr(ray_transport, "random", SimpleNamespace(uniform=lambda *_: 0.001))
    return FakeActor()


@pytest.fixture
def make(actor):
    """Make sessions; they are stopped after the test."""
    made = []

    def make(where=actor, call_timeout=LIMIT, on_changes=lambda changes: None):
        made.append(Session("a", RayTransport(where, "namespace"), Settings(call_timeout=call_timeout), on_changes))
        return made[-1]

    yield make
    for session in made:
        session.stop(waits=False)
        if session.was_started:
            with session.event() as driver:
                driver.abandon(session.member_state)
    ended()


async def other_tasks():
    return len(asyncio.all_tasks()) - 1


def ended():
    """Wait until the background loop has nothing left to do for any session."""
    wait_until(lambda: run_in_background(other_tasks()).result(LIMIT) == 0)


def begin(session, actor):
    """Start, and let the first heartbeat be answered; returns the next one."""
    session.start()
    actor.next().answer()
    return actor.next()


def join(session, actor):
    """Become the only member of an exclusive group."""
    with session.event():
        session.member_state.join("g", exclusive=True)
    session.send_now()
    call = actor.next()
    assert call.request["groups"]["g"]["want"] == "in"
    call.answer(g=view())
    return call


@pytest.fixture
def session(make):
    return make()


@pytest.fixture
def started(session, actor):
    """One whose first heartbeat has been answered; the next one waits in `actor.held`."""
    actor.held = begin(session, actor)
    return session


@pytest.fixture
def member(started, actor):
    """The only member of an exclusive group."""
    join(started, actor)
    actor.held = actor.next()
    assert started.share("g").of(KEYS) == KEYS
    return started


def leave(session, actor):
    """Let a session that was stopped be out of its group."""
    call = actor.next()
    assert call.request["groups"]["g"]["want"] == "out"
    call.answer(g={"state": "out"})


def end_of(session, actor):
    """Stop, and let the partition actor say that the member is out."""
    session.stop(waits=False)
    leave(session, actor)


# -- connecting -------------------------------------------------------------------------------------------------


def test_a_start_returns_with_the_greeting_whose_settings_apply(session, actor):
    session.start()
    assert session.member_state.settings == SETTINGS
    assert actor.greetings == 1


@pytest.mark.parametrize("protocol", [PROTOCOL + 1, None])
def test_a_start_returns_when_it_is_refused(session, actor, protocol):
    actor.protocol = protocol
    session.start()
    assert isinstance(session.failure, VersionMismatch)
    assert actor.heartbeats.empty()


def test_a_partition_actor_is_found_by_its_name(make, actor, monkeypatch):
    asked = []
    monkeypatch.setattr(ray_transport, "find", lambda *arguments: asked.append(arguments) or actor)
    make("its name").start()
    assert [arguments[:2] for arguments in asked] == [("its name", "namespace")]
    assert actor.next().request["member"] == "a"


def test_pauses_between_attempts_grow_up_to_an_interval(make, monkeypatch):
    """With full jitter: each is between almost nothing and twice the longest of the one before."""
    pauses = queue.SimpleQueue()
    monkeypatch.setattr(ray_transport.random, "uniform", lambda *bounds: (pauses.put(bounds), 0.001)[1])
    monkeypatch.setattr(ray_transport, "find", lambda *_: (_ for _ in ()).throw(PartitionActorNotFound("none")))
    session = make("name")
    session.start()
    assert isinstance(session.failure, PartitionActorNotFound)
    seen = [pauses.get(timeout=LIMIT) for _ in range(12)]
    assert {low for low, _ in seen} == {FIRST_PAUSE / 2}
    interval = session.member_state.interval
    assert [high for _, high in seen] == [min(interval, FIRST_PAUSE * 2**attempt) for attempt in range(1, 13)]


def test_after_a_success_pauses_begin_anew(started, actor, monkeypatch):
    pauses = queue.SimpleQueue()
    monkeypatch.setattr(ray_transport.random, "uniform", lambda *bounds: (pauses.put(bounds[1]), 0.001)[1])
    actor.held.future.set_exception(GetTimeoutError())
    actor.next().future.set_exception(GetTimeoutError())
    actor.next().answer()
    actor.next().future.set_exception(GetTimeoutError())
    actor.next()
    assert [pauses.get(timeout=LIMIT) for _ in range(3)] == [2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 2 * FIRST_PAUSE]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_process_without_ray_waits_for_it(make, actor, monkeypatch, by_name):
    """`start` before ``ray.init()``; and no call may be made, as Ray would start a new Ray for it."""
    looked = []
    monkeypatch.setattr(ray_transport, "find", lambda *_: looked.append(True) or actor)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    session = make("name" if by_name else actor, call_timeout=0.05)
    session.start()
    assert isinstance(session.failure, PartitionActorUnavailable)
    assert (looked, actor.greetings) == ([], 0)
    with pytest.raises(PartitionActorUnavailable, match="get_groups was not called"):
        session.ask_now("get_groups")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    actor.next().answer()
    actor.next()
    assert session.failure is None


def test_a_process_that_shuts_ray_down_calls_nothing_and_comes_back(member, actor, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    actor.held.future.set_exception(ActorDiedError())
    wait_until(lambda: isinstance(member.failure, PartitionActorUnavailable))
    assert actor.greetings == 1
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    actor.next().answer()
    assert actor.greetings == 2
    assert member._transport.is_connected(member.member_state)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert not member._transport.is_connected(member.member_state)
    member.send_now()
    settled()
    member.stop()
    ended()
    assert actor.heartbeats.empty()
    assert actor.closed.empty()


# -- heartbeats -------------------------------------------------------------------------------------------------


def test_the_next_heartbeat_follows_an_answer_at_once(started, actor):
    first = actor.held
    first.answer()
    assert actor.next().request["seq"] == first.request["seq"] + 1


def test_what_is_sent_now_overtakes_the_heartbeat_that_is_held(started, actor, caplog):
    overtaken = actor.held
    started.send_now()
    another = actor.next()
    started.send_now()
    actor.next().answer()
    actor.next()
    overtaken.future.set_exception(ActorDiedError())  # nobody minds any more
    another.future.cancel()
    settled()
    del overtaken, another, actor.held
    gc.collect()
    assert started.failure is None
    assert actor.greetings == 1
    assert caplog.text == ""


def test_what_may_wait_goes_with_the_next_heartbeat_and_the_soonest_decides(started, actor):
    transport, member_state = started._transport, started.member_state
    with started.lock:
        transport.send(member_state, 1000.0)
        transport.send(member_state, 1000.0)
    settled()
    assert actor.heartbeats.empty()
    with started.lock:
        transport.send(member_state, 0.0)
    actor.next()
    settled()
    with started.lock:
        transport.send(member_state, 0.05)
    sent = time.monotonic()
    assert actor.next().at >= sent + 0.045
    assert actor.heartbeats.empty()


def test_after_news_the_next_heartbeat_lets_the_partition_actor_tell_others_first(actor, make):
    actor.settings = Settings(ttl=1000.0, hold=100.0, handoff_timeout=1000.0, publish_window=99.0)
    session = make()
    begin(session, actor)
    join(session, actor)
    wait_until(lambda: session.state("g") == "member")
    settled()
    assert actor.heartbeats.empty()
    session.send_now()  # somebody waits
    assert actor.next().request["groups"]["g"]["have"] == (1, 1)


def test_a_heartbeat_that_is_not_answered_is_sent_again_and_then_another_partition_actor_is_looked_for(
    actor, make, monkeypatch
):
    actor.settings = Settings(ttl=0.05, hold=0.01, publish_window=0.0, node_proof_interval=0.01)
    monkeypatch.setattr(ray_transport, "find", lambda *_: actor)
    session = make("name")
    session.start()
    actor.next().answer(interval=0.01)
    for greetings in (1, 1, 2, 2):
        actor.next()
        assert actor.greetings == greetings
    assert isinstance(session.failure, PartitionActorUnavailable)


def test_a_partition_actor_of_the_past_is_left_for_its_successor(started, actor):
    actor.held.answer(incarnation=5)
    actor.next().answer(incarnation=4)
    actor.next()
    assert actor.greetings == 2
    assert started.failure is None


@pytest.mark.parametrize(
    ("error", "greetings"),
    [
        (ActorDiedError(), 2),
        (VersionMismatch("another"), 2),
        (TypeError("of Ray"), 2),
        (GroupFull("full"), 1),
        (GetTimeoutError(), 1),
    ],
)
def test_what_says_that_the_partition_actor_is_gone_has_it_looked_for_anew(started, actor, error, greetings):
    actor.held.future.set_exception(error)
    actor.next()
    assert actor.greetings == greetings


def test_what_the_partition_actor_refuses_is_the_failure(started, actor):
    refused = GroupFull("full")
    actor.held.future.set_exception(RayTaskError("sync", "traceback", refused))
    call = actor.next()
    assert started.failure is refused
    call.answer()
    actor.next()
    assert started.failure is None


def test_a_reply_that_lacks_a_field_does_not_end_heartbeats(started, actor):
    actor.held.future.set_result({"seq": 1})
    actor.next().answer()
    actor.next()
    assert started.failure is None


# -- the end of a session ---------------------------------------------------------------------------------------


def test_each_session_is_closed_by_its_own_name_when_it_is_out(member, actor):
    former = member.member_state
    end_of(member, actor)
    assert actor.closed.get(timeout=LIMIT) == ("a", former.session)
    member.start()
    later = member.member_state
    assert later.session != former.session
    member.stop()
    assert actor.closed.get(timeout=LIMIT) == ("a", later.session)
    assert actor.closed.empty()


def test_a_session_leaves_and_is_closed_beside_the_next_one(member, actor):
    former = member.member_state
    member.stop(waits=False)
    leaving = actor.next()
    member.start()
    greeting = actor.next()
    assert (leaving.request["session"], greeting.request["session"]) == (former.session, member.member_state.session)
    greeting.answer()
    leaving.answer(g={"state": "out"})
    assert actor.closed.get(timeout=LIMIT) == ("a", former.session)
    assert member.active
    actor.next().answer()
    actor.next()


def test_a_session_is_not_closed_before_its_callbacks_and_calls_have_returned(member, actor):
    driver = member.driver
    with member.event():
        driver.listen("g")
    with member.lock:
        running = driver.next_delivery()
        call = driver.begin_call(member.now(), member.process(), "g", KEYS[:1])
    assert call is not None
    end_of(member, actor)
    assert member.wait(lambda: driver.is_over(member.member_state))
    with member.event():
        driver.returned(running)
    settled()
    assert actor.closed.empty()
    while (delivery := driver.next_delivery()) is not None:
        with member.event():
            driver.returned(delivery)
    settled()
    assert actor.closed.empty()
    with member.event():
        driver.end_call(member.now(), call)
    assert actor.closed.get(timeout=LIMIT) == ("a", member.member_state.session)


def test_a_stop_without_a_partition_actor_returns_at_once(member, actor):
    member.call_timeout = 1000.0
    actor.error = ActorDiedError()
    actor.held.future.set_exception(ActorDiedError())
    wait_until(lambda: not member._transport.is_connected(member.member_state))
    member.stop()
    assert not member.active


def test_a_session_that_was_given_up_while_it_connected_does_not_say_goodbye(member, actor, monkeypatch):
    """A request that names no group would let others start while a guarded call still runs."""
    call = member.driver.begin_call(member.now(), member.process(), "g", KEYS[:1])
    stopped = threading.Event()

    def stop_meanwhile():
        thread = threading.Thread(target=member.stop, args=[False])
        thread.start()
        thread.join(LIMIT)
        stopped.set()

    monkeypatch.setattr(ray_transport, "own_identity", stop_meanwhile)
    actor.held.future.set_exception(ActorDiedError())
    assert stopped.wait(LIMIT)
    settled()
    assert actor.heartbeats.empty()
    assert member.driver.is_over(member.member_state)
    with member.event() as driver:
        driver.end_call(member.now(), call)


def test_no_heartbeat_follows_the_end(member, actor):
    end_of(member, actor)
    actor.closed.get(timeout=LIMIT)
    ended()
    assert actor.heartbeats.empty()


def test_a_session_that_was_stopped_before_the_partition_actor_was_found_says_nothing_and_is_closed(
    make, actor, monkeypatch
):
    looking, found = threading.Event(), threading.Event()

    def find(*_):
        looking.set()
        assert found.wait(LIMIT)
        return actor

    monkeypatch.setattr(ray_transport, "find", find)
    session = make("name", call_timeout=0.01)
    session.start()
    assert looking.wait(LIMIT)
    session.stop()
    settled()
    found.set()
    assert actor.closed.get(timeout=LIMIT) == ("a", session.member_state.session)
    ended()
    assert actor.heartbeats.empty()


# -- errors in the handling of errors ---------------------------------------------------------------------------


def test_what_on_changes_raises_does_not_end_heartbeats(make, actor):
    raising, raised = threading.Event(), []

    def on_changes(changes):
        if raising.is_set():
            raised.append(changes)
            raise RuntimeError("on purpose")

    session = make(on_changes=on_changes)
    session.start()
    raising.set()
    actor.next().answer()
    wait_until(lambda: len(raised) > 4)  # by replies, by errors, and by the errors of those
    raising.clear()
    actor.next().answer()
    actor.next()
    assert session.failure is None


@pytest.mark.usefixtures("impatient")
def test_a_log_handler_that_raises_does_not_end_heartbeats(started, actor, caplog):
    caplog.set_level(logging.INFO)

    class Broken(logging.Handler):
        broken = 0

        def handle(self, record):
            self.broken += 1
            raise RuntimeError("on purpose")

    handler = Broken()
    ray_transport.log.addHandler(handler)
    try:
        actor.held.future.set_exception(ActorDiedError())
        actor.next().answer()  # the next line is that it is back
        actor.next().answer()
        actor.next()
    finally:
        ray_transport.log.removeHandler(handler)
    assert handler.broken >= 2
    assert started.failure is None


# -- the log ----------------------------------------------------------------------------------------------------


def told(caplog):
    return [(record.levelname, record.message) for record in caplog.records]


LOST = "member 'a' cannot reach the partition actor"
BACK = ("INFO", "member 'a' has reached the partition actor again")


def test_the_log_does_not_tell_of_a_partition_actor_that_is_soon_replaced(started, actor, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(ray_transport, "time", SimpleNamespace(monotonic=lambda: clock.now))
    actor.held.future.set_exception(ActorDiedError())
    clock.now = 0.9 * LOST_AFTER
    actor.next().future.set_exception(PartitionActorNotFound())
    actor.next().answer()
    actor.next().future.set_exception(ActorDiedError())  # another, which comes back later
    call = actor.next()
    assert told(caplog) == []
    clock.now = 2 * LOST_AFTER
    call.future.set_exception(PartitionActorNotFound())
    actor.next()
    assert [level for level, _ in told(caplog)] == ["ERROR"]


@pytest.mark.usefixtures("impatient")
def test_the_log_says_once_that_the_partition_actor_is_lost_and_once_that_it_is_back(started, actor, caplog):
    caplog.set_level(logging.INFO)
    actor.held.future.set_exception(ActorDiedError())
    for _ in range(3):
        actor.next().future.set_exception(ActorDiedError())
    call = actor.next()
    ((level, message),) = told(caplog)
    assert (level, message.startswith(LOST)) == ("ERROR", True)
    for what in ("keeps its keys until its lease ends", "goes on trying", "deploy()"):
        assert what in message
    call.answer()
    actor.next().answer()
    actor.next().future.set_exception(ActorDiedError())
    actor.next()
    assert told(caplog)[1] == BACK
    assert [level for level, _ in told(caplog)[2:]] == ["ERROR"]


@pytest.mark.usefixtures("impatient")
def test_while_it_is_lost_the_log_has_one_line_a_minute(started, actor, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(ray_transport, "time", SimpleNamespace(monotonic=lambda: clock.now))
    actor.held.future.set_exception(ActorDiedError())
    levels = []
    for seconds in (0.0, LOG_INTERVAL - 1, LOG_INTERVAL, LOG_INTERVAL + 1, 2 * LOG_INTERVAL):
        call = actor.next()
        levels.append([level for level, _ in told(caplog)])
        clock.now = seconds
        call.future.set_exception(ActorDiedError())
    actor.next().answer()
    actor.next()
    assert levels == [["ERROR"]] * 3 + [["ERROR", "WARNING"]] * 2
    assert [level for level, _ in told(caplog)] == ["ERROR", "WARNING", "WARNING", "INFO"]


@pytest.mark.usefixtures("impatient")
def test_a_greeting_that_succeeds_each_time_is_no_news_until_a_heartbeat_does(started, actor, caplog):
    """As with a request that cannot be pickled."""
    caplog.set_level(logging.INFO)
    actor.held.future.set_exception(TypeError("it cannot be sent"))
    for _ in range(4):
        actor.next().future.set_exception(TypeError("it cannot be sent"))
    call = actor.next()
    assert actor.greetings == 6
    assert [level for level, _ in told(caplog)] == ["ERROR"]
    call.answer()
    actor.next()
    assert told(caplog)[1:] == [BACK]


# -- calls ------------------------------------------------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """Let ``ray.get`` return, or raise, what the test puts in."""
    made = []

    def get(reference, timeout):
        made.append((reference.method, timeout))
        if isinstance(made[0], Exception):
            raise made[0]
        return reference.future().result(0)

    monkeypatch.setattr(ray, "get", get)
    return made


def test_a_call_returns_what_the_partition_actor_does(started, answers):
    assert started.ask_now("get_groups", "h") == ["g", "h"]
    assert answers == [("get_groups", LIMIT)]
    assert run_in_background(started.ask("get_groups", "h")).result(LIMIT) == ["g", "h"]


@pytest.mark.parametrize(
    ("raised", "expected", "match"),
    [
        (InvalidArgument("its own"), InvalidArgument, "its own"),
        (GetTimeoutError(), PartitionActorUnavailable, "get_groups was not answered within"),
        (ActorDiedError(), PartitionActorUnavailable, "get_groups was not answered: "),
    ],
)
def test_a_call_raises_what_its_callers_know(started, answers, raised, expected, match):
    answers.append(raised)
    with pytest.raises(expected, match=match):
        started.ask_now("get_groups")


def test_a_call_without_a_partition_actor_says_so(make, actor):
    actor.error = PartitionActorUnavailable("away")
    session = make(call_timeout=0.05)
    with pytest.raises(NotStarted):
        session.ask_now("get_groups")
    session.start()
    with pytest.raises(PartitionActorUnavailable, match=r"get_groups was not called: .* within 0.05 s"):
        session.ask_now("get_groups")
    with pytest.raises(PartitionActorUnavailable, match="no partition actor"):
        run_in_background(session.ask("get_groups")).result(LIMIT)


def test_a_call_waits_for_the_partition_actor_to_be_found(make, actor, answers):
    actor.error = PartitionActorUnavailable("away")
    session = make()
    session.start()
    results = queue.SimpleQueue()
    threading.Thread(target=lambda: results.put(session.ask_now("get_groups"))).start()
    actor.error = None
    assert results.get(timeout=LIMIT) == ["g"]


def test_a_question_that_is_not_answered_ends(started, monkeypatch):
    monkeypatch.setattr(ray_transport, "LOOKUP_TIMEOUT", 0.01)
    with pytest.raises(asyncio.TimeoutError):
        run_in_background(started.ask("hang")).result(LIMIT)


@pytest.fixture
def lease_clock(monkeypatch):
    """A clock of leases that the test moves."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(RayTransport, "now", lambda self: made.now)
    monkeypatch.setattr(ray_transport, "TIMER_SLICE", 0.005)
    return made


# -- the death watch --------------------------------------------------------------------------------------------


@pytest.fixture
def identity(actor, monkeypatch):
    """Be an actor; set `ray` to be in another Ray. `actor` empty: a task or a driver."""
    made = SimpleNamespace(actor="its id", ray="first")
    monkeypatch.setattr(
        ray_transport, "own_identity", lambda: ProcessIdentity(None, "node", made.actor, made.ray, "process")
    )
    monkeypatch.setattr(ray_transport, "ray_life", lambda: made.ray)
    made.cancelled = []
    monkeypatch.setattr(ray, "cancel", made.cancelled.append)
    made.made = []

    def pending_call(handle, lent):
        made.made.append(SimpleNamespace(future=Future, lent=lent))
        return made.made[-1]

    monkeypatch.setattr(ray_transport, "pending_call", pending_call)
    return made


def test_a_heartbeat_says_who_is_to_be_watched_until_the_partition_actor_knows(session, actor, identity):
    session.start()
    first = actor.next()
    assert (first.death_watch["worker"], first.death_watch["owned"]) == ("first", None)
    first.answer()
    again = actor.next()
    assert again.death_watch is not None  # the first request named no incarnation
    again.answer()
    assert actor.next().death_watch is None
    assert join(session, actor).death_watch is not None  # as it may have no death watch since it left all groups
    assert actor.next().death_watch is None


def test_a_session_without_a_lease_says_who_is_to_be_watched(session, actor, identity, lease_clock):
    """The partition actor may have forgotten it, and its death watch."""
    watched(session, actor)
    lease_clock.now += 2000.0
    session.send_now()
    assert actor.next().death_watch is not None


def watched(session, actor):
    """Join a group, so that the partition actor watches; returns the next heartbeat, which need not say so any more."""
    begin(session, actor)
    join(session, actor)
    call = actor.next()
    assert call.death_watch is None
    return call


def test_another_partition_actor_is_told_again(session, actor, identity):
    watched(session, actor).answer(incarnation=2)
    assert actor.next().death_watch is not None


def test_a_session_that_had_expired_is_watched_again(session, actor, identity):
    watched(session, actor).answer(g={**view(2), "rejoined": True})
    assert actor.next().death_watch is not None


def test_a_task_or_driver_has_one_pending_call_that_dies_with_it(session, actor, identity):
    identity.actor = ""
    call = watched(session, actor)
    assert [pending.lent for pending in identity.made] == ["reference"]
    call.future.set_exception(ActorDiedError())
    call = actor.next()
    assert len(identity.made) == 1  # that partition actor has it already
    actor.lent = [["of another one"]]
    call.future.set_exception(ActorDiedError())
    call = actor.next()
    assert [pending.lent for pending in identity.made] == ["reference", "of another one"]
    assert call.death_watch["owned"] == identity.made[1:]
    assert identity.cancelled == identity.made[:1]
    session.stop(waits=False)
    leave(session, actor)
    wait_until(lambda: identity.cancelled == identity.made)


def test_what_was_made_in_a_ray_that_was_shut_down_is_made_anew(session, actor, identity):
    identity.actor = ""
    call = watched(session, actor)
    identity.ray = "second"
    session.send_now()
    assert not call.future.done()
    death_watch = actor.next().death_watch
    assert (death_watch["worker"], death_watch["owned"]) == ("second", identity.made[1:])


# -- the timer --------------------------------------------------------------------------------------------------


class Timed:
    """A session that notes when it was called."""

    def __init__(self, transport, clock):
        self.transport, self.clock = transport, clock
        self.lock = transport.wakeups.lock
        self.calls = queue.SimpleQueue()
        self.next_moment = float("inf")

    def timer(self):
        self.calls.put(self.clock.now)
        self.set(self.next_moment)

    def set(self, moment):
        with self.lock:
            self.transport.wake_at(self, moment)


@pytest.fixture
def timed(lease_clock):
    return Timed(RayTransport("name", "namespace"), lease_clock)


def test_a_timer_follows_the_clock_of_leases(timed, lease_clock):
    """That clock goes on while the machine is suspended, and the event loop's does not."""
    timed.set(2000.0)
    settled()
    assert timed.calls.empty()
    lease_clock.now = 2000.0
    assert timed.calls.get(timeout=LIMIT) == 2000.0


def test_a_timer_goes_off_once_at_the_moment_that_was_said_last(timed, lease_clock):
    timed.set(2000.0)
    timed.set(1500.0)
    timed.set(3000.0)
    timed.next_moment = 4000.0
    lease_clock.now = 2500.0
    settled()
    lease_clock.now = 3000.0
    assert timed.calls.get(timeout=LIMIT) == 3000.0
    lease_clock.now = 4000.0
    timed.next_moment = float("inf")
    assert timed.calls.get(timeout=LIMIT) == 4000.0
    assert timed.calls.empty()


def test_a_timer_that_was_put_off_for_ever_can_be_set_again(timed, lease_clock):
    timed.set(2000.0)
    timed.set(float("inf"))
    settled()
    timed.set(1500.0)
    lease_clock.now = 1500.0
    assert timed.calls.get(timeout=LIMIT) == 1500.0


def test_the_lease_ends_for_those_who_listen_without_a_partition_actor(member, lease_clock):
    delivered = queue.SimpleQueue()
    member.deliver = lambda: delivered.put(member.driver.next_delivery())
    with member.event() as driver:
        driver.listen("g")
    first = delivered.get(timeout=LIMIT)
    with member.event() as driver:
        driver.returned(first)
    lease_clock.now = member.member_state.lease_until
    assert delivered.get(timeout=LIMIT).all_lost


# -- forked processes -------------------------------------------------------------------------------------------


def in_child(check):
    """Fork, and run `check` in the child; returns its exit code, which is 0 if nothing is raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(wait_until(lambda: (told := os.waitpid(pid, os.WNOHANG))[0] and told)[1])
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_a_child_process_shares_neither_lock_nor_heartbeats(member, actor):
    """Nobody there would release a lock that a thread of the parent held at the fork."""
    transport, inherited = member._transport, member.member_state
    taken, go_on = threading.Event(), threading.Event()

    def hold():
        with member.lock:
            taken.set()
            go_on.wait(LIMIT)

    def check():
        assert member.share("g").of(KEYS) == []
        assert not member.active
        assert not transport.is_connected(inherited)
        member.stop()
        member.start()
        assert member.active
        call = actor.next()
        assert call.request["session"] == member.member_state.session != inherited.session
        call.answer()
        actor.next()
        member.stop()
        assert actor.closed.get(timeout=LIMIT) == ("a", call.request["session"])
        assert actor.closed.empty()

    holder = threading.Thread(target=hold)
    holder.start()
    assert taken.wait(LIMIT)
    try:
        assert in_child(check) == 0
    finally:
        go_on.set()
        holder.join(LIMIT)
    assert member.share("g").of(KEYS) == KEYS


def test_a_timer_in_a_child_process_is_its_own(timed, lease_clock):
    timed.set(2000.0)

    def check():
        timed.lock = timed.transport.wakeups.lock
        timed.set(2500.0)
        lease_clock.now = 2500.0
        assert timed.calls.get(timeout=LIMIT) == 2500.0
        assert timed.calls.empty()

    assert in_child(check) == 0
    lease_clock.now = 2000.0
    assert timed.calls.get(timeout=LIMIT) == 2000.0
