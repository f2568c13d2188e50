"""One partition actor hands its state to the next: nobody loses a key, and the former one is silent (rule 14)."""

from __future__ import annotations

import pytest
from machines import KEYS, PLAIN, World, beat

from partition_actor.core.membership import Membership
from partition_actor.core.messages import check_request, lock_name
from partition_actor.errors import PartitionActorReplaced, PartitionActorUnavailable
from partition_actor.settings import Settings


def builtins(value):
    """Whether a value consists of what every version of this library can read."""
    if isinstance(value, dict):
        return all(builtins(each) for pair in value.items() for each in pair)
    if type(value) in (list, tuple, set):
        return all(map(builtins, value))
    return value is None or type(value) in (bool, int, float, str, bytes)


def test_members_go_on_with_their_views_and_their_leases():
    world = World()
    members = [
        world.member("a", weight=2, metadata=b"A"),
        world.member("b"),
        world.member("p", "plain", exclusive=False),
    ]
    beat(*members)
    before = [(member.works_on, member.member_state.token(world.now, member.group)) for member in members]
    epochs = {name: group.epoch for name, group in world.membership.groups.items()}
    lost = members[0].send()
    former = world.replace()
    assert former.reply(world.now, members[0].key, lost["seq"]) is None
    for member in members:
        member.changes.clear()
        reply = member.beat()
        assert (reply["exclusive_lease"], reply["incarnation"]) == (PLAIN.ttl, world.membership.incarnation)
        assert member.changes == []
    assert [(member.works_on, member.member_state.token(world.now, member.group)) for member in members] == before
    assert {name: group.epoch for name, group in world.membership.groups.items()} == epochs
    third = world.member("c")
    beat(*members, third)
    assert third.works_on
    assert sorted({*members[0].works_on, *members[1].works_on, *third.works_on}) == sorted(KEYS)


def test_the_state_consists_of_builtins():
    world = World()
    members = [world.member("a", metadata=b"A"), world.member("b")]
    beat(*members)
    members[0].member_state.locks.add(lock_name("l"))
    world.call("get_subset", "g", ("bare", ""), 1)
    beat(*members)
    assert builtins(world.call("hand_over"))


def test_the_former_one_grants_and_changes_nothing():
    world = World()
    member = world.member("a")
    member.beat()
    held = member.send()
    former = world.replace()
    with pytest.raises(PartitionActorReplaced, match="look its name up again"):
        former.request(world.now, member.member_state.request(world.now))
    with pytest.raises(PartitionActorReplaced):
        former.heartbeat(world.now, ("bare", ""))
    former.begin(world.now, "subset", former.get_subset("g", ("bare", ""), 1))
    former.died(world.now, member.key)
    former.timer(world.now + 100.0)
    former.proof(world.now + 100.0, world.now + 100.0)
    assert member.key in former.membership.sessions
    ((call, result),) = former.actions(world.now).results
    assert call == "subset"
    assert isinstance(result, PartitionActorReplaced)
    assert former.reply(world.now, member.key, held["seq"]) is None


def test_calls_that_wait_are_told_to_look_for_the_next_one():
    world = World()
    world.member("a").beat()
    world.wait(PLAIN.node_proof_interval / 2, proven=False)
    assert world.call("get_subset", "g", ("bare", ""), 1) is None  # it waits for a proof
    world.driver.begin(world.now, "state", world.driver.hand_over())
    results = dict(world.driver.actions(world.now).results)
    assert isinstance(results["get_subset"], PartitionActorReplaced)


def test_a_hand_off_under_way_goes_on():
    """Whoever waits for a laggard goes on waiting, and gets its keys when that acknowledges to the next one."""
    world = World()
    first, second = world.member("a"), world.member("b")
    first.beat()
    first.adopts = False  # its callbacks for lost keys run
    second.beat()
    first.beat()
    waits = [key for key in KEYS if key not in first.works_on]
    assert waits
    assert second.works_on == []
    world.replace()
    beat(first, second)
    assert second.works_on == []
    view = first.member_state.view("g")
    first.member_state.acknowledge("g", view.epoch)
    beat(first, second)
    assert second.works_on == waits


