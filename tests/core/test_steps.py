"""Much work is done in several steps, between which other events come in."""

from __future__ import annotations

import itertools

import pytest
from machines import PLAIN, World, beat

from partition_actor.core import member as member_module
from partition_actor.core import membership
from partition_actor.core.status import group_status_of
from partition_actor.errors import MemberNotFound
from partition_actor.settings import Settings

GROUPS = [f"g{number}" for number in range(10)]


@pytest.fixture
def crowd(monkeypatch):
    """Members a, b and c of ten exclusive groups; a tick publishes two epochs, and a reply tells of three groups."""
    world = World()
    made = [world.member(name, "g0") for name in "abc"]
    for member in made:
        for group in GROUPS:
            member.member_state.join(group, exclusive=True)
    beat(*made, *made)
    monkeypatch.setattr(membership, "STEP", 2 * 3)
    monkeypatch.setattr(membership, "TOLD_AT_ONCE", 3)
    return world, made


def left_out(world, key):
    """The groups whose published epoch shows that a session has gone."""
    return sum(key[0] not in world.membership.groups[group].members for group in GROUPS)


def die(world, member):
    """Let a member die, and publish that in all groups."""
    world.driver.died(world.now, member.key)
    while left_out(world, member.key) < len(GROUPS):
        world.driver.timer(world.now)


def test_a_death_in_many_groups_is_published_step_by_step(crowd):
    world, (a, _b, _c) = crowd
    world.driver.died(world.now, a.key)
    steps = [left_out(world, a.key)]
    while world.driver.actions(world.now).wake_at <= world.now:
        world.driver.timer(world.now)
        steps.append(left_out(world, a.key))
    assert steps[0] < len(GROUPS)
    assert all(later - before <= 3 for before, later in itertools.pairwise(steps))
    assert steps[-1] == len(GROUPS)


def test_a_reply_tells_of_some_groups_and_the_next_of_others(crowd):
    world, (a, b, c) = crowd
    die(world, a)
    told = []
    while world.membership.has_news(b.key):
        told += b.fetch(b.send())["groups"]
        assert b.member_state.exclusive_until == world.now + PLAIN.ttl
    assert sorted(told) == GROUPS
    beat(b, c)
    assert all(b.member_state.view(group).members.keys() == {"b", "c"} for group in GROUPS)


def test_groups_whose_news_a_reply_leaves_out_come_first_in_the_next(crowd):
    world, (a, b, _c) = crowd
    die(world, a)
    first = set(b.fetch(b.send())["groups"])
    for group in first:
        world.membership.join(world.now, group, ("d", ""), 1, None, None)
    while not world.membership.groups[min(first)].members.keys() >= {"d"}:
        world.driver.timer(world.now)
    assert not first & b.fetch(b.send())["groups"].keys()


def test_a_member_asks_to_join_some_groups_and_then_others(monkeypatch):
    monkeypatch.setattr(member_module, "JOINED_AT_ONCE", 3)
    world = World()
    a = world.member("a", "g0")
    for group in GROUPS:
        a.member_state.join(group, exclusive=True)
    request = a.send()
    assert sorted(request["groups"]) == GROUPS[:3]
    a.fetch(request)
    beat(a, a)
    assert all(a.member_state.view(group) for group in GROUPS)


@pytest.mark.parametrize(("hold", "turn"), [(0.02, 0.025), (0.2, 0.25), (2.0, 1.9), (0.1, 1.4), (2.0, 2.3), (2.0, 4.0)])
def test_leases_end_though_turns_of_the_loop_are_long(hold, turn):
    settings = Settings(ttl=10.0, hold=hold, handoff_timeout=5.0, clock_rate_margin=0.1, publish_window=0.0, vnodes=4)
    world = World(settings)
    a = world.member("a")
    a.beat()
    end = world.now + 5 * settings.ttl
    while a.key in world.membership.sessions:
        assert world.now < end
        world.clock.advance(turn)
        world.driver.proof(world.now, world.now)


