"""What a member's driver decides: sessions, deliveries, acknowledgements, guarded calls, lapses and candidacies."""

from __future__ import annotations

import pytest
from machines import KEYS, PLAIN, World, beat

from partition_actor.core.member import MemberState
from partition_actor.core.member_driver import ACK_SPACING, Delivery, MemberDriver
from partition_actor.ring import Ring
from partition_actor.settings import Settings

NEVER = float("inf")


class Driven:
    """A member's driver. It exchanges requests with the world's partition actor when the test says so."""

    def __init__(self, world, member_id="a"):
        self.world, self.id = world, member_id
        self.process = "parent"
        self.driver = MemberDriver(member_id, world.settings)

    def start(self):
        return self.driver.start(f"life of {self.process}", self.process)

    def stop(self):
        return self.driver.stop(self.world.now, self.process)

    def join(self, group="g", exclusive=True):
        self.driver.session.join(group, exclusive=exclusive)

    def actions(self):
        return self.driver.actions(self.world.now)

    def timer(self):
        """Let the time come at which the driver wants to be woken."""
        wake_at = self.actions().wake_at
        assert wake_at < NEVER
        self.world.clock.advance(max(0.0, wake_at - self.world.now))
        self.driver.timer(self.world.now)

    # -- the exchange -------------------------------------------------------------------------------------------

    def request(self, session=None):
        return self.driver.request(self.world.now, session or self.driver.session)

    def beat(self, times=4, session=None):
        """Exchange heartbeats, until the session is over."""
        world, session = self.world, session or self.driver.session
        for _ in range(times):
            if self.driver.is_over(session):
                return
            request = self.request(session)
            world.driver.request(world.now, request)
            reply = world.driver.reply(world.now, (self.id, session.session), request["seq"])
            self.driver.receive(world.now, session, reply)

    def acked(self, group="g", session=None):
        """The epoch up to which the next request acknowledges."""
        return (session or self.driver.session).groups[group].acked

    # -- callbacks and calls ------------------------------------------------------------------------------------

    def next(self):
        """Begin the next delivery."""
        return self.driver.next_delivery()

    def lost_returned(self, delivery):
        self.driver.lost_returned(self.world.now, delivery)

    def finish(self, delivery):
        self.lost_returned(delivery)
        self.driver.returned(delivery)

    def run(self):
        """Run all that may run; returns it."""
        ran = []
        while (delivery := self.next()) is not None:
            self.finish(delivery)
            ran.append(delivery)
        return ran

    def begin_call(self, *keys, group="g"):
        return self.driver.begin_call(self.world.now, self.process, group, list(keys))

    def end_call(self, call):
        self.driver.end_call(self.world.now, call)

    # -- what it may do -----------------------------------------------------------------------------------------

    @property
    def works_on(self):
        return self.works_on_in("g")

    def works_on_in(self, group):
        return self.driver.share(self.world.now, self.process, group).of(KEYS)

    def leads(self, group="g"):
        return self.driver.leads(self.world.now, self.process, group)

    def elect(self, callback=None, group="g"):
        self.driver.elect(self.world.now, group, callback)

    def stand_down(self, withdraw=False, group="g"):
        return self.driver.stand_down(self.world.now, self.process, group, withdraw)

    def elections(self):
        """Run all that may run; returns which callbacks were told of which tokens."""
        return [(ran.callback, ran.elected) for ran in self.run() if ran.elected is not None]


@pytest.fixture
def world():
    return World()


@pytest.fixture
def a(world):
    """A driver with a session, whose first request has been answered."""
    made = Driven(world)
    made.start()
    made.beat()
    made.actions()
    return made


@pytest.fixture
def member(a):
    """The only member of an exclusive group."""
    a.join()
    a.beat()
    assert a.works_on == KEYS
    a.actions()
    return a


@pytest.fixture
def listening(member):
    """The same, with somebody who wants to be told, and has been told of what there is."""
    member.driver.listen("g")
    member.run()
    member.actions()
    return member


def shared_with(member, other="b"):
    """``(kept, lost)``: the keys that a newcomer leaves to a lone member, and those that it takes."""
    ring = Ring([member.id, other], vnodes=PLAIN.vnodes)
    return ring.subset(member.id, KEYS), ring.subset(other, KEYS)


def let_join(newcomer, member):
    """Let a newcomer join, and a member hear of it; what it does about that comes later."""
    newcomer.beat()
    member.beat()


# -- sessions ---------------------------------------------------------------------------------------------------


