"""A session hands events to its driver and has the transport carry out what comes of it; whoever waits asks again."""

import asyncio
import threading

import pytest
from deployments import in_thread, wait_until
from machines import KEYS, World, beat
from sessions import FakeTransport

from partition_actor import PartitionCoordinator, Settings
from partition_actor.errors import GroupFull, NotStarted, PartitionActorUnavailable
from partition_actor.member import coordinator as coordinator_module
from partition_actor.member.background import run_in_background
from partition_actor.member.lock import Lock
from partition_actor.member.session import Session, Transport

LIMIT = 30.0


@pytest.fixture
def world():
    return World()


@pytest.fixture
def transport(world):
    return FakeTransport(world)


@pytest.fixture
def changes():
    """What `on_changes` was called with."""
    return []


@pytest.fixture
def session(world, transport, changes):
    return Session("a", transport, world.settings, changes.append)


@pytest.fixture
def started(session, changes):
    session.start()
    changes.clear()
    return session


@pytest.fixture
def member(started, transport, changes):
    """The only member of an exclusive group."""
    join(started)
    transport.beat()
    assert started.share("g").of(KEYS) == KEYS
    changes.clear()
    transport.sent.clear()
    return started


def join(session, group="g", exclusive=True):
    with session.event():
        session.member_state.join(group, exclusive=exclusive)
    session.send_now()


def test_changed_settings_are_no_reason_to_say_everything_again(member, transport):
    """The members of a thousand groups would hold everybody else up."""
    transport.beat()
    transport.beat()
    changed = Settings(**{**member.member_state.settings.to_dict(), "handoff_timeout": 77.0})
    member.change_settings(member.member_state, changed)
    assert "same" in member.request(member.member_state)
    assert member.member_state.settings.handoff_timeout == 77.0


# -- life -------------------------------------------------------------------------------------------------------


def test_before_start_it_says_so(session, transport):
    for call in (
        lambda: session.member_state,
        lambda: session.share("g"),
        lambda: session.token("g"),
        lambda: session.members("g"),
        lambda: session.owner("g", "key"),
        lambda: session.elect("g", None),
        lambda: session.ask_now("get_groups"),
        lambda: asyncio.run(session.ask("get_groups")),
        session.check_active,
    ):
        with pytest.raises(NotStarted, match="'a'"):
            call()
    session.send_now()
    session.stop()
    assert session.stand_down("g", withdraw=True)[0] is False
    assert (session.active, session.was_started, session.failure, session.state("g")) == (False, False, None, None)
    assert session.is_out("g")
    assert not session.leads("g")
    assert not transport.sent


def test_each_start_begins_another_session(started, transport):
    first = started.member_state
    started.start()
    assert (started.active, started.was_started, transport.opened) == (True, True, [first])
    join(started)
    started.stop()
    assert not started.active
    assert started.was_started
    assert started.member_state is first
    started.start()
    assert started.member_state.session != first.session
    assert started.state("g") is None


def test_a_start_waits_until_the_partition_actor_has_answered(session, transport):
    transport.connected = transport.prompt = False
    session.call_timeout = LIMIT
    returned = in_thread(lambda: (session.start(), transport.connected)[1])
    assert session.wait(lambda: transport.opened)
    transport.connected = True
    transport.beat(1)
    assert returned()


def test_a_start_that_is_refused_does_not_wait_any_longer(session, transport):
    transport.connected = transport.prompt = False
    session.call_timeout = LIMIT
    refused = GroupFull("full")
    returned = in_thread(lambda: (session.start(), session.failure)[1])
    assert session.wait(lambda: transport.opened)
    session.fail(session.member_state, refused)
    assert returned() is refused


def test_a_stop_waits_until_the_member_is_out_and_its_session_is_closed_once(member, transport):
    transport.prompt = False
    ended = member.member_state
    stopped = in_thread(lambda: (member.stop(), member.is_out("g"))[1])
    assert member.wait(lambda: not member.active)
    transport.beat()
    assert stopped()
    assert (transport.ended, transport.closed) == ([ended], [ended])
    member.stop()
    assert transport.closed == [ended]


