"""The handles of a group's members."""

from machines import World, beat

from partition_actor.actor.member_handles import MemberHandles


def members_of(world, *names):
    made = [world.member(name) for name in names]
    beat(*made)
    return made


def test_only_what_is_new_is_told():
    world, handles = World(), MemberHandles(1)
    a, b = members_of(world, "a", "b")
    group = world.membership.groups["g"]
    handles.register(a.key, "handle of a")
    first = handles.of(group, -1)
    assert first["actors"] == {"a": "handle of a"}
    assert first["complete"]
    handles.register(b.key, "handle of b")
    second = handles.of(group, first["upto"])
    assert second["actors"] == {"b": "handle of b"}
    assert handles.of(group, second["upto"])["actors"] == {}
    assert handles.of(group, -1)["actors"] == {"a": "handle of a", "b": "handle of b"}
    handles.register(a.key, "handle of a")  # it has come back
    assert handles.of(group, second["upto"])["actors"] == {"a": "handle of a"}


def test_a_member_that_is_no_actor_has_no_handle():
    world, handles = World(), MemberHandles(1)
    (a,) = members_of(world, "a")
    handles.register(a.key, None)
    assert handles.of(world.membership.groups["g"], -1) == {"actors": {}, "upto": 0, "complete": True}


def test_a_session_that_is_over_has_none():
    world, handles = World(), MemberHandles(1)
    (a,) = members_of(world, "a")
    handles.register(a.key, "handle")
    handles.forget(a.key)
    handles.forget(a.key)
    assert handles.of(world.membership.groups["g"], -1)["actors"] == {}


def test_it_is_the_handle_of_the_session_that_has_the_place():
    world, handles = World(), MemberHandles(1)
    (old,) = members_of(world, "a")
    handles.register(old.key, "old")
    new = world.member("a")
    beat(new)
    handles.register(new.key, "new")
    beat(new, old)
    assert handles.of(world.membership.groups["g"], -1)["actors"] == {"a": "new"}


def test_a_recovering_group_tells_those_who_have_reported():
    world = World()
    a, _ = members_of(world, "a", "b")
    before = MemberHandles(world.membership.incarnation)
    before.register(a.key, "handle")
    upto = before.of(world.membership.groups["g"], -1)["upto"]
    world.restart()
    handles = MemberHandles(world.membership.incarnation)
    a.beat()
    handles.register(a.key, "handle")
    told = handles.of(world.membership.groups["g"], upto)
    assert told["actors"] == {"a": "handle"}
    assert not told["complete"]
    assert told["upto"] > upto