def test_a_session_is_current_from_start_to_stop(world):
    a = Driven(world)
    assert a.driver.session is None
    assert a.stop() is None
    session = a.start()
    assert (session.member_id, session.session) == ("a", "life of parent.1")
    assert a.driver.is_current("parent")
    assert a.start() is None
    assert a.stop() is session
    assert not a.driver.is_current("parent")
    assert a.stop() is None
    assert a.driver.session is session


def test_no_session_has_the_name_of_another_nor_follows_a_partition_actor_of_the_past(a):
    first = a.driver.session
    a.stop()
    later = a.start()
    assert (first.session, later.session) == ("life of parent.1", "life of parent.2")
    assert later.incarnation == first.incarnation > 0


def test_before_the_first_session_nothing_is_permitted(world):
    a = Driven(world)
    assert a.works_on == []
    assert a.begin_call(KEYS[0]) is None
    assert a.driver.acting(world.now, a.process, "g") is None
    assert a.driver.token(world.now, a.process, "g") == 0
    assert not a.leads()
    a.driver.leave("g")
    a.driver.listen("g")
    a.driver.timer(world.now)
    assert a.run() == []


def test_a_session_that_is_stopped_permits_nothing_and_is_out_before_it_is_over(member):
    session = member.stop()
    assert member.works_on == []
    assert member.begin_call(KEYS[0]) is None
    assert member.driver.token(member.world.now, member.process, "g") == 0
    actions = member.actions()
    assert (actions.send, actions.over, actions.close) == ({session: 0.0}, [], [])
    assert not member.driver.is_over(session)
    assert not member.driver.is_closed(session)
    member.beat()
    actions = member.actions()
    assert (actions.over, actions.close) == ([session], [session])
    assert member.driver.is_over(session)
    assert member.driver.is_closed(session)


def test_a_session_without_groups_is_over_at_once(a):
    session = a.stop()
    actions = a.actions()
    assert (actions.over, actions.close) == ([session], [session])


def test_a_session_is_not_over_before_its_locks_are_free(a):
    session = a.driver.session
    ticket = session.locks.add("lock:l")
    a.beat()
    assert a.driver.holds(a.world.now, a.process, session, ticket)
    a.stop()
    assert not a.driver.holds(a.world.now, a.process, session, ticket)
    assert not a.driver.is_over(session)
    a.beat(1)
    assert a.driver.is_over(session)
    assert ("a", session.session) not in a.world.membership.locks


def test_a_session_that_is_not_heard_is_over_with_its_lease(listening):
    session = listening.stop()
    lease_end = max(session.lease_until, session.exclusive_until)
    while listening.world.now < lease_end:
        assert not listening.driver.is_over(session)
        listening.timer()
    assert listening.driver.is_over(session)
    assert [ran.all_lost for ran in listening.run()] == [True]
    assert listening.actions().close == [session]


def test_a_session_that_nobody_hears_can_be_abandoned(listening):
    session = listening.stop()
    listening.driver.abandon(session)
    assert listening.driver.is_over(session)
    actions = listening.actions()
    assert (actions.over, actions.close, actions.wake_at) == ([session], [], NEVER)
    assert session.view("g") is None
    (told,) = listening.run()
    assert told.all_lost
    assert listening.actions().close == [session]
    listening.driver.abandon(session)  # it is over already
    assert listening.actions().over == []


def test_a_session_that_is_over_neither_says_nor_hears_anything(member):
    """A request that names no group would be a goodbye: others would start while callbacks still run."""
    session = member.driver.session
    request = member.request()
    member.world.driver.request(member.world.now, request)
    reply = member.world.driver.reply(member.world.now, ("a", session.session), request["seq"])
    call = member.begin_call(KEYS[0])
    member.stop()
    member.driver.abandon(session)
    assert member.request(session) is None
    assert member.driver.receive(member.world.now, session, reply) == []
    member.end_call(call)
    assert member.actions().close == [session]
    assert member.request(session) is None


def test_a_stop_in_the_middle_of_a_delivery_closes_the_session_after_it(member):
    member.driver.listen("g")
    running = member.next()
    session = member.stop()
    member.beat()
    assert member.next() is None  # what is lost is told after the delivery that runs
    member.finish(running)
    told = member.run()
    assert [delivery.all_lost for delivery in told[:1]] == [True]
    assert member.actions().close == []
    member.beat()
    assert member.driver.is_over(session)
    assert member.actions().close == []
    member.run()
    assert member.actions().close == [session]


def test_those_who_watch_a_group_are_told_once_and_at_once_that_a_member_which_stops_is_out(listening):
    listening.driver.listen("h")
    listening.run()
    listening.stop()
    told = [(ran.group, ran.all_lost, ran.change and (ran.change.left, ran.change.after)) for ran in listening.run()]
    assert told == [("g", True, (["a"], None)), ("h", True, None)]
    listening.beat()
    assert all(ran.change is None for ran in listening.run())


