"""How a member learns how many others acknowledge an epoch at once."""

from __future__ import annotations

from machines import World, beat


def awaited_of(world, names, newcomer):
    members = [world.member(name) for name in names]
    beat(*members, *members)
    other = world.member(newcomer)
    other.beat(1)
    for member in members:
        member.adopts = False
        member.beat(1)
    return {member.id: member.member_state.view("g").awaited for member in [*members, other]}


def test_a_member_is_told_of_how_many_others_wait_to_hear():
    awaited = awaited_of(World(), "abcdef", "new")
    lose_keys = [name for name, count in awaited.items() if count]
    assert awaited["new"] == 0
    assert len(lose_keys) > 1
    assert {awaited[name] for name in lose_keys} == {len(lose_keys)}