def test_a_lease_does_not_end_while_the_partition_actor_is_stopped():
    world = World()
    a = world.member("a")
    a.beat()
    world.clock.advance(5 * PLAIN.ttl)
    world.driver.proof(world.now, world.now)
    assert a.key in world.membership.sessions
    assert world.membership.stalled == pytest.approx(5 * PLAIN.ttl - PLAIN.hold / 2 - PLAIN.ttl / 8)


def test_joins_that_wait_keep_nobody_else_waiting(monkeypatch):
    monkeypatch.setattr(member_module, "JOINED_AT_ONCE", 3)
    world = World(first=False)
    a = world.member("a", "g0")
    for group in GROUPS[1:]:
        a.member_state.join(group, exclusive=True)
    a.member_state.join("plain", exclusive=False)
    for _ in range(5):
        a.fetch(a.send())
    assert world.membership.recovering(world.now)
    assert a.member_state.groups["plain"].state == "member"


def test_who_is_not_told_of_a_group_does_not_hold_it_up(crowd):
    world, (a, b, c) = crowd
    c.member_state.join("g0", weight=2)
    for group in GROUPS:
        c.member_state.join(group, weight=2)
    c.beat()
    fenced = set()
    for _ in range(40):
        world.wait(0.5)
        for member in (a, b, c):
            member.fetch(member.send())
            fenced |= world.membership.sessions[member.key].fenced
    assert not fenced
    assert all(member.member_state.view(group).members["c"] == 2 for member in (a, b, c) for group in GROUPS)


def test_a_reply_says_that_there_is_more(crowd):
    world, (a, b, _c) = crowd
    die(world, a)
    more = []
    while world.membership.has_news(b.key):
        more.append(b.fetch(b.send()).get("more", False))
    assert (more[0], more[-1]) == (True, False)


def test_a_dead_member_of_many_groups_is_taken_out_of_them_step_by_step(crowd):
    world, (a, _b, _c) = crowd
    world.driver.died(world.now, a.key)
    left = [sum(a.key in group.participants for group in world.membership.groups.values())]
    while world.driver.actions(world.now).wake_at <= world.now:
        world.driver.timer(world.now)
        left.append(sum(a.key in group.participants for group in world.membership.groups.values()))
    assert left[:2] == [4, 0]
    assert left_out(world, a.key) == len(GROUPS)


def test_an_operator_is_told_no_more_of_a_dead_member_that_is_still_in_a_group(crowd):
    world, (a, _b, _c) = crowd
    world.driver.died(world.now, a.key)
    group = world.membership.groups[GROUPS[-1]]
    assert a.key in group.participants
    assert {each["id"] for each in group_status_of(world.membership, group, world.now)["members"]} == {"b", "c"}
    with pytest.raises(MemberNotFound):
        world.membership.drain(world.now, GROUPS[-1], "a")


def test_a_member_of_many_groups_comes_back_step_by_step_when_a_drain_is_taken_back(monkeypatch):
    monkeypatch.setattr(membership, "STEP", 3)
    world = World()
    a, b = (world.member(name, "g0", node=name) for name in "ab")
    for member in (a, b):
        for group in GROUPS:
            member.member_state.join(group, exclusive=True)
    beat(a, b, a, b)
    world.driver.draining(world.now, {"a": None})
    while world.membership.deadline() <= world.now:
        world.driver.timer(world.now)
    beat(a, b, a, b)
    assert left_out(world, a.key) == len(GROUPS)
    world.driver.draining(world.now, {})
    on_ring = [0]
    while on_ring[-1] < len(GROUPS):
        assert world.membership.has_news(a.key)  # so that its next request comes at once
        a.fetch(a.send())
        on_ring.append(sum(group.is_on_ring(a.key) for group in world.membership.groups.values()))
    assert all(later - before <= 3 for before, later in itertools.pairwise(on_ring))
    beat(a, b, a, b)
    assert all(a.member_state.view(group).mine for group in GROUPS)
