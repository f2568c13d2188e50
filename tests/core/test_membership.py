"""The cases in which an exclusive group could have two owners of a key: the faults that the simulation found."""

from __future__ import annotations

import pytest
from machines import KEYS, PLAIN, World, beat

from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership
from partition_actor.errors import GroupFull, PartitionActorUnavailable
from partition_actor.settings import Settings


def test_keys_are_shared_out_and_each_has_one_owner():
    world = World()
    members = [world.member(name) for name in "abc"]
    beat(*members)
    assert sorted(key for member in members for key in member.works_on) == sorted(KEYS)
    assert all(member.works_on for member in members)


def test_a_recovering_partition_actor_brings_no_lapsed_lease_back():
    world = World()
    cut_off, other = world.member("a"), world.member("b")
    beat(cut_off, other)
    for _ in range(7):
        world.wait(2.0)
        other.beat()
    assert other.works_on == KEYS
    world.restart()
    beat(cut_off, other)
    assert other.works_on == KEYS
    assert cut_off.works_on == []
    for _ in range(7):
        world.wait(2.0)
        beat(cut_off, other)
    assert sorted(cut_off.works_on + other.works_on) == sorted(KEYS)
    assert cut_off.works_on


def test_a_recovering_partition_actor_lets_those_go_on_whose_lease_runs():
    world = World()
    members = [world.member(name) for name in "ab"]
    beat(*members)
    before = [member.works_on for member in members]
    world.restart()
    for _ in range(8):
        beat(*members)
        assert [member.works_on for member in members] == before
        world.wait(2.0)
    beat(*members)
    assert [member.works_on for member in members] == before
    assert members[0].member_state.view("g").epoch > (1000, 0)


def test_a_process_that_lapsed_does_not_take_its_id_back_from_its_successor_in_recovery():
    world = World()
    old = world.member("a")
    old.beat()
    world.wait(12.0)
    new = world.member("a")
    new.beat()
    assert new.works_on == KEYS
    world.restart()
    for _ in range(8):
        old.beat()
        new.beat()
        world.wait(2.0)
    beat(old, new)
    assert new.works_on == KEYS
    assert old.state == "superseded"


def test_an_expired_member_gets_no_lease_before_its_next_view():
    """Its next view is still to be published when news of another group has its request answered."""
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    late, other = world.member("a"), world.member("b")
    late.member_state.join("h", exclusive=False)
    other.member_state.join("h", exclusive=False)
    for _ in range(8):
        late.beat()
        other.beat()
        world.wait(0.5)
    for _ in range(12):
        world.wait(1.0)
        other.beat()
    assert other.works_on == KEYS
    third = world.member("c", exclusive=True)
    third.beat()  # "g" has just been published, and "h" has not
    assert list(late.fetch(late.send())["groups"]) == ["h"]
    assert late.works_on == []
    world.wait(1.0)
    beat(late, other, third)
    assert late.works_on


def test_no_lease_is_ended_by_a_partition_actor_that_may_have_been_replaced():
    world = World()
    silent, other = world.member("a"), world.member("b")
    beat(silent, other)
    mine = other.works_on
    world.wait(11.5, proven=False)
    other.beat()
    assert other.member_state.view("g").members == {"a": 1, "b": 1}
    assert world.membership.lease_left(world.now, silent.key) == 0.0
    world.driver.proof(world.now, world.now)
    other.beat()
    assert other.member_state.view("g").members == {"b": 1}
    assert set(mine) < set(other.works_on)


def test_a_member_that_comes_back_before_its_lease_is_ended_keeps_its_keys():
    world = World()
    silent, other = world.member("a"), world.member("b")
    beat(silent, other)
    mine = silent.works_on
    world.wait(11.5, proven=False)
    assert silent.works_on == []
    beat(silent, other)
    world.driver.proof(world.now, world.now)
    silent.beat()
    assert silent.works_on == mine