def test_a_stop_that_does_not_wait_returns_while_the_member_leaves(member, transport):
    transport.prompt = False
    ended = member.member_state
    member.stop(waits=False)
    assert (member.active, member.share("g").of(KEYS), transport.ended) == (False, [], [])
    transport.beat()
    assert (transport.ended, transport.closed) == ([ended], [ended])


def test_a_stop_without_a_partition_actor_returns_at_once(member, transport):
    transport.connected = False
    ended = member.member_state
    member.call_timeout = 1000.0
    member.stop()
    assert (transport.ended, transport.closed) == ([ended], [ended])


def test_each_session_is_closed_by_itself_and_after_what_runs_in_it(member, transport):
    first = member.member_state
    call = member.driver.begin_call(member.now(), "parent", "g", KEYS[:1])
    transport.connected = False
    member.stop()
    transport.connected = True
    member.start()
    second = member.member_state
    assert (transport.ended, transport.closed) == ([first], [])
    member.stop()
    assert transport.closed == [second]
    with member.event() as driver:
        driver.end_call(member.now(), call)
    assert transport.closed == [second, first]


def test_a_child_process_has_no_session_until_it_starts_its_own(member, transport):
    join(member, "h")
    member.elect("g", None)
    inherited = member.member_state
    assert member.token("g") > 0
    assert member.leads("g")
    transport.pid = "child"
    assert not member.active
    assert member.share("g").of(KEYS) == []
    assert member.token("g") == 0
    assert not member.leads("g")
    transport.sent.clear()
    member.send_now()
    member.stop()
    assert member.stand_down("g", withdraw=False)[0] is False
    with pytest.raises(NotStarted):
        member.check_active()
    member.start()
    assert member.active
    assert member.member_state is not inherited
    assert (transport.ended, transport.closed) == ([], [])
    transport.pid = "parent"
    assert not member.active


def test_a_join_while_another_thread_stops_the_member_joins_nothing(world):
    """The session that leaves would never be out: its keys would have an owner that works on none of them."""

    class Interrupted(FakeTransport):
        interrupt = None

        @property
        def wakeups(self):
            if self.interrupt is not None:
                interrupt, self.interrupt = self.interrupt, None
                interrupt()
            return super().wakeups

    transport = Interrupted(world)
    coordinator = PartitionCoordinator("a", transport, settings=world.settings)
    coordinator.start()
    coordinator.join_group("other", exclusive=True)
    transport.prompt = False
    stopper = threading.Thread(target=lambda: coordinator._session.stop(waits=False))
    transport.interrupt = lambda: (stopper.start(), stopper.join(LIMIT))
    coordinator.join_group("g", exclusive=True)
    assert not coordinator.is_active()
    transport.beat()
    assert not transport.sessions
    assert "g" not in world.membership.groups


# -- what it knows ----------------------------------------------------------------------------------------------


def test_it_tells_what_the_view_says(member, world, transport):
    b = world.member("b")
    b.beat()
    transport.beat()
    assert member.members("g") == ["a", "b"]
    assert {member.owner("g", key) for key in KEYS} == {"a", "b"}
    assert member.share("g").of(KEYS) == [key for key in KEYS if member.owner("g", key) == "a"]
    assert member.token("g") > 0
    assert (member.state("g"), member.is_out("g")) == ("member", False)
    assert (member.members("h"), member.owner("h", "key"), member.view("h"), member.token("h")) == ([], None, None, 0)
    world.clock.advance(11.0)
    assert (member.share("g").of(KEYS), member.token("g")) == ([], 0)
    assert member.members("g") == ["a", "b"]


def test_those_who_watch_hear_of_the_changes_of_each_reply(started, transport, changes):
    join(started)
    (joined,) = [change for told in changes for change in told]
    assert (joined.group, joined.joined) == ("g", ["a"])
    changes.clear()
    started.connect(started.member_state, Settings())
    started.fail(started.member_state, None)
    assert changes == [[], []]


