"""Locks as the two state machines keep them: who gets one, who loses one, and that it is never held twice."""

from __future__ import annotations

import pytest
from machines import PLAIN, Member, World

from partition_actor.core.epochs import COUNTER_BITS


@pytest.fixture
def world():
    return World()


def members(world: World, names: str = "abc") -> list[Member]:
    made = [world.member(name, exclusive=False) for name in names]
    for member in made:
        member.beat()
    return made


def want(member: Member, name: str = "l", **how: bool) -> int:
    ticket = member.member_state.locks.add(name, **how)
    member.beat(2)
    return ticket


def release(member: Member, ticket: int) -> None:
    member.member_state.locks.drop(ticket)
    member.beat(2)


def holds(member: Member, ticket: int) -> bool:
    return member.member_state.holds(member.world.now, ticket)


def state(member: Member, ticket: int) -> str | None:
    return member.member_state.locks.state(ticket)


def test_it_is_one_members_until_released_and_then_the_next_ones(world):
    a, b, c = members(world)
    first, second, third = want(a), want(b), want(c)
    assert [holds(a, first), holds(b, second), holds(c, third)] == [True, False, False]
    release(a, first)
    assert state(b, second) == "waiting"
    assert world.membership.has_news(b.key)
    b.beat()
    c.beat()
    assert [holds(a, first), holds(b, second), holds(c, third)] == [False, True, False]


def test_those_who_share_it_hold_it_together_and_none_overtakes_who_wants_it_alone(world):
    a, b, c = members(world)
    first, second = want(a, shared=True), want(b, shared=True)
    assert holds(a, first)
    assert holds(b, second)
    alone, late = want(c), want(a, shared=True)
    release(a, first)
    assert not holds(c, alone)
    release(b, second)
    c.beat()
    a.beat()
    assert holds(c, alone)
    assert not holds(a, late)
    release(c, alone)
    a.beat()
    assert holds(a, late)


def test_who_does_not_wait_is_refused_at_once(world):
    a, b, _ = members(world)
    want(a)
    ticket = b.member_state.locks.add("l", waits=False)
    b.send()
    assert world.membership.has_news(b.key)
    b.beat()
    assert state(b, ticket) == "refused"
    assert world.membership.locks.locks["l"].waiters == []
    assert holds(b, want(b, "another", waits=False))


def test_one_session_may_want_a_lock_twice_and_each_wish_counts(world):
    a, *_ = members(world, "a")
    first, second = want(a), want(a)
    assert holds(a, first)
    assert not holds(a, second)
    release(a, first)
    a.beat()
    assert holds(a, second)


def test_who_stands_down_in_one_request_waits_behind_all_others(world):
    a, b, _ = members(world)
    first, second = want(a), want(b)
    a.member_state.locks.drop(first)
    again = want(a)
    b.beat()
    assert holds(b, second)
    assert state(a, again) == "waiting"


def test_lost_and_late_replies_change_nothing(world):
    a, b, _ = members(world)
    ticket = a.member_state.locks.add("l")
    granted = world.driver.reply(world.now, a.key, a.send()["seq"])
    a.send()
    assert granted["locks"]
    assert a.member_state.receive(granted) is None  # it answers an earlier request
    assert state(a, ticket) == "waiting"
    a.beat()
    token = a.member_state.locks.token(ticket)
    assert holds(a, ticket)
    assert world.membership.locks.answers(a.key) == {}
    other = want(b)
    a.beat()
    assert (holds(a, ticket), holds(b, other), a.member_state.locks.token(ticket)) == (True, False, token)


def test_a_grant_that_comes_when_it_is_wanted_no_more_is_given_back(world):
    a, b, _ = members(world)
    ticket = a.member_state.locks.add("l")
    request = a.send()
    a.member_state.locks.drop(ticket)
    a.fetch(request)
    assert state(a, ticket) is None
    other = want(b)
    a.beat()
    b.beat()
    assert holds(b, other)


def test_it_is_free_at_once_when_the_holders_process_is_dead_else_with_its_lease(world):
    a, b, c = members(world)
    first, second, third = want(a), want(b), want(c)
    assert [holds(a, first), holds(b, second), holds(c, third)] == [True, False, False]
    world.membership.died(world.now, a.key)
    b.beat()
    assert holds(b, second)
    for _ in range(5):
        world.wait(2.0)
        c.beat()
    assert not holds(b, second)  # its own lease is over first
    assert not holds(c, third)
    world.wait(1.1)
    c.beat()
    assert holds(c, third)