def test_the_wait_after_a_restart_ends_once_the_partition_actor_is_proven():
    world = World()
    outlived = world.member("a")
    outlived.beat()
    world.restart()
    newcomer = world.member("b")
    for _ in range(6):
        beat(outlived, newcomer)
        world.wait(2.0, proven=False)
    assert newcomer.member_state.view("g") is None
    world.driver.proof(world.now, world.now)
    beat(outlived, newcomer)
    assert newcomer.member_state.view("g").members == {"a": 1, "b": 1}


def test_a_lease_is_reckoned_from_the_proof_at_the_time_of_the_reply():
    world = World()
    member = world.member("a")
    member.beat()
    world.wait(1.5, proven=False)
    request, sent = member.send(), world.now
    world.wait(1.0)
    member.fetch(request)
    assert member.member_state.exclusive_until == sent + 10.0


def test_a_forgotten_bare_caller_gets_no_view_until_its_lease_is_over():
    world = World()
    key = ("bare", "")
    membership = world.membership
    membership.join(world.now, "g", key, 1, None, True)
    assert membership.use(world.now, "g", key) is not None
    membership.forget(world.now, "g", "bare")
    world.wait(5.0)
    membership.join(world.now, "g", key, 1, None, None)
    assert membership.use(world.now, "g", key) is None
    world.wait(6.5)
    membership.join(world.now, "g", key, 1, None, None)
    assert membership.use(world.now, "g", key) is not None


def test_a_bare_caller_that_holds_up_one_group_loses_its_place_there_alone():
    world = World()
    key, membership = ("bare", ""), world.membership
    for group in ("g", "h"):
        membership.join(world.now, group, key, 1, None, True)
        assert membership.use(world.now, group, key) is not None
    world.member("b", group="h").beat()
    for _ in range(4):
        assert key in membership.groups["h"].participants
        world.wait(4.5)
        assert membership.use(world.now, "g", key) is not None
    assert key not in membership.groups["h"].participants
    membership.join(world.now, "h", key, 1, None, True)
    assert membership.use(world.now, "h", key) is not None


def test_joining_again_outlives_the_reply_to_a_request_to_leave():
    world = World()
    member = world.member("a")
    member.beat()
    member.member_state.leave("g")
    member.beat(1)
    request = member.send()
    member.member_state.join("g", exclusive=True)
    member.fetch(request)
    assert member.member_state.view("g") is None
    member.beat()
    assert member.works_on == KEYS


def test_metadata_outlives_an_expiry():
    world = World()
    member = world.member("a", metadata=b"north")
    member.beat()
    world.wait(12.0)
    member.beat()
    assert world.membership.groups["g"].participants[member.key].metadata == b"north"


def test_an_incarnation_of_the_past_is_exceeded_once_the_partition_actor_is_proven():
    world = World()
    member = world.member("a")
    member.beat()
    member.member_state.incarnation = 70
    world.clock.advance(0.5)
    with pytest.raises(PartitionActorUnavailable, match="incarnation 1"):
        member.send()
    world.driver.proof(world.now, world.now)
    world.clock.advance(0.5)
    member.beat()
    assert world.membership.incarnation == 71
    assert member.member_state.incarnation == 71
    assert member.works_on == KEYS


def test_an_old_partition_actor_does_not_exceed_the_one_that_took_its_place():
    world = World()
    member = world.member("a")
    member.beat()
    old = world.membership
    world.restart()
    member.beat()
    world.clock.advance(1.0)
    world.membership = old
    with pytest.raises(PartitionActorUnavailable):
        member.send()
    assert old.incarnation == 1


def test_who_joins_a_recovering_group_as_it_is_does_not_decide_its_mode():
    world = World(first=False)
    world.membership = Membership(PLAIN, 5, world.now, restarted=True)
    bare, exclusive = world.member("a", exclusive=None), world.member("b", exclusive=True)
    for _ in range(8):
        world.wait(2.0)
        beat(bare, exclusive)
    assert exclusive.state == "member"
    assert bare.member_state.view("g").exclusive


def test_a_late_request_does_not_seat_a_member_for_good_that_has_left_since():
    world = World()
    member = world.member("a")
    member.member_state.join("h", exclusive=False)
    late = member.send()
    member.beat()
    member.member_state.leave("g")
    member.beat()
    world.wait(12.0)
    world.driver.request(world.now, late)
    assert world.membership.find("g").members == {"a": 1}
    member.beat()
    assert world.membership.find("g").members == {}
    assert world.membership.find("h").members == {"a": 1}


