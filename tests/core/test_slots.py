"""Slots as the two state machines keep them: who gets which, when, and that none has two users. Rule 15."""

from __future__ import annotations

import random

import pytest
from machines import World
from test_member_driver import Driven

from partition_actor.core.messages import MAX_SLOT, Slot, leader_name, lock_name, slot_name, slot_of
from partition_actor.core.numbers import FreeNumbers
from partition_actor.core.status import group_status_of, status_of
from partition_actor.settings import Settings


class Worker(Driven):
    """A member's driver that wants a slot of group g from its first request on."""

    def __init__(self, world, member_id, slot=None, group="g", exclusive=True, space=None, process="parent"):
        super().__init__(world, member_id)
        self.process = process
        self.start()
        self.join(group, exclusive)
        self.driver.want_slot(group, slot, space or group)
        self.exchange()

    def exchange(self, times=6, session=None):
        for _ in range(times):
            self.actions()
            self.beat(1, session)
        self.actions()

    def slot(self, group="g"):
        return self.driver.slot(self.world.now, self.process, group)

    @property
    def token(self):
        (ticket,) = self.driver._slot_tickets(self.driver.session)
        return self.driver.session.locks.token(ticket)


@pytest.fixture
def world():
    return World()


def exchange(*workers):
    for _ in range(3):
        for worker in workers:
            worker.exchange(2)


def slots(*workers):
    return [worker.slot() for worker in workers]


def test_names_say_space_and_number_and_are_no_longer_than_a_leaders():
    for space in ("g", "s7:g", "a:b", "line\nbreak"):
        for number in (None, 0, 7, 10, MAX_SLOT):
            assert slot_of(slot_name(space, number)) == Slot(space, number)
            assert len(slot_name(space, number)) <= len(leader_name(space))
    for name in (lock_name("s1:g"), leader_name("s1:g"), "s:g", "s01:g", "s-1:g", "s1", "s1:", "s123456:g", "s٣:g"):
        assert slot_of(name) is None


@pytest.mark.parametrize("exclusive", [True, False])
def test_each_gets_the_lowest_that_nobody_has_with_its_first_view(world, exclusive):
    workers = [Worker(world, name, exclusive=exclusive) for name in "abc"]
    assert slots(*workers) == [0, 1, 2]
    first = workers[0]
    first.driver.leave("g")
    exchange(*workers)
    assert slots(*workers) == [None, 1, 2]
    assert Worker(world, "d", exclusive=exclusive).slot() == 0
    assert Worker(world, "e", exclusive=exclusive).slot() == 3


def test_a_number_is_had_in_turn_and_no_one_who_takes_any_gets_one_that_is_waited_for(world):
    a, b, c, d = Worker(world, "a", 1), Worker(world, "b", 1), Worker(world, "c", 1), Worker(world, "d")
    assert slots(a, b, c, d) == [1, None, None, 0]
    before = a.token
    a.driver.leave("g")
    exchange(a)
    e = Worker(world, "e")
    exchange(b, c, e)
    assert slots(a, b, c, d, e) == [None, 1, None, 0, 2]
    assert b.token > before


def test_spaces_do_not_know_each_other(world):
    a, b, c = Worker(world, "a"), Worker(world, "b", space="fleet"), Worker(world, "c", group="h")
    assert (a.slot(), b.slot(), c.slot("h")) == (0, 0, 0)


def test_a_slot_ends_with_the_lease_and_is_asked_for_again(world):
    a = Worker(world, "a")
    world.wait(world.settings.ttl)
    assert a.slot() is None
    b = Worker(world, "b")
    assert b.slot() in (0, 1)  # the lease is over there a little later than here
    exchange(a, b)
    assert sorted(slots(a, b)) == [0, 1]
    assert a.driver.session.locks.held().keys() == a.driver._slot_tickets(a.driver.session)


def test_it_is_kept_until_the_callbacks_for_lost_keys_have_returned(world):
    a, b = Worker(world, "a"), Worker(world, "b", 0, exclusive=None)
    a.driver.listen("g")
    a.run()
    assert slots(a, b) == [0, None]
    a.driver.leave("g")
    exchange(a, b)
    running = a.next()
    exchange(a, b)
    assert b.slot() is None
    a.finish(running)
    exchange(a, b)
    last = a.next()  # it is told that it has left
    exchange(a, b)
    assert (a.slot(), b.slot()) == (None, None)
    a.finish(last)
    exchange(a, b)
    assert slots(a, b) == [None, 0]