def test_a_lease_ends_when_it_would_have_ended():
    world = World()
    lost, other = world.member("a"), world.member("b")
    beat(lost, other)
    world.wait(PLAIN.ttl * 0.5)
    other.beat()
    world.replace()
    other.beat()
    world.wait(PLAIN.ttl * 0.4)
    other.beat()
    assert lost.works_on
    world.wait(PLAIN.ttl * 0.4)
    other.beat()
    assert lost.works_on == []
    assert other.works_on == KEYS


def test_what_operators_did_stays():
    world = World()
    drained, other, barred = world.member("a"), world.member("b"), world.member("c")
    beat(drained, other, barred)
    world.driver.make_group(world.now, "by hand")
    world.membership.drain(world.now, "g", "a")
    world.membership.forget(world.now, "g", "c")
    world.replace()
    beat(drained, other)
    assert barred.beat()["lease"] == 0.0
    assert (drained.state, drained.works_on) == ("out", [])
    assert "by hand" in world.membership.kept & world.membership.groups.keys()


def test_locks_stay_with_their_holders_and_waiters_keep_their_turn():
    world = World()
    members = [world.member(name) for name in "abc"]
    beat(*members)
    tickets = []
    for member in members:
        tickets.append(member.member_state.locks.add(lock_name("l")))
        beat(*members)
    token = members[0].member_state.locks.held()[tickets[0]].token
    world.replace()
    beat(*members)
    assert members[0].member_state.locks.held()[tickets[0]].token == token
    for before, after in ((0, 1), (1, 2)):
        members[before].member_state.locks.drop(tickets[before])
        beat(*members)
        held = [name for name, member in zip("abc", members, strict=True) if member.member_state.locks.held()]
        assert held == ["abc"[after]]


def test_a_bare_caller_whose_process_may_still_work_is_waited_for():
    world = World()
    world.call("get_subset", "g", ("bare", ""), 1, True, "first process")
    world.replace()
    assert world.call("get_subset", "g", ("bare", ""), 1, True, "second process") is None
    world.wait(PLAIN.ttl * 0.5)
    assert "get_subset" not in world.take_results()
    world.wait(PLAIN.ttl * 0.7)
    assert world.take_results()["get_subset"]["mine"]


def test_it_waits_until_survivors_have_reported():
    world = World()
    world.restart()
    assert world.call("hand_over") is None
    world.wait(PLAIN.max_ttl * 1.2)
    assert world.take_results()["hand_over"]["incarnation"] == world.membership.incarnation
    assert world.driver.is_handed_over


def test_it_waits_until_those_that_were_handed_over_have_reported():
    """Two replacements in a row take no longer from a lease than one."""
    world = World()
    heard, late, lost = world.member("a"), world.member("b"), world.member("c")
    beat(heard, late, lost)
    world.replace()
    heard.beat(2)
    assert world.call("hand_over") is None
    late.beat(2)
    assert "hand_over" not in world.take_results()
    for _ in range(6):
        world.wait(PLAIN.ttl * 0.2)
        heard.beat()
        late.beat()
        if results := world.take_results():
            break
    assert results["hand_over"]["incarnation"] == world.membership.incarnation  # the lost one's lease is over


@pytest.mark.parametrize("proven", [True, False])
def test_a_member_that_was_handed_over_hears_of_its_lease_at_once(proven):
    """Its heartbeat is not held: the next replacement would end that call, and so on, until the lease is over."""
    world = World()
    member = world.member("a")
    member.beat()
    world.replace(proven=proven)
    assert member.beat(1)["resync"]
    request = member.member_state.request(world.now)
    held_for = world.driver.request(world.now, check_request(request))
    assert (held_for == 0.0) is proven
    if not proven:
        assert world.driver.actions(world.now).answer == []
        world.driver.proof(world.now, world.now)
        assert world.driver.actions(world.now).answer == [member.key]
    assert member.fetch(request)["exclusive_lease"] == PLAIN.ttl
    member.beat()
    assert world.driver.request(world.now, check_request(member.member_state.request(world.now)))  # held again


def test_one_that_is_being_shut_down_hands_nothing_over():
    world = World()
    world.member("a").beat()
    world.driver.end(world.now)
    with pytest.raises(PartitionActorUnavailable, match="shut down"):
        world.call("hand_over")
    assert not world.driver.is_handed_over


