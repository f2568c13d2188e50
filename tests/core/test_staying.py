"""Members on a draining node that are being replaced: they keep their places until then, within a limit. Rule 14."""

from __future__ import annotations

import pytest
from machines import KEYS, World, beat

HERE, THERE = "node-1", "node-2"


@pytest.fixture
def world():
    return World()


def member(world, member_id, node, *, stays=False):
    made = world.member(member_id, node=node)
    made.member_state.stays = stays
    return made


@pytest.fixture
def trio(world):
    """On the node that will drain: a member that is going to be replaced, and one that is not. And one elsewhere."""
    trio = [member(world, "a", HERE, stays=True), member(world, "b", HERE), member(world, "c", THERE)]
    beat(*trio)
    return trio


def drain(world, seconds):
    world.driver.draining(world.now, {HERE: seconds})


def members(world):
    return sorted(world.membership.groups["g"].members)


def go_on(world, seconds, *who):
    """Let time go by while these send heartbeats."""
    until = world.now + seconds
    while world.now < until:
        world.wait(min(1.0, until - world.now))
        beat(*who)


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_it_stays_until_its_successor_has_its_id_and_that_gets_its_keys(world, trio, seconds):
    a, b, c = trio
    drain(world, seconds)
    beat(*trio)
    mine = a.works_on
    assert members(world) == ["a", "c"]
    go_on(world, 10.0, *trio)
    assert (a.works_on, b.works_on) == (mine, [])
    assert mine
    successor = member(world, "a", THERE)
    successor.beat()
    a.adopts = False  # its callbacks run
    beat(*trio, successor)
    assert (successor.works_on, sorted(c.works_on + mine)) == ([], sorted(KEYS))
    a.member_state.acknowledge("g", a.member_state.view("g").epoch)
    beat(*trio, successor)
    assert (successor.works_on, a.works_on, a.state) == (mine, [], "superseded")


def test_half_of_the_time_is_its_limit_and_it_gets_no_place_there_again(world, trio):
    a, _, c = trio
    drain(world, 40.0)
    go_on(world, 15.0, *trio)
    drain(world, 25.0)
    assert members(world) == ["a", "c"]
    go_on(world, 6.0, *trio)
    assert (members(world), c.works_on, a.works_on) == (["c"], KEYS, [])
    drain(world, 19.0)
    go_on(world, 5.0, *trio)
    assert members(world) == ["c"]


def test_a_limit_comes_when_the_end_is_known_and_sooner_when_that_is(world, trio):
    drain(world, None)
    go_on(world, 100.0, *trio)
    assert members(world) == ["a", "c"]
    drain(world, 40.0)
    go_on(world, 1.0, *trio)
    drain(world, 4.0)
    go_on(world, 1.0, *trio)
    assert members(world) == ["a", "c"]
    go_on(world, 2.0, *trio)
    assert members(world) == ["c"]


def test_when_the_node_has_ended_it_does_not_stay(world, trio):
    drain(world, None)
    beat(*trio)
    world.driver.draining(world.now, {}, {HERE})
    beat(*trio)
    assert members(world) == ["c"]


def test_a_drain_that_is_taken_back_leaves_it_where_it_is(world, trio):
    drain(world, 10.0)
    beat(*trio)
    world.driver.draining(world.now, {})
    go_on(world, 20.0, *trio)
    assert members(world) == ["a", "b", "c"]
    drain(world, 10.0)
    go_on(world, 4.0, *trio)
    assert members(world) == ["a", "c"]


def test_one_that_is_not_to_be_replaced_any_more_goes(world, trio):
    drain(world, None)
    beat(*trio)
    trio[0].member_state.stays = False
    beat(*trio)
    assert members(world) == ["c"]


def test_a_newcomer_gets_no_place_whatever_it_says(world, trio):
    drain(world, None)
    late = member(world, "late", HERE, stays=True)
    beat(*trio, late)
    assert members(world) == ["a", "c"]
    assert late.state == "joining"


def test_nobody_goes_to_one_that_stays_if_no_member_is_elsewhere(world):
    a, b = member(world, "a", HERE, stays=True), member(world, "b", HERE)
    beat(a, b)
    drain(world, 10.0)
    go_on(world, 8.0, a, b)
    assert members(world) == ["a", "b"]


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_the_next_partition_actor_lets_it_stay(world, trio, seconds):
    drain(world, seconds)
    beat(*trio)
    world.replace()
    world.wait(1.0)
    assert members(world) == ["a", "c"]
    beat(*trio)
    drain(world, None if seconds is None else 59.0)
    go_on(world, 20.0, *trio)
    assert members(world) == ["a", "c"]
    go_on(world, 12.0, *trio)
    assert members(world) == (["a", "c"] if seconds is None else ["c"])


def test_so_does_one_that_has_crashed(world, trio):
    drain(world, None)
    beat(*trio)
    world.restart()
    drain(world, None)
    longest = world.settings.max_ttl * (1 + world.settings.clock_rate_margin)
    go_on(world, longest + 2.0, *trio)
    assert members(world) == ["a", "c"]