@pytest.mark.parametrize("exclusive", [True, False])
def test_stop_keeps_it_until_callbacks_have_returned_and_sends_heartbeats_meanwhile(world, exclusive):
    a, b = Worker(world, "a", exclusive=exclusive), Worker(world, "b", 0, exclusive=exclusive)
    a.driver.listen("g")
    a.run()
    former = a.stop()
    assert a.slot() is None
    a.exchange(session=former)
    running = a.next()
    a.exchange(session=former)
    b.exchange()
    assert not a.driver.is_over(former)
    assert b.slot() is None
    a.finish(running)
    for _ in range(2):
        a.run()
        a.exchange(session=former)
    assert a.driver.is_closed(former)
    b.exchange()
    assert b.slot() == 0


@pytest.mark.parametrize("stops", [True, False])
def test_callbacks_that_run_for_too_long_go_on_without_it(world, stops):
    a, b = Worker(world, "a", exclusive=False), Worker(world, "b", 0, exclusive=False)
    a.driver.listen("g")
    a.run()
    former = a.driver.session
    if stops:
        a.stop()
    else:
        a.driver.leave("g")
    a.exchange(session=former)
    assert a.next() is not None
    a.exchange(session=former)
    wake_at = a.actions().wake_at
    assert wake_at <= world.now + world.settings.handoff_timeout
    world.clock.advance(wake_at - world.now)
    a.exchange(session=former)
    b.exchange()
    assert b.slot() == 0


def test_a_session_that_is_stopped_while_cut_off_ends_with_its_lease(world):
    a = Worker(world, "a")
    a.driver.listen("g")
    a.run()
    former = a.stop()
    world.wait(2 * world.settings.ttl)
    a.actions()
    assert a.driver.is_over(former)
    assert Worker(world, "b", exclusive=None).slot() == 0


def test_the_next_session_of_a_process_has_another_slot_while_callbacks_run(world):
    a = Worker(world, "a")
    a.driver.listen("g")
    a.run()
    former = a.stop()
    running = a.next()
    a.start()
    a.join()
    a.driver.want_slot("g", None, "g")
    for _ in range(4):
        a.exchange(1, former)
        a.exchange(1)
    assert a.slot() == 1
    a.finish(running)
    for _ in range(2):
        a.run()
        a.exchange(session=former)
    assert Worker(world, "b").slot() == 0


def test_a_member_whose_id_is_taken_keeps_it_until_its_callbacks_have_returned(world):
    a = Worker(world, "a", 3)
    a.driver.listen("g")
    a.run()
    b = Worker(world, "a", 3, process="another")
    exchange(a, b)
    assert slots(a, b) == [3, None]
    for _ in range(4):
        a.run()
        exchange(a, b)
    assert slots(a, b) == [None, 3]
    assert a.driver.session.groups["g"].state == "superseded"


def test_one_that_an_operator_drains_gives_it_back(world):
    a, b = Worker(world, "a"), Worker(world, "b", 0)
    world.membership.drain(world.now, "g", "a")
    exchange(a, b)
    assert slots(a, b) == [None, 0]


def test_a_death_frees_it(world):
    a, b = Worker(world, "a"), Worker(world, "b", 0)
    world.membership.died(world.now, ("a", a.driver.session.session))
    b.exchange()
    assert b.slot() == 0


def test_a_forked_child_has_none(world):
    a = Worker(world, "a")
    assert a.driver.slot(world.now, "child", "g") is None


def test_another_wish_takes_the_place_of_the_first(world):
    a = Worker(world, "a")
    token = a.token
    a.driver.want_slot("g", 0, "g")
    a.exchange()
    assert (a.slot(), a.token) == (0, token)
    a.driver.want_slot("g", 5, "g")
    assert a.slot() is None
    a.exchange()
    assert a.slot() == 5
    a.driver.want_slot("g", None, "g")
    a.exchange()
    assert a.slot() == 5
    a.driver.want_slot("g", None, "fleet")
    a.exchange()
    assert a.slot() == 0


def test_one_that_has_left_and_joins_again_without_a_wish_has_none(world):
    a = Worker(world, "a")
    a.driver.leave("g")
    a.exchange()
    a.join()
    a.exchange()
    assert a.slot() is None
    a.driver.want_slot("g", None, "g")
    a.exchange()
    assert a.slot() == 0


def test_a_broken_one_goes_to_the_next_when_its_holder_knows(world):
    a, b = Worker(world, "a", 0), Worker(world, "b", 0)
    assert world.call("break_lock", slot_name("g", 0)) is None
    assert slots(a, b) == [0, None]
    exchange(a, b)
    assert slots(a, b) == [None, 0]