def test_a_session_is_not_closed_before_its_guarded_calls_have_returned(member):
    call = member.begin_call(KEYS[0])
    session = member.stop()
    member.driver.abandon(session)
    assert member.actions().close == []
    assert not member.driver.is_closed(session)
    member.end_call(call)
    assert member.actions().close == [session]
    assert member.driver.is_closed(session)


def test_the_next_session_begins_while_the_former_one_leaves(listening):
    a, former = listening, listening.stop()
    later = a.start()
    assert later is not former
    a.join()
    assert a.works_on == []
    a.beat()
    assert a.works_on == []  # the former session has not let go yet
    a.beat(session=former)
    a.run()
    a.beat(session=former)
    a.run()
    actions = a.actions()
    assert (actions.over, actions.close) == ([former], [former])
    assert a.driver.is_closed(former)
    assert not a.driver.is_closed(later)
    a.beat()
    a.run()
    a.beat()
    assert a.works_on == KEYS
    assert not a.driver.is_over(later)
    assert a.stop() is later


def test_what_still_runs_in_a_former_session_closes_that_session_and_no_later_one(listening):
    a = listening
    a.driver.refresh("g")
    running = a.next()
    former = a.stop()
    a.driver.abandon(former)
    later = a.start()
    a.stop()
    actions = a.actions()
    assert (actions.over, actions.close) == ([former, later], [])
    a.finish(running)
    assert a.actions().close == []
    a.run()
    assert {former, later} == set(a.actions().close)


def test_a_former_session_acknowledges_when_its_calls_have_returned(member):
    kept, lost = shared_with(member)
    b = member.world.member("b")
    call = member.begin_call(lost[0])
    former = member.stop()
    let_join(b, member)
    b.beat()
    assert b.works_on == []
    member.start()
    member.end_call(call)
    member.beat(session=former)
    b.beat()
    assert b.works_on == KEYS
    assert kept


def test_a_session_acknowledges_without_waiting_for_the_calls_of_a_former_one(member):
    _, lost = shared_with(member)
    call, former = member.begin_call(lost[0]), member.stop()
    member.driver.abandon(former)
    member.start()
    member.join()
    member.beat()
    let_join(member.world.member("b"), member)
    assert member.acked() == member.driver.session.view("g").epoch
    assert member.actions().close == []
    member.end_call(call)
    assert member.actions().close == [former]


# -- deliveries -------------------------------------------------------------------------------------------------


def numbered(driver, session, *queues):
    """Post a delivery for each of the queues; returns them."""
    posted = [Delivery(group, session, elected=7 if kind == "leader" else None) for kind, group in queues]
    for delivery in posted:
        driver.post(delivery)
    return posted


def test_deliveries_of_a_queue_run_in_order_and_never_beside_each_other(a):
    first, second = numbered(a.driver, a.driver.session, ("group", "g"), ("group", "g"))
    assert a.next() is first
    assert a.next() is None  # also if a callback of the first asks for it
    assert a.driver.is_running(first)
    assert not a.driver.is_running(second)
    assert a.driver.unfinished() == [first, second]
    a.lost_returned(first)
    assert a.next() is None
    a.driver.returned(first)
    assert not a.driver.is_running(first)
    assert a.next() is second
    a.driver.returned(second)
    assert (a.next(), a.driver.unfinished()) == (None, [])


def test_queues_do_not_wait_for_each_other(a):
    queues = [("group", "g"), ("group", "h"), ("leader", "g")]
    posted = numbered(a.driver, a.driver.session, *queues)
    assert [delivery.queue for delivery in posted] == queues
    assert a.driver.ready() == 3
    assert [a.next() for _ in queues] == posted
    assert a.driver.ready() == 0
    numbered(a.driver, a.driver.session, *queues)
    assert a.driver.ready() == 0
    a.driver.returned(posted[1])
    assert a.driver.ready() == 1
    assert a.next().queue == ("group", "h")


def test_queues_take_turns(a):
    numbered(a.driver, a.driver.session, *[("group", "g")] * 3, ("group", "h"))
    ran = []
    for _ in range(4):
        delivery = a.next()
        ran.append(delivery.group)
        a.driver.returned(delivery)
    assert ran == ["g", "h", "g", "g"]


def test_deliveries_are_asked_for_while_one_may_run(a):
    assert not a.actions().deliver
    numbered(a.driver, a.driver.session, ("group", "g"), ("group", "g"))
    assert a.actions().deliver
    delivery = a.next()
    assert not a.actions().deliver
    a.driver.returned(delivery)
    assert a.actions().deliver


