"""Messages: what lacks a field is refused, and unknown fields are ignored."""

from __future__ import annotations

import pytest
from machines import PLAIN, World

from partition_actor.core.member import MemberState
from partition_actor.core.messages import PROTOCOL, check_reply, check_request
from partition_actor.errors import InvalidArgument, VersionMismatch


def whole_request():
    member = MemberState("a", "session", PLAIN)
    member.join("g", exclusive=True)
    member.locks.add("l")
    return member.request(0.0)


def test_what_members_and_the_partition_actor_say_is_accepted():
    world = World()
    member = world.member("a")
    for _ in range(3):
        request = check_request(member.send())
        reply = check_reply(world.driver.reply(world.now, member.key, request["seq"]))
        member.member_state.receive(reply)
    assert "same" in request
    assert check_request(whole_request())["locks"]


@pytest.mark.parametrize("value", [None, "sync", b"", [], {}, {"member": "a"}])
def test_what_is_no_request_is_refused(value):
    with pytest.raises(InvalidArgument, match=r"^request: got .*, expected a"):
        check_request(value)


def test_a_whole_request_that_lacks_a_field_is_refused():
    for name in ("member", "session", "seq", "incarnation", "interval", "leased", "groups"):
        request = whole_request()
        del request[name]
        with pytest.raises(InvalidArgument, match=rf"^request: got .*, expected a dict with {name}$"):
            check_request(request)


def test_a_short_request_that_lacks_a_field_is_refused():
    short = {"protocol": PROTOCOL, "member": "a", "session": "s", "seq": 2, "incarnation": 1, "same": 1}
    assert check_request(short) is short
    for name in ("member", "session", "seq", "incarnation"):
        lacking = {key: value for key, value in short.items() if key != name}
        with pytest.raises(InvalidArgument, match=rf"expected a dict with {name}$"):
            check_request(lacking)


def test_metadata_that_is_not_packed_is_refused():
    request = whole_request()
    request["groups"]["g"]["metadata"] = {"zone": "north"}
    with pytest.raises(InvalidArgument, match=r"^metadata: got .*, expected None or packed metadata as bytes"):
        check_request(request)


@pytest.mark.parametrize("name", ["want", "since", "weight", "exclusive", "have", "rev", "acked"])
def test_a_report_that_lacks_a_field_is_refused_and_its_group_named(name):
    request = whole_request()
    del request["groups"]["g"][name]
    with pytest.raises(InvalidArgument, match=rf"^request, group 'g': got .*, expected a dict with {name}$"):
        check_request(request)


@pytest.mark.parametrize("name", ["name", "shared", "waits", "token"])
def test_a_lock_that_lacks_a_field_is_refused(name):
    request = whole_request()
    del request["locks"][1][name]
    with pytest.raises(InvalidArgument, match=rf"^request, lock 1: got .*, expected a dict with {name}$"):
        check_request(request)


def test_a_held_view_that_lacks_a_field_is_refused():
    request = whole_request()
    request["groups"]["g"]["views"] = [{"epoch": (1, 1), "members": {}}]
    with pytest.raises(InvalidArgument, match=r"^request, a view of group 'g': got .*, expected a dict with mine$"):
        check_request(request)


def test_unknown_fields_are_ignored():
    request = {**whole_request(), "new": 1}
    request["groups"]["g"]["new"] = 1
    world = World()
    world.driver.request(world.now, check_request(request))
    reply = world.driver.reply(world.now, ("a", "session"), request["seq"])
    member = MemberState("a", "session", PLAIN)
    member.join("g", exclusive=True)
    member.request(world.now)
    assert member.receive(check_reply({**reply, "new": 1}))
    assert member.view("g").members == {"a": 1}


def test_a_reply_that_lacks_a_field_is_refused():
    with pytest.raises(InvalidArgument, match=r"^reply: got None, expected a dict with "):
        check_reply(None)


def test_another_protocol_is_told_what_to_do():
    with pytest.raises(VersionMismatch, match=r"a member runs with protocol 1.*install one version everywhere"):
        check_request({**whole_request(), "protocol": 1})


@pytest.mark.parametrize(("name", "value"), [("member", 5), ("session", None), ("seq", "1"), ("incarnation", None)])
def test_a_heading_of_another_type_is_refused(name, value):
    with pytest.raises(InvalidArgument, match=rf"^request, {name}: got .*, expected a (str|int), not "):
        check_request({**whole_request(), name: value})