def test_who_lapsed_has_lost_it_for_good_even_when_nobody_else_wanted_it(world):
    a, b, _ = members(world)
    ticket = want(a)
    world.wait(10.5)  # the partition actor counts on: its margin is 10 %
    assert not holds(a, ticket)
    a.beat()
    assert state(a, ticket) == "lost"
    assert world.membership.locks.locks == {}
    assert holds(b, want(b))


@pytest.mark.parametrize("whole", [True, False])
def test_a_late_request_brings_no_hold_back_that_has_ended(world, whole):
    a, b, _ = members(world)
    ticket = want(a)
    late = a.whole_request() if whole else a.member_state.request(world.now)
    assert ("locks" in late) == whole
    world.wait(11.5)
    other = want(b)
    assert holds(b, other)
    world.driver.request(world.now, late)
    assert a.fetch(late)["resync"] == (not whole)
    assert not holds(a, ticket)
    if not whole:
        a.beat()
    assert state(a, ticket) == "lost"
    assert holds(b, other)


def test_a_session_with_a_lock_ends_only_by_a_proven_partition_actor(world):
    a, b, _ = members(world)
    want(a)
    other = want(b)
    for _ in range(6):
        world.wait(2.0, proven=False)
        b.beat()
    assert world.membership.locks.locks["l"].holders[0].key == a.key
    world.driver.proof(world.now, world.now)
    b.beat()
    assert holds(b, other)


def test_none_is_granted_without_a_lease_to_hold_it_by(world):
    a, *_ = members(world, "a")
    world.wait(10.5, proven=False)
    ticket = want(a)
    assert state(a, ticket) == "waiting"
    world.driver.proof(world.now, world.now)
    a.beat()
    assert holds(a, ticket)


def test_a_lock_that_is_broken_is_free_when_its_holder_knows(world):
    a, b, _ = members(world)
    first, second = want(a), want(b)
    assert len(world.membership.break_lock(world.now, "l")) == 1
    b.beat()
    assert not holds(b, second)
    request = a.send()
    assert world.membership.has_news(a.key)
    a.fetch(request)
    assert state(a, first) == "lost"
    assert not holds(b, second)
    a.send()
    b.beat()
    assert holds(b, second)
    assert world.membership.break_lock(world.now, "nobody's") == []


def test_who_does_not_confirm_the_end_of_a_broken_hold_loses_its_lease(world):
    a, b, _ = members(world)
    ticket, other = want(a), want(b)
    world.membership.break_lock(world.now, "l")
    for _ in range(12):
        world.wait(2.0)
        a.send()  # the replies do not reach it
        b.beat()
    assert not holds(a, ticket)
    assert holds(b, other)


def test_a_crash_of_the_partition_actor_takes_no_lock_from_its_holder_and_gives_none_away(world):
    a, b, c = members(world)
    ticket, shared = want(a), want(b, "s", shared=True)
    waiting, together = want(c), want(c, "s", shared=True)
    tokens = [a.member_state.locks.token(ticket), b.member_state.locks.token(shared)]
    world.restart()
    for _ in range(7):
        for member in (a, b, c):
            member.beat()
        assert holds(a, ticket)
        assert holds(b, shared)
        assert state(c, waiting) == "waiting"
        world.wait(2.0)
    assert [a.member_state.locks.token(ticket), b.member_state.locks.token(shared)] == tokens
    c.beat()
    assert holds(c, together)
    release(a, ticket)
    c.beat()
    assert holds(c, waiting)
    assert c.member_state.locks.token(waiting) >> COUNTER_BITS > tokens[0] >> COUNTER_BITS


def test_who_asks_without_waiting_is_refused_while_former_holders_may_still_report(world):
    world.restart()
    a, *_ = members(world, "a")
    assert state(a, want(a, waits=False)) == "refused"
    ticket = want(a)
    for _ in range(7):
        world.wait(2.0)
        a.beat()
    assert holds(a, ticket)


def test_no_lock_is_given_away_after_a_restart_before_the_partition_actor_is_proven(world):
    world.restart()
    a, *_ = members(world, "a")
    ticket = want(a)
    for _ in range(7):
        world.wait(2.0, proven=False)
        a.beat()
    assert state(a, ticket) == "waiting"
    world.driver.proof(world.now, world.now)
    a.beat()
    assert holds(a, ticket)


def test_a_partition_actor_that_may_have_been_replaced_gives_no_lock_away_when_its_wait_is_over(world):
    a, *_ = members(world, "a")
    world.restart()
    a.beat()
    ticket = want(a)
    while world.membership.recovering(world.now + 1.0):
        world.wait(0.5)
        a.beat(1)
    while world.membership.recovering(world.now - 1.0):
        world.wait(0.5, proven=False)
        a.beat(1)
    assert a.member_state.exclusive_until > world.now  # by a proof of before
    assert not holds(a, ticket)
    world.wait(0.5)
    a.beat()
    assert holds(a, ticket)