def test_a_listener_is_told_of_what_there_is_and_of_each_change_from_then_on(member):
    member.driver.listen("g")
    (first,) = member.run()
    assert (first.group, first.change, first.all_lost, first.elected) == ("g", None, False, None)
    let_join(member.world.member("b"), member)
    (change,) = member.run()
    assert change.change.joined == ["b"]
    assert (change.all_lost, change.session) == (False, member.driver.session)
    member.driver.refresh("g")
    assert [(ran.change, ran.all_lost) for ran in member.run()] == [(None, False)]


def test_who_has_gone_is_told_of_nothing_more(listening):
    listening.driver.listen("g")
    listening.run()
    listening.driver.unlisten("g")
    listening.driver.refresh("g")
    assert len(listening.run()) == 1  # for the one who stays
    listening.driver.unlisten("g")
    listening.driver.refresh("g")
    let_join(listening.world.member("b"), listening)
    assert listening.run() == []
    listening.driver.unlisten("g")
    assert listening.actions().wake_at == NEVER


def test_other_groups_have_no_listeners(listening):
    listening.driver.refresh("h")
    listening.join("h")
    listening.beat()
    assert listening.run() == []


# -- acknowledgements -------------------------------------------------------------------------------------------


def test_a_group_without_listeners_acknowledges_at_once(member):
    b = member.world.member("b")
    let_join(b, member)
    b.beat()
    assert b.works_on == shared_with(member)[1]
    assert member.run() == []


def test_an_epoch_is_acknowledged_when_the_callbacks_for_lost_keys_have_returned(listening):
    b = listening.world.member("b")
    let_join(b, listening)
    delivery = listening.next()
    beat(listening, b)
    assert listening.works_on == shared_with(listening)[0]
    assert b.works_on == []
    listening.actions()
    listening.lost_returned(delivery)
    assert listening.actions().send == {listening.driver.session: 0.0}
    beat(listening, b)  # while the callbacks for gained keys run
    assert b.works_on == shared_with(listening)[1]
    listening.driver.returned(delivery)


def test_a_delivery_that_waits_acknowledges_nothing(listening):
    before = listening.acked()
    listening.driver.refresh("g")
    running = listening.next()
    let_join(listening.world.member("b"), listening)
    listening.finish(running)
    assert listening.acked() == before
    listening.run()
    assert listening.acked() > before


def test_a_delivery_acknowledges_its_own_epoch_and_none_that_came_since(listening):
    world = listening.world
    let_join(world.member("b"), listening)
    running = listening.next()
    let_join(world.member("c"), listening)
    epochs = [delivery.change.after.epoch for delivery in listening.driver.unfinished()]
    listening.lost_returned(running)
    assert listening.acked() == epochs[0] < epochs[1]
    listening.driver.returned(running)
    listening.run()
    assert listening.acked() == epochs[-1]


def test_who_goes_away_within_a_callback_does_not_let_a_later_epoch_be_acknowledged_before_it_returns(listening):
    world = listening.world
    let_join(world.member("b"), listening)
    running, before = listening.next(), listening.acked()
    listening.driver.unlisten("g")
    let_join(world.member("c"), listening)
    assert listening.acked() == before
    listening.finish(running)
    listening.run()
    assert listening.acked() == listening.driver.session.view("g").epoch


def view(counter, *members, awaited=0):
    """What a reply says of a group: its members."""
    told = {"epoch": (1, counter), "rev": 0, "exclusive": True, "mine": True, "base": None}
    return {"view": {**told, "changed": dict.fromkeys(members, 1), "laggards": [], "rings": [], "awaited": awaited}}


def told(driven, **groups):
    """Let a reply arrive that says this of its groups, made by hand."""
    reply = {
        "seq": driven.request()["seq"],
        "incarnation": 1,
        "lease": 10.0,
        "exclusive_lease": 10.0,
        "interval": 2.0,
        "resync": False,
        "views": False,
        "groups": groups,
    }
    return driven.driver.receive(driven.world.now, driven.driver.session, reply)


@pytest.mark.parametrize(
    ("awaited", "seconds"), [(0, None), (1, 0.0), (101, 100 * ACK_SPACING), (100_000, 0.2), (2, ACK_SPACING)]
)
def test_an_ack_waits_in_proportion_to_how_many_acknowledge_at_once(awaited, seconds):
    a = Driven(World(Settings(publish_window=0.2)))
    session = a.start()
    a.join()
    told(a, g=view(1, "a"))
    a.actions()
    told(a, g=view(2, "a", "b", awaited=awaited))
    assert a.actions().send == ({} if seconds is None else {session: pytest.approx(seconds)})