def test_no_heartbeat_is_held_for_longer_than_the_member_expects():
    world = World(Settings(**{**PLAIN.to_dict(), "max_heartbeats_per_second": 1.0}))
    first = world.member("m0")
    first.beat()
    for number in range(1, 8):
        world.member(f"m{number}", "h").beat()
    request = first.send()
    assert world.membership.interval == 8.0
    assert world.membership.hold_for(world.membership.sessions[first.key]) == 2.0
    assert first.fetch(request)["interval"] == 8.0
    first.send()
    assert world.membership.hold_for(world.membership.sessions[first.key]) == 8.0


def test_a_lapsed_member_of_a_recovering_exclusive_group_goes_on_in_the_others():
    world = World()
    member = world.member("a")
    member.member_state.join("h", exclusive=False)
    member.beat()
    world.wait(10.5)
    world.restart(restarted=False)
    member.beat()
    assert member.works_on == []
    assert member.member_state.subset(world.now, "h", KEYS) == KEYS


def test_the_pace_slows_with_the_members_and_quickens_again_when_they_go():
    world = World(Settings(**{**PLAIN.to_dict(), "max_heartbeats_per_second": 1.0}))
    few = [world.member(name) for name in "ab"]
    beat(*few)
    assert (world.membership.interval, world.membership.ttl) == (PLAIN.hold, PLAIN.ttl)
    many = [world.member(f"more-{number}") for number in range(8)]
    beat(*few, *many)
    assert (world.membership.interval, world.membership.ttl) == (10.0, 50.0)
    assert few[0].member_state.interval == 10.0
    assert world.membership.hold_for(world.membership.sessions[few[0].key]) == 10.0
    for member in many:
        member.member_state.leave("g")
        member.beat()
        world.membership.died(world.now, member.key)
    beat(*few)
    assert (world.membership.interval, world.membership.ttl) == (PLAIN.hold, PLAIN.ttl)
    assert few[0].member_state.interval == PLAIN.hold


def test_leases_come_in_few_lengths_however_many_members_join():
    world = World(Settings(**{**PLAIN.to_dict(), "max_heartbeats_per_second": 1.0, "max_members": 1000, "vnodes": 1}))
    terms = set()
    for number in range(400):
        world.member(f"member-{number}", exclusive=False).send()
        terms.add(world.membership.ttl)
        exact = world.settings.ttl_for(number + 1)
        assert exact <= world.membership.ttl <= exact * 17 / 16
    assert len(terms) < 100


def test_a_late_message_of_a_former_session_does_not_supersede_the_next_one():
    world = World()
    former, latest = world.member("a"), world.member("a")
    for number, member in enumerate((former, latest), start=1):
        member.key = ("a", f"life.{number}")
        member.member_state.session = f"life.{number}"
    former.beat(1)
    late = former.whole_request()
    world.membership.died(world.now, former.key)
    world.membership.dead.clear()  # it is long ago
    latest.beat()
    world.membership.forget(world.now, "g", "a")
    world.driver.request(world.now, late)
    assert world.membership.groups["g"].session_of("a") == "life.1"
    latest.beat()
    assert latest.state == "member"
    world.wait(PLAIN.ttl * 1.1)
    latest.beat()
    assert world.membership.groups["g"].session_of("a") == "life.2"
    assert latest.works_on == KEYS


@pytest.mark.parametrize("restarted", [True, False])
def test_survivors_have_their_places_before_newcomers_fill_them(restarted):
    world = World(Settings(**{**PLAIN.to_dict(), "max_members": 3}))
    survivors = [world.member(name) for name in "ab"]
    watcher = world.watcher("w")
    beat(*survivors, watcher)
    world.restart(restarted=restarted)
    newcomers = [world.member(f"new-{number}", "h", exclusive=False) for number in range(3)]
    beat(*newcomers)
    with pytest.raises(GroupFull):
        world.member("late").send()
    beat(*survivors, watcher)
    assert {*survivors[0].works_on, *survivors[1].works_on} == set(KEYS)
    for _ in range(7):
        world.wait(2.0)
        beat(*survivors, watcher, *newcomers)
    assert {*survivors[0].works_on, *survivors[1].works_on} == set(KEYS)
    assert watcher.member_state.view("g").members == {"a": 1, "b": 1}
    assert [member.state for member in newcomers] == ["member"] * 3
    with pytest.raises(GroupFull):
        world.member("late").send()