@pytest.mark.parametrize("told", [True, False])
def test_a_partition_actor_that_restarts_learns_who_has_which(world, told):
    a = Worker(world, "a")
    b = Worker(world, "b")
    if not told:  # its grant gets lost
        c = Driven(world, "c")
        c.start()
        c.join()
        c.driver.want_slot("g", None, "g")
        c.actions()
        world.driver.request(world.now, c.request())
    world.restart()
    d = Worker(world, "d")
    exchange(a, b)
    assert slots(a, b, d) == [0, 1, None]
    for _ in range(40):
        world.wait(1.0)
        exchange(a, b, d)
    assert slots(a, b, d) == [0, 1, 2]


def test_the_next_partition_actor_goes_on_with_them(world):
    a, b, waiting = Worker(world, "a"), Worker(world, "b"), Worker(world, "c", 1)
    late = Driven(world, "d")  # the answer that grants it a slot gets lost
    late.start()
    late.join()
    late.driver.want_slot("g", None, "g")
    late.actions()
    world.driver.request(world.now, late.request())
    world.replace()
    exchange(a, b, waiting)
    e = Worker(world, "e")
    late.beat()
    assert slots(a, b, waiting, e) == [0, 1, None, 3]
    assert late.driver.slot(world.now, late.process, "g") == 2


def without_slots(world):
    """Let replies be those of a partition actor that knows no slots."""
    reply = world.driver.reply

    def old(now, key, seq):
        answer = reply(now, key, seq)
        return answer and {name: value for name, value in answer.items() if name != "slots"}

    world.driver.reply = old


def test_one_that_knows_no_slots_gives_none_and_is_not_asked_again_and_again(world):
    without_slots(world)
    a = Worker(world, "a")
    a.exchange()
    assert a.slot() is None
    assert world.membership.locks.locks == {}
    assert "same" in a.request()
    world.replace()
    a.beat()
    a.exchange()
    assert a.slot() == 0


def test_a_grant_of_one_that_knows_no_slots_is_not_handed_over(world):
    a = Worker(world, "a")
    state = world.membership.locks.state(world.now)
    (claim,) = state["claims"]
    claim["name"] = slot_name("g", None)
    world.membership.locks.__init__(set())
    world.membership.locks.restore(state, world.now)
    assert world.membership.locks.locks[slot_name("g", None)].holders == []
    del a


def test_operators_see_slots_with_their_members_and_not_among_the_locks(world):
    Worker(world, "a")
    Worker(world, "b", 0)
    Worker(world, "c", space="fleet")
    now = world.now
    assert status_of(world.membership, now)["locks"] == {}
    members = group_status_of(world.membership, world.membership.groups["g"], now)["members"]
    assert {member["id"]: member["slots"] for member in members} == {"a": {"g": 0}, "b": {}, "c": {"fleet": 0}}


def test_events_tell_of_slots(world):
    a, b = Worker(world, "a"), Worker(world, "b", 0)
    first, token = a.token, world.membership.locks.holders(slot_name("g", 0))[0].token
    world.membership.died(world.now, ("a", a.driver.session.session))
    b.exchange()
    events = world.membership.events.read()["events"]
    told = [(event["what"], event["member"], event["group"], event["lock"], event["why"]) for event in events]
    assert [each for each in told if each[0].startswith("slot")] == [
        ("slot", "a", "g", None, f"it has slot 0 of g, with token {first}"),
        ("slot_lost", "a", "g", None, "it had slot 0 of g: its process is dead"),
        ("slot", "b", "g", None, f"it has slot 0 of g, with token {b.token}"),
    ]
    assert token == first < b.token


@pytest.mark.parametrize("seed", range(20))
def test_the_lowest_free_number_is_found(seed):
    dice, numbers, taken = random.Random(seed), FreeNumbers(), set()
    for _ in range(400):
        lowest = next(number for number in range(1000) if number not in taken)
        assert numbers.lowest() == lowest
        if taken and dice.random() < 0.45:
            number = dice.choice(sorted(taken))
            taken.discard(number)
            numbers.free(number)
        else:
            number = lowest if dice.random() < 0.7 else dice.choice([each for each in range(600) if each not in taken])
            taken.add(number)
            numbers.take(number)


def test_many_ask_at_once():
    world = World(Settings(ttl=10.0, hold=2.0, vnodes=4, publish_window=0.0))
    workers = [Worker(world, f"m{number}") for number in range(60)]
    assert slots(*workers) == list(range(60))


def test_heartbeats_of_one_that_has_its_slot_only_renew_its_lease(world):
    a, b = Worker(world, "a", 0), Worker(world, "b", 0)
    exchange(a, b)
    world.take_results()  # they have been told
    exchange(a, b)
    renewed = [world.membership.renew(world.now, each.request()) is not None for each in (a, b)]
    assert renewed == [True, False]
    exchange(a, b)
    world.call("break_lock", slot_name("g", 0))
    assert world.membership.renew(world.now, a.request()) is None
    exchange(a, b)
    assert slots(a, b) == [None, 0]