def test_what_is_sent_soonest_decides(world):
    a = Driven(World(Settings(publish_window=0.2)))
    session = a.start()
    a.join()
    a.join("h")
    told(a, g=view(1, "a"), h=view(1, "a"))
    told(a, g=view(2, "a", "b", awaited=101), h=view(2, "a", "b", awaited=3))
    a.driver.leave("h")
    told(a, g=view(3, "a", awaited=101))
    assert a.actions().send == {session: 0.0}


# -- guarded calls ----------------------------------------------------------------------------------------------


def test_a_call_runs_only_on_keys_that_are_all_the_members(member):
    kept, lost = shared_with(member)
    b = member.world.member("b")
    let_join(b, member)
    assert member.begin_call(*kept) is not None
    assert member.begin_call(kept[0], lost[0]) is None
    assert member.begin_call(lost[0]) is None
    assert member.begin_call(kept[0], group="h") is None
    assert member.begin_call() is not None  # on no key at all
    member.world.clock.advance(11.0)
    assert member.begin_call(*kept) is None


def test_an_ack_waits_for_the_calls_on_lost_keys_and_for_no_others(member):
    kept, lost = shared_with(member)
    calls = [member.begin_call(key) for key in (kept[0], lost[0], lost[1])]
    b = member.world.member("b")
    let_join(b, member)
    beat(member, b)
    assert b.works_on == []
    member.end_call(calls[1])
    beat(member, b)
    assert b.works_on == []
    member.actions()
    member.end_call(calls[2])
    assert member.actions().send == {member.driver.session: 0.0}
    beat(member, b)
    assert b.works_on == lost
    assert member.driver.is_running(calls[0])
    member.end_call(calls[0])
    assert not member.driver.is_running(calls[0])


def test_an_ack_waits_for_both_callbacks_and_calls(listening):
    _, lost = shared_with(listening)
    before, call = listening.acked(), listening.begin_call(lost[0])
    let_join(listening.world.member("b"), listening)
    delivery = listening.next()
    listening.end_call(call)
    assert listening.acked() == before
    call = listening.begin_call(shared_with(listening)[0][0])
    listening.lost_returned(delivery)
    assert listening.acked() > before
    listening.end_call(call)


def test_an_ack_waits_no_longer_than_the_lease(member):
    _, lost = shared_with(member)
    before, call = member.acked(), member.begin_call(lost[0])
    let_join(member.world.member("b"), member)
    member.actions()
    member.world.clock.advance(1.0)
    member.driver.timer(member.world.now)
    assert member.acked() == before
    assert member.actions().wake_at <= member.driver.session.exclusive_until
    member.timer()
    assert member.acked() > before
    assert member.actions().wake_at == NEVER
    member.end_call(call)


def test_a_session_that_is_given_up_acknowledges_nothing_any_more(member):
    call = member.begin_call(shared_with(member)[1][0])
    let_join(member.world.member("b"), member)
    session = member.stop()
    member.driver.abandon(session)
    assert member.actions().send == {session: 0.0}
    member.end_call(call)
    actions = member.actions()
    assert (actions.send, actions.close) == ({}, [session])


def test_a_call_holds_up_only_its_own_group(member):
    _, lost = shared_with(member)
    member.join("h")
    member.beat()
    call = member.begin_call(lost[0])
    b = member.world.member("b")
    b.member_state.join("h", exclusive=True)
    let_join(b, member)
    beat(member, b)
    assert b.works_on == []
    assert b.member_state.subset(b.world.now, "h", KEYS) == lost
    member.end_call(call)


def test_a_call_that_was_thrown_away_holds_nothing_up(member):
    _, lost = shared_with(member)
    call = member.begin_call(lost[0])
    let_join(member.world.member("b"), member)
    session = member.stop()
    member.driver.abandon(session)
    assert member.actions().close == []
    del call
    assert member.actions().close == [session]


def test_an_ack_does_not_wait_for_a_call_that_was_thrown_away(member):
    _, lost = shared_with(member)
    before, call = member.acked(), member.begin_call(lost[0])
    let_join(member.world.member("b"), member)
    assert member.acked() == before
    del call
    member.actions()
    assert member.acked() > before


def test_a_call_on_a_key_that_has_come_back_holds_nothing_up(member):
    _, lost = shared_with(member)
    call, b = member.begin_call(lost[0]), member.world.member("b")
    let_join(b, member)
    b.member_state.leave("g")
    b.beat()
    member.beat()
    assert member.works_on == KEYS
    assert member.acked() == member.driver.session.view("g").epoch
    member.end_call(call)