def test_a_restarted_partition_actor_believes_no_hold_that_was_stated_before_its_start(world):
    a, *_ = members(world, "a")
    ticket = want(a)
    until = a.member_state.exclusive_until
    world.wait(2.0)
    late = a.whole_request()
    world.restart()
    world.driver.request(world.now, late)
    assert world.membership.locks.locks == {}
    assert world.membership.has_news(a.key)
    reply = a.fetch(late)
    assert reply["resync"]
    assert a.member_state.exclusive_until == until  # no lease before its locks are known
    a.beat()
    assert holds(a, ticket)
    assert world.membership.locks.holders("l")[0].key == a.key
    assert a.member_state.exclusive_until > until


def test_a_lock_granted_by_a_partition_actor_of_the_past_is_learnt_though_it_was_known_to_be_waited_for(world):
    """The member states its wish to the new partition actor, and then gets the lock from the one that is being
    replaced."""
    a, b, _ = members(world)
    held = want(b)
    ticket = want(a)
    old = world.membership
    world.restart()
    world.driver.request(world.now, a.whole_request())
    new, world.membership = world.membership, old
    release(b, held)
    a.beat()
    assert holds(a, ticket)
    world.membership = new
    a.beat()
    assert [claim.key for claim in new.locks.holders("l")] == [a.key]
    assert new.locks.locks["l"].waiters == []


def test_heartbeats_of_members_without_locks_say_nothing_of_them(world):
    a, b, _ = members(world)
    want(b)
    request = a.send()
    assert "locks" not in request
    assert "prompt" not in request
    assert "locks" not in a.fetch(request)
    assert a.key not in world.membership.locks


def test_who_asks_for_a_reply_gets_one_at_once(world):
    a, *_ = members(world, "a")
    seq = a.member_state.want_reply()
    request = a.send()
    assert request["seq"] == seq
    assert world.membership.has_news(a.key)
    assert a.member_state.answered < seq
    a.fetch(request)
    assert a.member_state.answered == seq
    assert "prompt" not in a.send()
    assert not world.membership.has_news(a.key)


def test_a_stopped_session_holds_nothing(world):
    a, *_ = members(world, "a")
    ticket = want(a)
    a.member_state.end()
    assert not holds(a, ticket)


def test_settings_are_those_that_the_cases_reckon_with():
    assert (PLAIN.ttl, PLAIN.clock_rate_margin, PLAIN.handoff_timeout) == (10.0, 0.1, 5.0)


def stated_tickets(request):
    return sorted(request.get("locks", {}))


def test_a_request_states_only_what_changes_of_the_locks(world):
    a, b, _ = members(world)
    for number in range(50):
        a.member_state.locks.add(f"l{number}")
    a.beat(3)
    assert len(a.member_state.locks.held()) == 50
    assert "same" in a.member_state.request(world.now)
    another = a.member_state.locks.add("another")
    a.member_state.locks.drop(1)
    request = a.member_state.request(world.now)
    assert stated_tickets(request) == [1, another]
    assert request["locks"][1] is None
    world.driver.request(world.now, request)
    a.fetch(request)
    assert holds(a, another)
    assert holds(b, want(b, "l0"))


def test_changes_that_were_lost_on_the_way_are_stated_again(world):
    a, *_ = members(world)
    first = want(a, "l1")
    second = a.member_state.locks.add("l2")
    a.member_state.request(world.now)  # is lost
    third = a.member_state.locks.add("l3")
    a.member_state.locks.drop(first)
    request = a.member_state.request(world.now)
    assert stated_tickets(request) == [first, second, third]
    a.send()  # arrives, and its reply is lost
    a.beat(2)
    assert holds(a, second)
    assert holds(a, third)
    assert sorted(world.membership.locks.locks) == ["l2", "l3"]


def test_a_partition_actor_that_lacks_the_request_that_changes_start_from_asks_for_all_locks(world):
    a, b, _ = members(world)
    held = want(a)
    world.restart()
    a.member_state.locks.add("another")
    request = a.member_state.request(world.now)
    assert held not in request["locks"]
    world.driver.request(world.now, request)
    reply = a.fetch(request)
    assert (reply["resync"], reply["exclusive_lease"]) == (True, 0.0)
    assert stated_tickets(a.member_state.request(world.now)) == [1, 2]
    a.beat(2)
    other = want(b)
    world.wait(3.0)
    a.beat()
    assert holds(a, held)
    assert not holds(b, other)
