"""The end in good order: every lease is withdrawn, and nothing is out when the partition actor is settled (rule 11)."""

from __future__ import annotations

import pytest
from machines import KEYS, PLAIN, World, beat
from test_member_driver import Driven

from partition_actor.errors import PartitionActorUnavailable


def end(world):
    return world.driver.end(world.now)


def settled(world):
    return world.membership.is_settled()


def test_a_member_that_is_told_holds_nothing_and_is_waited_for_no_more():
    world = World()
    first, second = world.member("a"), world.member("b")
    beat(first, second)
    assert {*first.works_on, *second.works_on} == set(KEYS)
    held = first.send()
    end(world)
    assert first.key in world.driver.actions(world.now).answer
    assert first.fetch(held)["withdrawn"]
    assert (first.works_on, first.member_state.token(world.now, "g")) == ([], 0)
    first.member_state.has_let_go = True
    first.beat()
    assert not settled(world)  # the other has not heard of it
    second.beat(1)
    second.member_state.has_let_go = True
    second.beat()
    assert settled(world)
    assert first.works_on == second.works_on == []


def test_a_member_that_does_not_hear_is_waited_for_until_its_lease_is_over():
    world = World()
    member = world.member("a")
    member.beat()
    assert end(world) == pytest.approx(PLAIN.ttl * 1.1)
    world.wait(PLAIN.ttl)
    assert not settled(world)
    world.wait(PLAIN.ttl * 0.1, proven=False)
    assert settled(world)
    assert member.works_on == []


def test_a_member_that_leaves_the_group_while_it_lets_go_is_waited_for():
    """It acknowledges that it lost its keys when its leases are withdrawn, and its callbacks may run still."""
    world = World()
    member = world.member("a")
    member.beat()
    end(world)
    member.beat(1)
    member.member_state.leave("g")
    member.beat()
    assert not settled(world)
    member.member_state.has_let_go = True
    member.beat()
    assert settled(world)


def test_a_heartbeat_of_one_that_knows_is_held():
    world = World()
    member = world.member("a")
    member.beat()
    end(world)
    member.beat(1)
    member.send()
    assert world.membership.hold_for(world.membership.sessions[member.key]) == PLAIN.hold
    end(world)
    assert world.membership.hold_for(world.membership.sessions[member.key]) == PLAIN.hold


def test_members_of_plain_groups_only_are_not_waited_for():
    world = World()
    member = world.member("a", exclusive=False)
    member.beat()
    assert member.works_on
    assert end(world) == 0.0
    assert settled(world)
    member.beat()
    assert member.works_on == []


def test_it_admits_nobody_and_refuses_calls_that_renew():
    world = World()
    member, late = world.member("a"), world.member("b")
    member.beat()
    assert world.call("get_subset", "g", ("bare", ""), 1) is not None
    end(world)
    with pytest.raises(PartitionActorUnavailable, match="being shut down"):
        late.send()
    with pytest.raises(PartitionActorUnavailable):
        world.call("join", "h", ("bare", ""), 1, None, None)
    with pytest.raises(PartitionActorUnavailable):
        world.driver.heartbeat(world.now, ("bare", ""))


def test_a_bare_caller_is_waited_for_until_it_calls_again():
    world = World()
    world.call("join", "g", ("bare", ""), 1, None, True)
    assert world.call("get_subset", "g", ("bare", ""), 1) is not None
    end(world)
    assert not settled(world)
    with pytest.raises(PartitionActorUnavailable):
        world.call("get_subset", "g", ("bare", ""), 1)
    assert settled(world)


def test_a_call_that_waits_for_a_proof_is_refused():
    world = World()
    world.call("join", "g", ("bare", ""), 1, None, True)
    world.clock.advance(0.5)
    assert world.call("get_subset", "g", ("bare", ""), 1) is None
    end(world)
    world.driver.proof(world.now, world.now)
    with pytest.raises(PartitionActorUnavailable):
        world.take_results()


def test_while_it_recovers_it_waits_for_the_leases_of_its_predecessor():
    world = World()
    silent = world.member("a")
    silent.beat()
    world.restart()
    assert end(world) == pytest.approx(PLAIN.max_ttl * 1.1)
    assert not settled(world)
    world.wait(PLAIN.max_ttl * 1.1)
    assert settled(world)


def test_no_lock_is_granted_while_it_ends_and_no_view_brings_a_lease():
    world = World()
    member = world.member("a")
    member.member_state.locks.add("lock")
    member.beat(1)
    end(world)
    replies = [member.beat(1) for _ in range(4)]
    world.wait(5.0)
    replies.append(member.beat())
    assert all(reply["lease"] == reply["exclusive_lease"] == 0.0 for reply in replies)
    assert not member.member_state.locks.held()


# -- the member's side ------------------------------------------------------------------------------------------


@pytest.fixture
def driven():
    driven = Driven(World())
    driven.start()
    driven.join()
    driven.driver.listen("g")
    driven.beat()
    driven.run()
    return driven


def let_go(driven):
    driven.actions()
    driven.beat()
    return driven.world.membership.is_settled()


def test_a_member_lets_go_when_its_callbacks_have_returned(driven):
    end(driven.world)
    driven.beat(1)
    assert driven.actions().deliver
    delivery = driven.next()
    assert delivery.all_lost
    assert not let_go(driven)
    driven.finish(delivery)
    assert driven.driver.session in driven.actions().send
    assert let_go(driven)


def test_a_member_lets_go_when_its_guarded_calls_have_returned(driven):
    call = driven.begin_call(KEYS[0])
    end(driven.world)
    driven.beat(1)
    driven.actions()
    driven.run()
    assert not let_go(driven)
    assert driven.begin_call(KEYS[1]) is None
    driven.end_call(call)
    assert let_go(driven)


def test_a_member_lets_go_when_its_locks_are_released(driven):
    locks = driven.driver.session.locks
    ticket = locks.add("lock")
    driven.beat()
    assert driven.driver.holds(driven.world.now, driven.process, driven.driver.session, ticket)
    end(driven.world)
    driven.beat(1)
    driven.actions()
    driven.run()
    assert not driven.driver.holds(driven.world.now, driven.process, driven.driver.session, ticket)
    assert not let_go(driven)
    locks.drop(ticket)
    assert let_go(driven)


def test_a_session_that_is_leaving_is_closed_when_its_callbacks_have_returned(driven):
    end(driven.world)
    driven.stop()
    session = driven.driver.session
    driven.beat(1, session)
    delivery = driven.next()
    assert session not in driven.actions().close
    driven.finish(delivery)
    driven.run()
    assert session in driven.actions().close
    driven.world.driver.close(driven.world.now, ("a", session.session))
    assert settled(driven.world)


def test_the_next_partition_actor_that_knows_of_this_end_admits_everybody_at_once(driven):
    world = driven.world
    end(world)
    driven.beat(1)
    driven.actions()
    driven.run()
    assert let_go(driven)
    after = World()
    after.clock = world.clock
    after.membership = type(world.membership)(PLAIN, 1001, world.now, first=True)
    after.driver.proof(world.now, world.now)
    driven.world = after
    driven.beat()
    assert driven.driver.share(world.now, driven.process, "g").of(KEYS) == KEYS
    assert not driven.driver.session.withdrawn
