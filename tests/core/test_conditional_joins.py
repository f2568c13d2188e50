"""Groups that are made by hand, joins that disturb nobody, and metadata that changes."""

from __future__ import annotations

import pytest
from machines import World, beat

from partition_actor.errors import GroupNotFound


@pytest.fixture
def world():
    return World()


def conditional(world, name, group="g", **join):
    return world.member(name, group=group, exclusive=False, conditional=True, **join)


def test_a_group_that_was_made_is_there_without_members_until_it_is_deleted(world):
    membership = world.membership
    assert membership.make_group(world.now, "g")
    assert not membership.make_group(world.now, "g")
    world.wait(60.0)
    assert membership.find("g").members == {}
    member = conditional(world, "a")
    member.beat()
    assert member.state == "member"
    assert not membership.delete_group(world.now, "g")
    member.member_state.leave("g")
    member.beat()
    world.wait(60.0)
    assert membership.delete_group(world.now, "g")
    with pytest.raises(GroupNotFound):
        membership.delete_group(world.now, "g")


def test_a_group_that_members_made_is_forgotten_when_it_is_empty(world):
    member = world.member("a", exclusive=False)
    member.beat()
    member.member_state.leave("g")
    member.beat()
    world.wait(60.0)
    assert world.membership.groups == {}


def test_one_that_is_conditional_joins_only_a_group_that_exists(world):
    member = conditional(world, "a")
    member.beat()
    assert member.state == "missing"
    assert world.membership.groups == {}
    assert "g" not in member.whole_request()["groups"]
    world.membership.make_group(world.now, "g")
    member.member_state.join("g", exclusive=False, conditional=True)
    member.beat()
    assert member.state == "member"


def test_one_that_is_conditional_takes_no_id_away(world):
    first, second = world.member("a", exclusive=False), conditional(world, "a")
    first.beat()
    second.beat()
    assert second.state == "taken"
    first.beat()
    assert first.state == "member"
    first.member_state.leave("g")
    first.beat()
    second.member_state.join("g", exclusive=False, conditional=True)
    second.beat()
    assert second.state == "member"


def test_one_that_is_conditional_joins_a_restarted_partition_actor_as_any_other_and_still_takes_no_id_away(world):
    first, other = world.member("a", exclusive=False), conditional(world, "b", group="empty")
    first.beat()
    world.restart()
    second = conditional(world, "a")
    for _ in range(8):
        beat(first, second, other)
        world.wait(2.0)
    beat(first, second, other)
    assert (first.state, second.state, other.state) == ("member", "taken", "member")


def test_metadata_that_changes_is_told_once_the_partition_actor_has_it_it_is_not_repeated(world):
    member = world.member("a", exclusive=False, metadata=b"1")
    member.beat()
    seat = world.membership.find("g").participants[member.key]
    assert seat.metadata == b"1"
    assert "metadata" not in member.whole_request()["groups"]["g"]
    member.member_state.join("g", metadata=b"2")
    lost = member.send()
    assert lost["groups"]["g"]["metadata"] == b"2"
    assert seat.metadata == b"2"
    again = member.send()
    assert again["groups"]["g"]["metadata"] == b"2"
    member.fetch(again)
    assert "metadata" not in member.whole_request()["groups"]["g"]
    world.restart()
    for _ in range(8):
        member.beat()
        world.wait(2.0)
    member.beat()
    assert world.membership.find("g").participants[member.key].metadata == b"2"
