"""Views as what has changed: by hypothesis, the same as whole ones, and never larger."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import PLAIN, World, beat

from partition_actor import Settings
from partition_actor.core import views
from partition_actor.core.member import GroupState, MemberState
from partition_actor.core.messages import WHOLE
from partition_actor.core.views import ChangeLog, View, applied, difference
from partition_actor.ring import Ring

MEMBERS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3))
COALESCING = Settings(**{**PLAIN.to_dict(), "publish_window": 0.5})


def told(epoch, base=None, changed=None, **rest):
    view = {"epoch": epoch, "rev": 0, "exclusive": True, "mine": True, "base": base, "changed": changed or {}}
    return {**view, "laggards": [], "rings": [], **rest}


LAGGARD = {"member": "b", "epochs": [(1, 1)]}


@given(MEMBERS, MEMBERS)
def test_a_difference_applied_gives_the_members_again(before, after):
    assert applied(difference(after, before), before) == after
    assert len(difference(after, before)) <= len(before) + len(after)


@given(st.lists(MEMBERS, min_size=1, max_size=12))
def test_the_log_knows_how_to_come_from_any_epoch_that_it_tells(published):
    log = ChangeLog()
    for counter, members in enumerate(published):
        log.publish((1, counter), members)
    for counter, members in enumerate(published):
        changes = log.since((1, counter))
        if changes is not None:
            assert applied(changes, members) == published[-1]
            assert counter == len(published) - 1 or len(changes) < max(1, len(published[-1]))
    assert log.since((0, 0)) is None


def test_the_log_keeps_no_more_changes_than_there_are_members():
    log = ChangeLog()
    for counter in range(1000):
        log.publish((1, counter), {f"m{number}": 1 + (number == counter % 10) for number in range(10)})
    assert log.since((1, 998)) == {"m8": 1, "m9": 2}
    assert log.since((1, 0)) is None
    assert sum(log.since((1, counter)) is not None for counter in range(1000)) <= 10


def test_a_view_starts_from_the_one_held():
    held = View.of(told((1, 1), changed={"a": 1, "b": 1}))
    view = View.of(told((1, 2), (1, 1), {"b": None, "c": 2}, laggards=[LAGGARD]), held)
    assert view.members == {"a": 1, "c": 2}
    assert view.rings == {(1, 1): {"a": 1, "b": 1}}
    fewer = View.of(told((1, 2), (1, 2), rev=1), view)
    assert (fewer.members, fewer.laggards, fewer.rings) == (view.members, (), {})


@pytest.mark.parametrize(("is_whole", "changed"), [(True, {"a": 1, "b": 2}), (False, {"b": 2})])
def test_laggards_of_epochs_that_the_member_never_held_come_with_their_members(is_whole, changed):
    ring = {"epoch": (1, 1), "whole": is_whole, "members": changed}
    view = View.of(told((1, 3), changed={"a": 1}, laggards=[LAGGARD], rings=[ring]))
    assert view.rings == {(1, 1): {"a": 1, "b": 2}}
    fewer = View.of(told((1, 3), (1, 3), rev=1, laggards=[LAGGARD]), view)
    assert fewer.rings == view.rings


@pytest.mark.parametrize("held", [None, View((1, 5), 0, True, {"a": 1}, True)])
def test_a_view_that_starts_from_another_is_refused(held):
    with pytest.raises(ValueError, match=r"starts from the one of \(1, 1\)"):
        View.of(told((1, 2), (1, 1)), held)


def test_a_member_that_has_dropped_its_view_asks_again_and_gets_a_whole_one():
    world = World()
    first = world.member("a")
    first.beat()
    world.member("b").beat()
    request = first.send()
    reply = world.driver.reply(world.now, first.key, request["seq"])
    assert reply["groups"]["g"]["view"]["base"] == first.member_state.view("g").epoch
    first.member_state.take_settings(Settings(**{**PLAIN.to_dict(), "vnodes": 8}))
    assert first.member_state.receive(reply) == []
    assert first.member_state.view("g") is None
    world.driver.request(world.now, again := first.member_state.request(world.now))
    whole = world.driver.reply(world.now, first.key, again["seq"])["groups"]["g"]["view"]
    assert again["groups"]["g"]["rev"] == WHOLE
    assert (whole["base"], whole["changed"]) == (None, {"a": 1, "b": 1})


def test_a_view_that_takes_unknown_epochs_for_known_is_refused():
    held = View.of(told((1, 2), changed={"a": 1}))
    with pytest.raises(ValueError, match=r"names epochs \[\(1, 1\)\], whose members are not all known"):
        View.of(told((1, 2), (1, 2), rev=1, laggards=[LAGGARD]), held)


def test_who_waits_for_many_hears_of_the_last_at_once_and_of_the_others_together():
    world = World(COALESCING)
    old = {f"old-{number}": world.member(f"old-{number}") for number in range(6)}
    for _ in range(3):
        for member in old.values():
            member.beat()
        world.wait(1.0)
    new = world.member("new")
    new.beat()
    world.wait(1.0)
    new.beat()
    waits = [name for name, _ in new.member_state.view("g").laggards]
    assert len(waits) > 1
    old[waits[0]].beat()
    new.send()
    assert not world.membership.has_news(new.key)
    world.wait(0.5)
    assert world.membership.has_news(new.key)
    new.beat()
    assert [name for name, _ in new.member_state.view("g").laggards] == waits[1:]
    for name in waits[1:]:
        old[name].beat()
    new.send()
    assert world.membership.has_news(new.key)
    new.beat()
    assert new.member_state.view("g").laggards == ()


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_storm_of_joins_takes_few_epochs_and_tells_nobody_more_than_two_views_are_worth(exclusive):
    world = World(Settings(publish_window=0.02, vnodes=4, max_members=1000))
    members, told_of = [], Counter()

    def tell_all():
        for member in members:
            if not member.asked or world.membership.has_news(member.key):
                reply = member.fetch(member.asked) if member.asked else {"groups": {}}
                for entry in reply["groups"].values():
                    view = entry["view"]
                    told_of[member.id] += len(view["changed"]) + sum(len(changed) for _, _, changed in view["rings"])
                member.asked = member.send()

    for number in range(200):
        members.append(world.member(f"member-{number:03}", exclusive=exclusive))
        members[-1].asked = None
        tell_all()
        world.wait(0.002)
    for _ in range(20):
        world.wait(0.2)
        tell_all()
    assert all(len(member.member_state.view("g").members) == 200 for member in members)
    assert all(member.member_state.view("g").laggards == () for member in members)
    assert world.membership.groups["g"].epoch[1] <= 20
    assert max(told_of.values()) <= 2 * 200


def test_only_those_for_whom_others_wait_are_asked_to_acknowledge_at_once():
    world = World()
    old, new = world.member("a"), world.member("b")
    old.beat()
    old.adopts = False
    new.beat()
    old.beat()
    assert old.member_state.view("g").awaited
    assert not new.member_state.view("g").awaited
    assert old.member_state.acknowledge("g", old.member_state.view("g").epoch)
    beat(old, new)
    new.adopts = False
    old.member_state.leave("g")
    beat(old, new)
    assert new.member_state.view("g").members == {"b": 1}
    assert not new.member_state.acknowledge("g", new.member_state.view("g").epoch)


def test_a_view_asks_for_its_ring_once(monkeypatch):
    asked = []
    monkeypatch.setattr(views, "ring_for", lambda members, settings: asked.append(members) or Ring(members))
    member = MemberState("a", "session", Settings())
    view = View((1, 1), 0, False, {"a": 1, "b": 1}, True)
    member.groups["group"] = GroupState(1, None, None, 0, state="member", views=[view])
    member.lease_until = 10.0
    mine = member.subset(0.0, "group", range(100))
    assert mine == [key for key in range(100) if member.may_act(0.0, "group", key)]
    assert asked == [view.members]
