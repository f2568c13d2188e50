"""What becomes of a member that an operator has forgotten or drained while it lives."""

import pytest
from machines import KEYS, PLAIN, World, beat

from partition_actor.settings import Settings


def shared(world, *members):
    """Everybody's keys, and that none is with two."""
    works = [key for member in members for key in member.works_on]
    assert len(works) == len(set(works))
    return sorted(works) == sorted(KEYS)


@pytest.mark.parametrize("held", [True, False], ids=["heartbeat held", "between heartbeats"])
def test_a_forgotten_member_comes_back_at_once(held):
    world = World()
    a, b = world.member("a", exclusive=False), world.member("b", exclusive=False)
    beat(a, b)
    request = b.send() if held else None
    world.membership.forget(world.now, "g", "b")
    assert world.membership.find("g").members == {"a": 1}
    if held:
        assert world.membership.has_news(b.key)
        assert b.fetch(request)["resync"]
    beat(a, b)
    assert b.state == "member"
    assert any(change.rejoined for change in b.changes)
    assert shared(world, a, b)


@pytest.mark.parametrize("held", [True, False], ids=["heartbeat held", "between heartbeats"])
def test_one_forgotten_in_an_exclusive_group_comes_back_after_its_lease(held):
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    request = b.send() if held else None
    world.membership.forget(world.now, "g", "b")
    if held:
        b.fetch(request)
    beat(a, b)
    assert world.membership.find("g").members == {"a": 1}
    assert b.works_on == []
    for _ in range(8):  # its heartbeats go on
        world.wait(world.settings.ttl / 4)
        beat(a, b)
    assert b.state == "member"
    assert any(change.rejoined for change in b.changes)
    assert shared(world, a, b)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("held", [True, False], ids=["heartbeat held", "between heartbeats"])
def test_a_drained_member_stays_out(exclusive, held):
    world = World()
    a, b = world.member("a", exclusive=exclusive), world.member("b", exclusive=exclusive)
    beat(a, b)
    request = b.send() if held else None
    world.membership.drain(world.now, "g", "b")
    if held:
        b.fetch(request)
    for _ in range(8):
        world.wait(world.settings.ttl / 4)
        beat(a, b)
    assert b.state == "out"
    assert sorted(a.works_on) == sorted(KEYS)


@pytest.mark.parametrize("exclusive", [True, False])
def test_two_processes_that_start_under_one_id_do_not_take_it_from_each_other_for_ever(exclusive):
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    other = world.member("b", exclusive=exclusive)
    other.beat()  # from now on the next epoch waits for its window, and every reply comes before it
    first, second = world.member("a", exclusive=exclusive), world.member("a", exclusive=exclusive)
    for _ in range(8):
        first.beat(1)
        second.beat(1)
        world.wait(0.3)
    assert (first.state, second.state) == ("superseded", "member")
    assert world.membership.find("g").members == {"a": 1, "b": 1}