def test_the_settings_are_those_of_the_partition_actor_but_not_the_timeout(started):
    settings = Settings(ttl=33.0, call_timeout=44.0)
    before = started.call_timeout
    started.connect(started.member_state, settings)
    assert started.member_state.settings is settings
    assert started.call_timeout == before


def test_a_failure_is_told_until_a_request_is_answered(started, transport):
    refused, unavailable = GroupFull("full"), PartitionActorUnavailable("away")
    started.fail(started.member_state, refused)
    started.fail(started.member_state, None)  # for another reason than a refusal
    assert started.failure is refused
    transport.beat(1)
    assert started.failure is None
    started.fail(started.member_state, unavailable)
    started.connect(started.member_state, Settings())
    assert started.failure is None
    started.fail(started.member_state, refused)
    started.forget_failure()
    assert started.failure is None
    started.fail(started.member_state, refused)
    started.stop()
    transport.prompt = False
    started.start()
    assert started.failure is None


def test_what_a_former_session_hears_is_no_news_of_this_one(member, transport):
    transport.prompt = False
    former = member.member_state
    member.stop(waits=False)
    member.start()
    member.fail(former, GroupFull("full"))
    assert member.failure is None
    refused = GroupFull("full")
    member.fail(member.member_state, refused)
    member.connect(former, Settings())
    request = member.request(former)
    transport.world.driver.request(transport.world.now, request)
    reply = transport.world.driver.reply(transport.world.now, ("a", former.session), request["seq"])
    member.receive(former, reply)
    assert member.failure is refused


def test_the_log_tells_what_a_user_must_know(member, world, transport, caplog):
    caplog.set_level("INFO")
    world.wait(20.0)
    transport.beat()
    assert [(record.levelname, "has rejoined" in record.message) for record in caplog.records] == [("WARNING", True)]
    caplog.clear()
    beat(world.member("a"), transport)
    (record,) = caplog.records
    assert (record.levelname, "another process has taken the id 'a' in group 'g'" in record.message) == ("ERROR", True)
    caplog.clear()
    join(member, "h")
    with member.event() as driver:
        driver.leave("h")
    transport.beat()
    assert [record.message for record in caplog.records] == ["member 'a' is out of group 'h'"]


def test_a_former_session_is_not_reported_as_superseded_by_the_next_one(member, world, transport, caplog):
    transport.prompt = False
    member.stop(waits=False)
    beat(world.member("a"), transport)
    assert "another process" not in caplog.text


# -- events -----------------------------------------------------------------------------------------------------


def test_what_comes_of_an_event_is_carried_out_although_it_raises(member, transport):
    def leave_and_raise():
        with member.event() as driver:
            driver.leave("g")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave_and_raise()
    assert transport.sent[0] == (member.member_state, 0.0)


def test_whoever_waits_asks_again_after_each_event(started):
    started.call_timeout = LIMIT
    noted, about_to_wait = [], threading.Event()

    def done():
        about_to_wait.set()
        return bool(noted)

    waiting = in_thread(lambda: started.wait(done))
    assert about_to_wait.wait(LIMIT)
    with started.event():
        noted.append(True)
    assert waiting()


def test_a_wait_ends_with_its_timeout(started):
    started.call_timeout = 0.01
    assert not started.wait(lambda: False)


def test_the_timer_is_set_to_the_end_of_the_lease_and_tells_those_who_listen(member, world, transport):
    delivered = []
    member.deliver = lambda: delivered.append(member.driver.next_delivery().all_lost)
    with member.event() as driver:
        driver.listen("g")
    assert transport.woken_at == member.member_state.lease_until
    assert delivered == [False]
    with member.event() as driver:
        driver.returned(driver.unfinished()[0])
    world.clock.advance(transport.woken_at - world.now)
    member.timer()
    assert delivered == [False, True]
    assert transport.woken_at == float("inf")


def test_a_lead_is_told_and_given_up(started, transport):
    elected = []
    started.deliver = lambda: elected.append(started.driver.next_delivery())
    started.elect("g", "callback")
    assert [(told.group, told.callback, told.elected > 0) for told in elected] == [("g", "callback", True)]
    assert started.leads("g")
    transport.prompt = False
    led, known = started.stand_down("g", withdraw=True)
    assert (led, known(), started.leads("g")) == (True, False, False)
    transport.beat(1)
    assert known()
    led, known = started.stand_down("g", withdraw=True)
    assert (led, known()) == (False, True)