def test_a_lock_holder_survives_with_its_place():
    world = World(Settings(**{**PLAIN.to_dict(), "max_members": 1}))
    holder = world.member("a")
    holder.member_state.leave("g")
    ticket = holder.member_state.locks.add("lock")
    holder.beat()
    world.restart()
    world.member("new", "h").send()
    holder.beat()
    assert holder.member_state.holds(world.now, ticket)


def taken_out_of_g(world):
    """Members a and b of g; a holds up the hand-off until it is taken out of the group, and not out of the other."""
    a = world.member("a", metadata=b"about a")
    a.member_state.join("other", exclusive=True)
    a.beat()
    a.adopts = False
    b = world.member("b")
    beat(a, b)
    while True:
        late = a.member_state.request(world.now)
        world.wait(0.5)
        if a.key not in world.membership.groups["g"].participants:
            break
        world.driver.request(world.now, late)
        a.fetch(late)
        b.beat(1)
    world.driver.request(world.now, late)
    a.adopts = True
    return a, b, late


def test_a_group_that_is_deleted_under_one_who_wants_in_is_opened_again():
    world = World()
    a = world.member("a")
    a.beat()
    b = world.member("b", group="h")
    b.beat()
    request = a.send()
    world.membership.groups["g"].remove(a.key, world.now)
    world.driver.timer(world.now)
    assert world.membership.delete_group(world.now, "g")
    a.fetch(request)
    beat(a)
    assert a.state == "member"
    assert a.works_on == KEYS


def test_metadata_are_kept_though_they_are_told_once():
    world = World()
    a, b, late = taken_out_of_g(world)
    a.fetch(late)
    beat(a, b)
    assert a.state == "member"
    assert world.membership.groups["g"].participants[a.key].metadata == b"about a"


def test_metadata_of_a_member_of_a_plain_group_outlive_forget():
    world = World()
    a = world.member("a", exclusive=False, metadata=b"about a")
    a.beat()
    world.membership.forget(world.now, "g", "a")
    beat(a)
    assert world.membership.groups["g"].participants[a.key].metadata == b"about a"


def test_a_late_answer_does_not_shorten_the_wait_for_a_bare_callers_former_process():
    world, key = World(), ("bare", "")
    for group in "gh":
        assert world.call("get_subset", group, key, 1, True, "former") is not None
    slow = world.membership.groups["g"]
    slow.recovering = True
    assert world.call("get_subset", "g", key, 1, None, "former") is None  # it waits
    world.wait(5.0)
    assert world.call("get_subset", "h", key, 1, None, "former") is not None
    slow.recovering = False
    world.driver.timer(world.now)
    assert world.take_results()["get_subset"] is not None
    world.wait(PLAIN.ttl * 1.1 - 4.0)
    assert world.call("get_subset", "h", key, 1, None, "next") is None
    world.wait(5.0)
    assert world.take_results()["get_subset"] is not None


def test_a_member_that_left_before_it_met_the_next_partition_actor_is_told_that_it_is_out():
    """Its report opens the group, of which there is no epoch as long as nobody joins."""
    member = MemberState("a", "s", Settings())
    member.join("g", exclusive=True)
    for incarnation in (1, 2):
        membership = Membership(Settings(), incarnation, 0.0, first=True)
        membership.prove(0.0)
        for _ in range(4):
            request = member.request(0.0)
            session = membership.sync(0.0, request)
            for change in member.receive(membership.reply(0.0, session, request["seq"])) or ():
                if change.after is not None:
                    member.acknowledge(change.group, change.after.epoch)
        if incarnation == 1:
            assert member.view("g") is not None
            member.leave("g")
    assert member.view("g") is None
    assert member.groups["g"].state == "out"