def test_in_plain_groups_calls_run_and_nothing_waits_for_them(a):
    a.join("p", exclusive=False)
    a.beat()
    assert a.works_on_in("p") == KEYS
    call = a.begin_call(KEYS[0], group="p")
    assert call is not None
    assert not a.driver.is_running(call)
    session = a.stop()
    a.beat()
    assert a.driver.is_closed(session)
    a.end_call(call)
    assert a.actions().close == [session]


# -- lapses -----------------------------------------------------------------------------------------------------


def test_listeners_are_told_once_that_all_is_lost_when_the_lease_ends(listening):
    session = listening.driver.session
    assert listening.actions().wake_at == min(session.lease_until, session.exclusive_until)
    listening.timer()
    assert listening.works_on == []
    assert [(ran.group, ran.all_lost, ran.change) for ran in listening.run()] == [("g", True, None)]
    assert listening.actions().wake_at == NEVER
    listening.driver.timer(listening.world.now)
    assert listening.run() == []


def test_listeners_look_again_when_the_lease_runs_again(listening):
    listening.world.wait(10.5)  # the partition actor has not ended the lease yet
    listening.driver.timer(listening.world.now)
    assert [ran.all_lost for ran in listening.run()] == [True]
    listening.beat(1)
    assert listening.works_on == KEYS
    assert [(ran.all_lost, ran.change) for ran in listening.run()] == [(False, None)]
    listening.beat(1)
    assert listening.run() == []
    assert listening.actions().wake_at == listening.driver.session.lease_until
    listening.timer()
    assert [ran.all_lost for ran in listening.run()] == [True]


def test_a_lapse_that_a_reply_ends_is_told_before_what_the_reply_brings(listening):
    request = listening.request()
    listening.world.driver.request(listening.world.now, request)
    listening.world.wait(11.5)
    listening.beat()
    deliveries = listening.run()
    assert [ran.all_lost for ran in deliveries[:1]] == [True]
    assert deliveries[0].change is None
    assert any(ran.change is not None and ran.all_lost for ran in deliveries[1:])  # rejoined: it had expired
    assert listening.works_on == KEYS


def test_a_lapse_is_told_although_another_event_comes_before_the_timer(listening):
    """Else the timer would be put off for ever: the lease that ended is no longer among those to come."""
    listening.world.clock.advance(60.0)
    actions = listening.actions()
    assert actions.deliver
    assert [ran.all_lost for ran in listening.run()] == [True]


def test_a_session_that_leaves_is_over_although_another_event_comes_before_the_timer(member):
    session = member.stop()
    member.world.clock.advance(60.0)
    actions = member.actions()
    assert (actions.over, actions.close) == ([session], [session])


def test_a_group_that_is_over_when_the_lease_runs_again_is_told_as_that(listening):
    listening.timer()
    told(listening, g={"state": "out"})
    lapse, out = listening.run()
    assert (lapse.all_lost, out.all_lost, out.change.after) == (True, False, None)


def test_a_lapse_of_the_exclusive_lease_alone_is_told_to_exclusive_groups_alone(listening):
    listening.join("p", exclusive=False)
    listening.beat()
    listening.driver.listen("p")
    listening.run()
    for _ in range(3):  # without a proof only the lease of groups that are not exclusive is renewed
        listening.world.wait(4.0, proven=False)
        listening.beat(1)
    assert listening.works_on == []
    assert listening.works_on_in("p") == KEYS
    assert [(ran.group, ran.all_lost) for ran in listening.run()] == [("g", True)]


def test_nobody_is_woken_for_a_lease_that_nobody_listens_to(member):
    assert member.actions().wake_at == NEVER
    member.world.clock.advance(60.0)
    member.driver.timer(member.world.now)
    assert member.run() == []


# -- forked processes -------------------------------------------------------------------------------------------


def test_a_child_process_is_permitted_nothing(listening):
    a, session = listening, listening.driver.session
    ticket = session.locks.add("lock:l")
    a.elect()
    a.beat()
    assert a.leads()
    a.process = "child"
    assert not a.driver.is_current("child")
    assert a.works_on == []
    assert a.begin_call(KEYS[0]) is None
    assert a.driver.acting(a.world.now, "child", "g") is None
    assert a.driver.token(a.world.now, "child", "g") == 0
    assert not a.driver.holds(a.world.now, "child", session, ticket)
    assert not a.leads()
    assert a.stand_down()[0] is False
    assert a.stop() is None
    a.process = "parent"
    assert a.works_on == KEYS


