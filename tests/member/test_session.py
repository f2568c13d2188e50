"""A session's heartbeats, against a partition actor in this process that answers when the test lets it."""

import logging
import queue
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import ray
from deployments import wait_until

from partition_actor import Settings
from partition_actor.core.messages import PROTOCOL
from partition_actor.errors import NotStarted, PartitionActorUnavailable, VersionMismatch
from partition_actor.member import session as session_module
from partition_actor.member.background import background_loop
from partition_actor.member.session import ACK_SPACING, Session

LIMIT = 30.0
WINDOW = 0.2


class FakeActor:
    """Answers `hello`, and no heartbeat. Keeps what it was sent."""

    def __init__(self):
        self.protocol = PROTOCOL
        self.settings = Settings(publish_window=WINDOW)
        self.requests = queue.SimpleQueue()
        self.closed = queue.SimpleQueue()
        self.hello, self.sync, self.close_session = (
            SimpleNamespace(remote=method) for method in (self._hello, self._sync, self._close)
        )

    def _answer(self, *answer):
        future = Future()
        if answer:
            future.set_result(*answer)
        return SimpleNamespace(future=lambda: future)

    def _hello(self):
        return self._answer({"protocol": self.protocol, "version": "its", "settings": self.settings.to_dict()})

    def _sync(self, request):
        self.requests.put((time.monotonic(), request))
        return self._answer()

    def _close(self, member_id, session):
        self.closed.put((member_id, session))


@pytest.fixture
def actor(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(session_module, "own_identity", lambda: None)
    return FakeActor()


@pytest.fixture
def session(actor):
    made = Session("a", actor, "", Settings(call_timeout=0.3), lambda changes: None)
    yield made
    made.stop()


@pytest.fixture
def started(session, actor):
    """One whose first request waits for an answer."""
    session.start()
    actor.requests.get(timeout=LIMIT)
    return session


def test_before_start_it_says_so(session):
    for call in (lambda: session.member_state, session.check_active, lambda: session.ask_now("get_groups")):
        with pytest.raises(NotStarted, match="'a'"):
            call()
    session.send_now()
    session.close_session()
    assert not session.stop()
    assert (session.was_started, session.failure, session.state("g")) == (False, None, None)


@pytest.mark.parametrize(("ackers", "pause"), [(1, 0.0), (101, 100 * ACK_SPACING), (100_000, WINDOW)])
def test_an_ack_waits_in_proportion_to_how_many_ack_at_once(started, actor, monkeypatch, ackers, pause):
    loop, delays = background_loop(), []
    call_later = loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda delay, *rest: (delays.append(delay), call_later(delay, *rest))[1])
    before = time.monotonic()
    started.send_ack(ackers)
    sent, _ = actor.requests.get(timeout=LIMIT)
    assert sent - before >= pause - 0.001
    assert any(delay == pytest.approx(pause) for delay in delays) == (pause > 0)


def test_an_ack_that_waits_goes_with_the_next_request(started, actor):
    started.send_ack(100_000)
    started.send_ack(100_000)
    started.send_now()
    actor.requests.get(timeout=LIMIT)
    later = Future()
    background_loop().call_soon_threadsafe(
        lambda: background_loop().call_later(WINDOW + 0.1, later.set_result, None)  # after the ack would have been sent
    )
    later.result(LIMIT)
    assert actor.requests.empty()


def test_each_start_begins_another_session(started, actor):
    first = started.member_state
    first.join("g")
    assert not started.stop()  # nobody has said that it is out of the group
    assert started.is_out("g")
    with pytest.raises(NotStarted):
        started.check_active()
    started.start()
    assert started.member_state.session != first.session
    assert started.state("g") is None


def test_an_ended_session_is_closed_by_its_own_id(started, actor):
    ended = started.member_state
    assert started.stop()
    started.start()
    started.close_session(ended)
    assert actor.closed.get(timeout=LIMIT) == ("a", ended.session)
    started.close_session()
    assert actor.closed.get(timeout=LIMIT) == ("a", started.member_state.session)


def test_start_returns_when_it_is_refused(actor):
    actor.protocol = PROTOCOL + 1
    session = Session("a", actor, "", Settings(call_timeout=2 * LIMIT), lambda changes: None)
    begun = time.monotonic()
    session.start()
    assert isinstance(session.failure, VersionMismatch)
    assert time.monotonic() < begun + LIMIT
    session.stop()


def test_a_greeting_that_succeeds_each_time_is_no_news_to_the_log_until_a_heartbeat_does(
    session, actor, monkeypatch, caplog
):
    monkeypatch.setattr(session_module, "FIRST_PAUSE", 0.0)
    caplog.set_level(logging.INFO)
    works = threading.Event()

    def sync(request, *_):
        actor.requests.put(request)
        if not works.is_set():
            raise TypeError("this request cannot be sent")
        reply = {"seq": request["seq"], "incarnation": 1, "lease": 1.0, "exclusive_lease": 1.0, "interval": 60.0}
        return actor._answer({**reply, "resync": False, "views": False, "groups": {}})

    actor.sync.remote = sync
    session.start()
    for _ in range(5):
        actor.requests.get(timeout=LIMIT)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "member 'a' cannot reach the partition actor"
    ]
    works.set()
    wait_until(lambda: caplog.records[1:])
    assert [record.message for record in caplog.records[1:]] == ["member 'a' has reached the partition actor again"]


def test_a_call_without_a_partition_actor_says_so(session, actor, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    session.start()
    with pytest.raises(PartitionActorUnavailable, match="get_groups"):
        session.ask_now("get_groups")