def test_other_settings_come_with_the_next_one_and_members_hear_of_it():
    world = World()
    member = world.member("a")
    member.beat()
    shorter = PLAIN.changed({"ttl": 5.0, "hold": 1.0})
    world.replace(shorter)
    assert member.beat()["settings"] == 1
    assert member.beat()["lease"] == 5.0
    assert world.membership.longest_told == PLAIN.ttl  # of bare callers nobody knows who has heard
    world.replace(shorter)
    assert member.beat()["settings"] == 1


def test_events_go_on_with_their_numbers():
    world = World()
    member = world.member("a")
    member.beat()
    world.membership.drain(world.now, "g", "a")
    member.beat()
    before = world.membership.events.read()
    world.replace()
    after = world.membership.events.read()
    assert after["events"][: len(before["events"])] == before["events"]
    later = world.membership.events.read(before["next"])
    assert [event["what"] for event in later["events"]] == ["started"]
    assert later["missed"] == 0
    assert "goes on for a former one" in later["events"][0]["why"]


def test_leases_of_the_former_one_are_over_when_the_longest_is():
    world = World()
    world.member("a").beat()
    world.replace()
    assert not world.membership.former_are_over(world.now)
    world.wait(PLAIN.max_ttl * 1.2)
    assert world.membership.former_are_over(world.now)


def test_after_a_copy_the_old_one_tells_who_has_let_go():
    """If the new code does not start, the old one goes on, also with what it was about to tell."""
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0, "vnodes": 40}))
    first, second = world.member("a"), world.member("b")
    beat(first, second)
    world.wait(2.0)
    beat(first, second)
    first.adopts = second.adopts = False  # their callbacks for lost keys run
    third = world.member("c")
    world.wait(2.0)
    beat(first, second, third)
    world.wait(2.0)
    beat(first, second, third)
    assert third.works_on == []
    assert world.membership.groups["g"].waits_for(third.key) == ["a", "b"]
    view = first.member_state.view("g")
    first.member_state.acknowledge("g", view.epoch)
    first.beat()
    assert world.call("copy_state")
    world.wait(2.0)
    beat(first, second, third)
    assert third.works_on


def test_after_a_copy_the_old_one_tells_watchers_of_what_it_has_published():
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    member, watcher = world.member("a"), world.watcher("w")
    beat(member, watcher)
    world.wait(2.0)
    beat(member, watcher)
    world.member("b").send()
    world.member("c").send()
    watcher.beat()
    watcher.send()
    world.driver.actions(world.now)
    world.driver.begin(world.now, "state", world.driver.copy_state())
    assert watcher.key in world.driver.actions(world.now).answer


def test_the_lease_that_bare_callers_were_told_of_is_recorded_by_the_next_one():
    """If that one crashes, the one after it waits as long as they may work."""
    world = World()
    world.call("get_subset", "g", ("bare", ""), 1, True)
    state = world.call("hand_over")
    shorter = PLAIN.changed({"ttl": 5.0, "hold": 1.0})
    after = Membership(shorter, 2000, world.now, records=True, state=state)
    assert after.longest_allowed >= after.longest_told == PLAIN.ttl


def test_fields_that_it_does_not_know_are_ignored():
    """A later version may add some, and may be replaced by an earlier one."""
    world = World()
    member = world.member("a")
    member.beat()
    member.member_state.locks.add(lock_name("l"))
    member.beat()
    state = world.call("hand_over")
    parts = [
        state,
        state["events"],
        state["events"]["kept"][0],
        state["groups"]["g"],
        state["groups"]["g"]["handoff"],
        state["groups"]["g"]["participants"][member.key],
        state["sessions"][0],
        state["locks"],
        state["locks"]["claims"][0],
    ]
    for part in parts:
        part["later"] = 1
    assert Membership(PLAIN, 2000, world.now, state=state).groups["g"].members == {"a": 1}


def test_nobody_has_reported_to_the_next_one_before_its_first_request():
    """Until then the shell knows no member's handle."""
    world = World()
    members = [world.member("a"), world.member("b")]
    beat(*members)
    world.call("get_subset", "g", ("bare", ""), 1)
    assert world.membership.have_reported(world.membership.find("g"))
    world.replace()
    members[0].beat()
    assert not world.membership.have_reported(world.membership.find("g"))
    members[1].beat()
    assert world.membership.have_reported(world.membership.find("g"))