def test_a_child_process_starts_anew_and_closes_nothing_of_its_parents(listening):
    a, inherited = listening, listening.driver.session
    a.driver.refresh("g")
    running = a.next()
    a.driver.refresh("g")
    call = a.begin_call(KEYS[0])
    a.actions()
    a.process = "child"
    own = a.start()
    assert own is not None
    assert a.driver.session is own
    assert a.driver.unfinished() == []
    assert not a.driver.is_running(call)
    a.end_call(call)
    a.finish(running)
    a.beat()
    a.driver.refresh("g")  # its callbacks are the child's own copies
    assert len(a.run()) == 1
    a.stop()
    a.run()
    actions = a.actions()
    assert (actions.over, actions.close) == ([own], [own])
    assert inherited not in actions.send


def test_a_child_process_is_no_candidate_before_it_says_so(a):
    a.elect("inherited callback")
    a.process = "child"
    a.start()
    a.beat()
    assert (a.leads(), a.elections()) == (False, [])
    a.elect("own callback")
    a.beat()
    assert a.leads()
    assert [callback for callback, _ in a.elections()] == ["own callback"]


def test_a_callback_that_forks_does_not_disturb_the_childs_own(listening):
    """The child goes on in the middle of the callback, and that returns in the child as well."""
    a = listening
    a.driver.refresh("g")
    inherited = a.next()
    a.process = "child"
    a.start()
    a.driver.refresh("g")
    own = a.next()
    a.driver.refresh("g")
    a.finish(inherited)
    assert a.driver.is_running(own)
    assert a.next() is None
    a.finish(own)
    assert len(a.run()) == 1


def test_a_child_of_a_member_that_leaves_does_not_leave_for_it(member):
    leaving = member.stop()
    member.actions()
    member.process = "child"
    own = member.start()
    member.world.clock.advance(60.0)
    member.driver.timer(member.world.now)
    actions = member.actions()
    assert leaving not in (*actions.over, *actions.close)
    assert not member.driver.is_over(own)


# -- leaving a group --------------------------------------------------------------------------------------------


def test_a_group_that_was_left_is_forgotten_and_only_an_explicit_join_brings_the_member_back(member):
    driver = member.driver
    assert not driver.has_left("g")
    driver.leave("g")
    assert driver.has_left("g")
    assert member.actions().send == {driver.session: 0.0}
    member.beat()
    assert "g" not in driver.session.groups
    assert driver.has_left("g")
    member.join()
    assert not driver.has_left("g")
    member.beat()
    assert member.works_on == KEYS
    assert not driver.has_left("g")
    driver.leave("g")
    assert driver.has_left("g")
    member.join()  # before the partition actor has heard of it
    member.beat()
    assert member.works_on == KEYS
    assert not driver.has_left("g")


def test_a_group_that_an_operator_drained_was_not_left(member):
    member.world.membership.drain(member.world.now, "g", "a")
    member.beat()
    assert member.driver.session.groups["g"].state == "out"
    assert not member.driver.has_left("g")


def test_a_group_that_the_member_is_not_in_any_more_can_be_left_and_joined(member):
    beat(member.world.member("a"), member)  # another process takes the id
    assert member.driver.session.groups["g"].state == "superseded"
    member.driver.leave("g")
    assert "g" not in member.driver.session.groups
    assert member.driver.has_left("g")


def test_a_leave_of_a_group_that_was_never_joined_says_nothing(a):
    a.driver.leave("g")
    assert not a.driver.has_left("g")
    assert a.actions().send == {}


def test_the_next_session_has_left_nothing(member):
    member.driver.leave("g")
    member.stop()
    member.start()
    assert not member.driver.has_left("g")


def test_a_group_that_is_watched_is_told_of_and_forgotten_at_the_stop(a):
    a.world.member("b").beat()
    a.driver.session.watch("g")
    a.beat()
    assert a.driver.session.view("g").members == {"b": 1}
    assert a.works_on == []
    session = a.stop()
    assert a.driver.is_over(session)


# -- elections --------------------------------------------------------------------------------------------------


def test_each_callback_is_told_once_of_each_lead(a):
    a.elect("callback")
    assert a.elections() == []
    assert a.actions().send == {a.driver.session: 0.0}
    a.beat()
    assert a.leads()
    ((callback, token),) = a.elections()
    assert (callback, token > 0) == ("callback", True)
    a.beat()
    assert a.elections() == []
    assert not a.leads("h")


def test_a_second_elect_while_leading_calls_only_the_new_callback(a):
    a.elect("first")
    a.beat()
    ((_, token),) = a.elections()
    a.elect("second")
    assert a.elections() == [("second", token)]
    a.elect()
    a.beat()
    assert a.elections() == []