def test_nobody_waits_for_a_session_that_has_ended_to_give_up_a_lead(started, transport):
    started.elect("g", None)
    transport.prompt = False
    _, known = started.stand_down("g", withdraw=False)
    assert not known()
    started.stop(waits=False)
    assert known()
    started.start()
    assert known()


def test_the_partition_actor_is_asked_through_the_transport(started):
    assert started.ask_now("get_groups", 1) == ("get_groups", started.call_timeout, (1,))
    assert asyncio.run(started.ask("get_actors", "g", 3)) == ("get_actors", ("g", 3))


# -- the transport that reaches nobody --------------------------------------------------------------------------


def test_a_transport_that_reaches_nobody_says_so_and_does_nothing():
    class Unreachable(FakeTransport):
        open, is_connected, send = Transport.open, Transport.is_connected, Transport.send
        end, close, wake_at, ask, ask_now = (
            Transport.end, Transport.close, Transport.wake_at, Transport.ask, Transport.ask_now
        )  # fmt: skip

    session = Session("a", Unreachable(), Settings(call_timeout=0.01))
    session.start()
    with pytest.raises(PartitionActorUnavailable, match="get_groups"):
        session.ask_now("get_groups")
    with pytest.raises(PartitionActorUnavailable, match="get_groups"):
        asyncio.run(session.ask("get_groups"))
    session.stop()
    assert not session.active


def test_each_process_and_each_session_has_its_own_name():
    transport = Transport()
    assert transport.new_name() != transport.new_name()
    assert transport.process() == Transport().process()
    assert transport.now() <= transport.now()


def test_a_stop_waits_for_callbacks_and_calls_also_of_a_plain_group_and_beside_another_stop(started, transport):
    join(started, exclusive=False)
    transport.beat()
    started.call_timeout = LIMIT
    with started.event() as driver:
        driver.listen("g")
        delivery = driver.next_delivery()
    stops = [in_thread(started.stop) for _ in range(2)]
    wait_until(lambda: not started.active)
    transport.beat()
    assert not started.driver.is_closed(started.member_state)
    with started.event() as driver:
        driver.returned(delivery)
        while (delivery := driver.next_delivery()) is not None:
            driver.lost_returned(started.now(), delivery)
            driver.returned(delivery)
    for stopped in stops:
        stopped()
    assert started.driver.is_closed(started.member_state)


def test_a_lock_asked_for_beside_a_stop_and_a_start_is_asked_for_in_the_new_session(member, transport, monkeypatch):
    check_active, restarts = Session.check_active, []

    def restart_first(self):
        if not restarts:
            restarts.append(self.member_state)
            self.stop(waits=False)
            self.start()
        check_active(self)

    monkeypatch.setattr(Session, "check_active", restart_first)
    lock = Lock(member, "l")
    member.call_timeout = LIMIT
    assert lock.acquire(timeout=LIMIT)
    assert member.member_state is not restarts[0]


def test_the_task_that_called_start_last_decides_when_a_member_is_stopped(world, transport, monkeypatch):
    asked = []
    ends = [lambda: True, lambda: bool(asked.append("second"))]
    monkeypatch.setattr(coordinator_module, "task_end", lambda: ends.pop(0))
    monkeypatch.setattr(coordinator_module, "TASK_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(coordinator_module, "run_in_background", lambda coroutine: started.append(coroutine))
    started = []
    made = PartitionCoordinator("a", transport, settings=world.settings)
    made.start()
    made.start()
    for coroutine in started:
        run_in_background(coroutine)
    wait_until(lambda: len(asked) > 2)
    assert made.is_active()
    made.stop()


def test_sessions_state_that_they_are_being_replaced(session, transport):
    transport.prompt = False
    session.start()
    assert "stays" not in session.request(session.member_state)
    session.stop()
    session.stays = True
    session.start()
    assert session.request(session.member_state)["stays"] is True
