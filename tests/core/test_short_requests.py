"""Heartbeats that say no more than that all is as it was, and a partition actor that does not know how it was."""

from __future__ import annotations

import pytest
from machines import KEYS, World, beat

from partition_actor.core.lock_table import LockTable


@pytest.fixture(params=[True, False], ids=["exclusive", "plain"])
def world(request):
    world = World()
    world.members = [world.member(name, exclusive=request.param) for name in "ab"]
    beat(*world.members, *world.members)
    return world


def says_same(request):
    return "same" in request and not {"groups", "interval", "leased", "locks"} & request.keys()


def test_a_heartbeat_that_has_nothing_new_to_say_is_short_and_renews_the_lease(world):
    a, b = world.members
    until = a.member_state.exclusive_until
    for _ in range(20):
        world.wait(1.0)
        for member in (a, b):
            request = member.send()
            assert says_same(request)
            assert not world.membership.has_news(member.key)
            assert member.fetch(request)["groups"] == {}
    assert a.member_state.exclusive_until == until + 20.0
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.member_state.join("g", 3),
        lambda a: a.member_state.join("h"),
        lambda a: a.member_state.leave("g"),
        lambda a: a.member_state.join("g", metadata=b"new"),
        lambda a: a.member_state.locks.add("l"),
        lambda a: a.member_state.want_reply(),
        lambda a: a.member_state.watch("w"),
        lambda a: a.member_state.take_settings(a.world.settings),
        lambda a: a.member_state.request(a.world.now),
        lambda a: a.world.wait(11.0, proven=False),
    ],
    ids=["weight", "group", "leave", "metadata", "lock", "ask", "watch", "coordinator", "unanswered", "lapsed"],
)
def test_what_is_new_is_said_whole(world, change):
    a, _ = world.members
    assert says_same(a.member_state.request(world.now)) is True
    a.beat()
    change(a)
    assert not says_same(a.member_state.request(world.now))


def in_groups(world, *groups):
    """Member a joins these groups, and all is settled."""
    a, b = world.members
    for group in groups:
        a.member_state.join(group, exclusive=True)
    beat(a, b)
    return a


def test_a_member_of_many_groups_tells_of_those_that_have_changed(world):
    a = in_groups(world, "h", "i")
    a.member_state.join("h", weight=3)
    request = a.send()
    assert (request["groups"].keys(), request["groups_base"] > 0) == ({"h"}, True)
    a.fetch(request)
    assert world.membership.groups["h"].members == {"a": 3}
    a.member_state.leave("i")
    beat(a)
    assert sorted(world.membership.groups["g"].members) == ["a", "b"]
    assert world.membership.groups["i"].members == {}
    assert "i" not in world.membership.sessions[a.key].reports


def test_what_was_told_in_vain_is_told_again_even_if_it_has_been_taken_back(world):
    a = in_groups(world, "h", "i")
    a.member_state.join("h", weight=3)
    world.driver.request(world.now, a.member_state.request(world.now))  # its reply is lost
    a.member_state.join("h", weight=1)
    request = a.send()
    assert request["groups"].keys() == {"h"}
    a.fetch(request)
    assert world.membership.groups["h"].members == {"a": 1}


def test_changes_since_a_request_that_never_arrived_are_not_taken_in(world):
    a = in_groups(world, "h", "i")
    a.member_state.join("h", weight=3)
    request = a.member_state.request(world.now)
    world.driver.request(world.now, {**request, "groups_base": request["seq"] - 1})
    assert world.membership.groups["h"].members == {"a": 1}
    assert a.fetch(request)["resync"]
    request = a.send()
    assert (request["groups"].keys(), request.get("groups_base")) == ({"g", "h", "i"}, None)
    assert world.membership.groups["h"].members == {"a": 3}


def test_a_session_that_tells_only_changes_is_not_admitted(world):
    a = in_groups(world, "h")
    a.member_state.join("h", weight=3)
    world.restart()
    assert a.fetch(a.send())["resync"]
    assert world.membership.sessions == {}
    a.send()
    assert world.membership.lease_left(world.now, a.key) > 0


def test_a_member_with_a_lock_says_its_locks_once(world):
    a, _ = world.members
    ticket = a.member_state.locks.add("l")
    a.beat()
    request = a.send()
    assert says_same(request)
    a.fetch(request)
    assert a.member_state.holds(world.now, ticket)
    assert [claim.key for claim in world.membership.locks.holders("l")] == [a.key]


def test_a_partition_actor_that_does_not_know_what_was_said_asks_for_it_and_grants_nothing(world):
    a, b = world.members
    until, works_on = a.member_state.exclusive_until, a.works_on
    world.wait(1.0)
    world.restart()
    request = a.send()
    assert says_same(request)
    assert world.membership.sessions == {}
    assert world.membership.has_news(a.key)
    reply = a.fetch(request)
    assert (reply["resync"], reply["lease"], reply["exclusive_lease"]) == (True, 0.0, 0.0)
    assert a.member_state.exclusive_until == until
    assert a.works_on == works_on
    assert not says_same(a.send())
    beat(a, b)
    world.wait(1.0)
    beat(a, b)
    assert a.member_state.exclusive_until > until
    assert a.works_on == works_on


def test_one_that_knows_another_statement_asks_too(world):
    a, _ = world.members
    request = a.member_state.request(world.now)
    world.wait(1.0)
    world.driver.request(world.now, {**request, "same": request["same"] - 1})
    assert world.membership.has_news(a.key)
    reply = a.fetch(request)
    assert (reply["resync"], reply["lease"], reply["groups"]) == (True, 0.0, {})
    before = world.membership.lease_left(world.now, a.key)
    a.beat()
    assert world.membership.lease_left(world.now, a.key) == before + 1.0
    assert says_same(a.member_state.request(world.now))


def test_a_short_request_of_one_that_was_forgotten_brings_it_back(world):
    a, b = world.members
    world.membership.forget(world.now, "g", "a")
    request = a.send()
    assert says_same(request)
    a.fetch(request)
    for _ in range(8):
        world.wait(2.0)
        beat(a, b)
    assert a.state == "member"
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)


def test_a_short_request_counts_for_what_has_changed_meanwhile(world):
    a, b = world.members
    request = a.member_state.request(world.now)
    assert says_same(request)
    world.member("c", exclusive=a.member_state.groups["g"].exclusive).beat()
    world.driver.request(world.now, request)
    assert world.membership.has_news(a.key)
    assert a.fetch(request)["groups"]["g"]["view"]["base"] == b.member_state.view("g").epoch
    assert set(a.member_state.view("g").members) == {"a", "b", "c"}


def test_locks_of_a_short_request_are_not_said_twice(world, monkeypatch):
    a, _ = world.members
    a.member_state.locks.add("l")
    a.beat()
    taken = []
    monkeypatch.setattr(LockTable, "take", lambda self, *said, **how: taken.append(said))
    request = a.send()
    assert says_same(request)
    assert taken == []