def test_a_lead_that_was_lost_is_asked_for_again_and_told_anew(a):
    a.elect("callback")
    a.beat()
    ((_, former),) = a.elections()
    a.world.clock.advance(10.5)
    assert not a.leads()
    a.world.wait(2.0)
    a.actions()
    a.beat(1)
    assert a.actions().send == {a.driver.session: 0.0}
    a.beat()
    assert a.leads()
    ((_, later),) = a.elections()
    assert later > former


def test_candidates_lead_one_after_another(a):
    b = Driven(a.world, "b")
    b.start()
    for each in (a, b):
        each.elect(each.id)
        each.beat()
    assert (a.leads(), b.leads()) == (True, False)
    led, seq = a.stand_down()
    assert (led, a.leads()) == (True, False)
    assert a.actions().send == {a.driver.session: 0.0}
    a.beat(1)
    assert a.driver.session.answered >= seq > 0
    b.beat()
    assert b.leads()
    assert a.stand_down() == (False, a.driver.session.want_reply())  # it stays a candidate, behind b
    b.stand_down(withdraw=True)
    beat(b, a)
    assert a.leads()
    assert [callback for callback, _ in a.elections()] == ["a", "a"]
    a.stand_down()
    beat(a, b)
    assert a.leads()  # there is nobody else


def test_who_withdraws_is_no_candidate_any_more(a):
    a.elect("callback")
    a.beat()
    a.elections()
    led, seq = a.stand_down(withdraw=True)
    assert (led, a.leads()) == (True, False)
    assert a.actions().send == {a.driver.session: 0.0}
    a.beat()
    assert a.driver.session.answered >= seq
    assert not a.leads()
    assert a.stand_down(withdraw=True) == (False, 0)
    a.elect("again")
    a.beat()
    assert [callback for callback, _ in a.elections()] == ["again"]


def test_candidacies_end_with_the_session(a):
    a.elect("callback")
    a.beat()
    a.elections()
    former = a.stop()
    assert not a.leads()
    a.start()
    a.beat(session=former)
    a.beat()
    assert (a.leads(), a.elections()) == (False, [])
    a.elect("again")
    a.beat()
    assert [callback for callback, _ in a.elections()] == ["again"]


# -- actions ----------------------------------------------------------------------------------------------------


def test_actions_are_handed_out_once(listening):
    session = listening.stop()
    assert listening.actions().send == {session: 0.0}
    assert listening.actions().send == {}
    listening.driver.abandon(session)
    listening.run()
    actions = listening.actions()
    assert (actions.over, actions.close) == ([session], [session])
    actions = listening.actions()
    assert (actions.over, actions.close, actions.send) == ([], [], {})


def test_the_partition_actors_settings_are_those_of_this_session_and_of_later_ones(a):
    settings = Settings(ttl=33.0)
    a.driver.take_settings(a.driver.session, settings)
    assert a.driver.session.settings is settings
    a.stop()
    assert a.start().settings is settings


def test_a_stop_that_was_interrupted_is_finished_by_the_next_one(world, monkeypatch):
    a = Driven(world)
    a.start()
    a.join()
    a.beat()
    leave, interrupted = MemberState.leave, []

    def interrupt(self, group):
        if not interrupted:
            interrupted.append(group)
            raise KeyboardInterrupt
        leave(self, group)

    monkeypatch.setattr(MemberState, "leave", interrupt)
    with pytest.raises(KeyboardInterrupt):
        a.stop()
    assert a.driver.share(world.now, a.process, "g").of(KEYS) == []
    session = a.stop()
    assert session is not None
    a.beat(session=session)
    assert a.driver.is_closed(session)
    assert a.stop() is None


def test_whoever_has_led_no_more_is_not_told_of_the_lead(world):
    a = Driven(world)
    a.start()
    a.join()
    a.elect(callback="told")
    a.beat()
    told = a.next()
    while told.elected is None:
        a.finish(told)
        told = a.next()
    assert a.driver.is_led(told)
    a.driver.stand_down(world.now, a.process, "g", withdraw=True)
    assert not a.driver.is_led(told)


def test_a_stop_waits_until_a_lock_is_given_up_also_before_the_first_lease(world):
    a = Driven(world)
    session = a.start()
    session.locks.add("lock:l")
    a.request()  # on its way, and not answered yet
    a.stop()
    assert not a.driver.is_over(session)
    a.beat(session=session)
    assert a.driver.is_closed(session)
    assert world.membership.locks.locks == {}
