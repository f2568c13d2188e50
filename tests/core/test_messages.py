"""Messages: what lacks a field is refused, and unknown fields are ignored."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from machines import PLAIN, World

from partition_actor.core import messages
from partition_actor.core.member import MemberState
from partition_actor.core.messages import (
    MINOR,
    PROTOCOL,
    GroupReport,
    Request,
    check_reply,
    check_request,
    check_version,
)
from partition_actor.core.status import status_of
from partition_actor.errors import InvalidArgument, VersionMismatch
from partition_actor.version import __version__


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
    assert not {"minor", "version"} & request.keys()
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
    with pytest.raises(InvalidArgument, match=r"^request, group 'g', a view: got .*, expected a dict with mine$"):
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


HERE = rf"version {re.escape(__version__)} with protocol {PROTOCOL}\.{MINOR} of"
REPLACE = r"deploy\(replace=True\) or `partition-actor deploy --replace` puts a new one in without a pause"


def told(minor, version="7.7", protocol=PROTOCOL):
    return {"protocol": protocol, "minor": minor, "version": version}


@pytest.mark.parametrize("minor", [MINOR - 1, MINOR, MINOR + 1])
def test_one_minor_version_apart_works_together(minor):
    assert check_request({**whole_request(), **told(minor)})
    check_version(told(minor), "the partition actor", "this process", by_actor=True)


def test_the_version_before_minor_versions_is_minor_0():
    old = whole_request()
    del old["minor"], old["version"]
    assert check_request(old)
    check_version({"protocol": PROTOCOL}, "the partition actor", "this process", by_actor=True)


@pytest.mark.parametrize(("protocol", "minor"), [(PROTOCOL, MINOR + 2), (PROTOCOL + 1, 0)])
def test_a_member_that_is_too_new_is_told_to_replace_the_partition_actor(protocol, minor):
    newer = rf"^this member runs version 7\.7 with protocol {protocol}\.{minor}, newer than {HERE} the partition actor"
    advice = rf"7\.7 on the head, then {REPLACE}$" if protocol == PROTOCOL else r"7\.7 everywhere, then shutdown\(\)"
    with pytest.raises(VersionMismatch, match=rf"{newer}: install partition-actor=={advice}"):
        check_request({**whole_request(), **told(minor, protocol=protocol)})


def test_a_member_that_is_too_old_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(messages, "MINOR", 3)
    here = rf"older than .* of the partition actor: install partition-actor=={re.escape(__version__)} where this member"
    for request in (told(1), {"protocol": PROTOCOL - 1, "same": 0}):
        with pytest.raises(VersionMismatch, match=here):
            check_request({**whole_request(), **request})


def test_a_process_too_far_from_the_partition_actor_is_told_which_is_older_and_what_to_install(monkeypatch):
    newer = (
        r"^the partition actor runs version 7\.7 .*newer than .* of this process: install partition-actor==7\.7 where"
    )
    older = (
        rf"older than .* of this process: install partition-actor=={re.escape(__version__)} on the head, then {REPLACE}"
    )
    with pytest.raises(VersionMismatch, match=newer):
        check_version(told(MINOR + 2), "the partition actor", "this process", by_actor=True)
    monkeypatch.setattr(messages, "MINOR", 3)
    with pytest.raises(VersionMismatch, match=older):
        check_version(told(1), "the partition actor", "this process", by_actor=True)


def test_one_that_cannot_hand_over_is_not_to_be_replaced(monkeypatch):
    monkeypatch.setattr(messages, "MINOR", 2)
    with pytest.raises(
        VersionMismatch, match=r"everywhere, then shutdown\(\) the partition actor and deploy\(\) it again"
    ):
        check_version({"protocol": PROTOCOL, "version": "0.1.0"}, "the partition actor", "this process", by_actor=True)


@pytest.mark.parametrize("protocol", [None, "4", -1, 1 << 9999, [4], {"a": 1}, 4.0, np.array([4, 4])])
def test_a_protocol_that_is_no_number_is_told_what_to_do(protocol):
    advice = r"a protocol that the partition actor cannot read: install partition-actor==.* everywhere"
    with pytest.raises(VersionMismatch, match=advice) as raised:
        check_request({**whole_request(), "protocol": protocol, "version": "x" * 10_000})
    with pytest.raises(VersionMismatch, match=advice):
        check_request({"protocol": protocol, "same": 0})
    assert len(str(raised.value)) < 500


TEXTS = [None, 5, "", b"a", ["a"], "x" * 2000, "\ud800"]
NUMBERS = [None, "1", 1.0, True, -1, 1 << 63, [1]]
FLAGS = [None, 0, 1, "yes", []]
EPOCHS = [
    5,
    "ab",
    [1, 1],
    (1,),
    (1, 2, 3),
    (1, "2"),
    (None, 1),
    (True, 1),
    (1, 1.5),
    (-1, 0),
    (1 << 41, 1),
    (1, 1 << 22),
]
WEIGHTS = [None, "1", 1.0, True, 0, -1, 1001, math.nan]
BROKEN = {
    "version": TEXTS,
    "member": TEXTS,
    "session": TEXTS,
    "seq": NUMBERS,
    "incarnation": [*NUMBERS, 1 << 41],
    "interval": [None, "1", True, 0, -1.0, math.nan, math.inf, -math.inf, 1e9],
    "leased": FLAGS,
    "groups_base": NUMBERS,
    "groups": [None, [], "g", {"": None}, {5: None}, {None: None}, {"x" * 2000: None}, {"g": 5}, {"g": []}],
    "locks_base": NUMBERS,
    "locks": [None, [], "l", {"1": None}, {True: None}, {-1: None}, {1: 5}, {1: []}],
    "prompt": FLAGS,
    "withdrawn": FLAGS,
    "stays": FLAGS,
}
"""By field of a request, what it must not be."""

BROKEN_REPORT = {
    "want": [None, 1, "", "inside", ["in"]],
    "since": NUMBERS,
    "weight": WEIGHTS,
    "exclusive": [0, 1, "yes", []],
    "have": EPOCHS,
    "rev": [None, "1", 1.0, True, -2, 1 << 63],
    "acked": EPOCHS,
    "metadata": [5, "a", {"zone": 1}, bytearray(b"a"), b"x" * 70_000],
    "conditional": FLAGS,
    "lapsed": FLAGS,
    "unknown": FLAGS,
    "views": [None, 5, {}, "ab", [5], [None]],
}
BROKEN_VIEW = {
    "epoch": [None, *EPOCHS],
    "members": [None, [], "ab", {5: 1}, {"": 1}, {"x" * 2000: 1}, {"\u00e4" * 600: 1}, {"\ud800": 1}]
    + [{"a": weight} for weight in WEIGHTS],
    "mine": FLAGS,
}
BROKEN_LOCK = {"name": TEXTS, "shared": FLAGS, "waits": FLAGS, "token": NUMBERS}


WHERE = {
    "request": "request, ",
    "group 'g'": "request, group 'g', ",
    "a view": "request, group 'g', a view, ",
    "lock 1": "request, lock 1, ",
}
NAMED = {
    "metadata": "metadata",
    "groups": "request, group",
    "locks": "request, lock",
    "views": "request, group 'g', .*view",
}
"""Where the error names what is in the field."""


def broken(part, table):
    return [
        pytest.param(part, field, value, id=f"{part}-{field}-{number}")
        for field, values in table.items()
        for number, value in enumerate(values)
    ]


ALL_BROKEN = [
    *broken("request", BROKEN),
    *broken("group 'g'", BROKEN_REPORT),
    *broken("a view", BROKEN_VIEW),
    *broken("lock 1", BROKEN_LOCK),
]


def full_request():
    """A request with every field there is."""
    request = whole_request()
    request.update(groups_base=0, prompt=True, withdrawn=False, stays=True)
    view = {"epoch": (1, 1), "members": {"a": 1, "b": 1000, "\u00e4": 2}, "mine": True}
    request["groups"]["g"].update(conditional=True, lapsed=False, unknown=False, metadata=b"m", views=[view])
    return request


def parts(request):
    report = request["groups"]["g"]
    return {"request": request, "group 'g'": report, "a view": report["views"][0], "lock 1": request["locks"][1]}


def test_the_table_of_broken_fields_has_them_all():
    tables = {"request": BROKEN, "group 'g'": BROKEN_REPORT, "a view": BROKEN_VIEW, "lock 1": BROKEN_LOCK}
    assert check_request(full_request())
    for name, part in parts(full_request()).items():
        assert part.keys() - {"protocol", "minor"} == tables[name].keys()
    assert Request.__required_keys__ | Request.__optional_keys__ == BROKEN.keys() | {"protocol", "minor"}
    assert GroupReport.__required_keys__ | GroupReport.__optional_keys__ == BROKEN_REPORT.keys()


@pytest.mark.parametrize(("part", "field", "value"), ALL_BROKEN)
def test_a_broken_field_is_refused_by_its_name_before_anything_changes(part, field, value):
    world = World()
    before = status_of(world.membership, world.now)
    request = full_request()
    parts(request)[part][field] = value
    named = NAMED.get(field, f"{WHERE[part]}{field}")
    with pytest.raises(InvalidArgument, match=rf"^{named}.*: got (.|\n)*, expected "):
        world.driver.request(world.now, check_request(request))
    assert status_of(world.membership, world.now) == before
    assert world.membership.sessions == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in ("member", "session") for value in TEXTS if not isinstance(value, str)]
    + [(field, value) for field in ("seq", "incarnation", "same") for value in NUMBERS],
)
def test_a_broken_field_of_a_short_request_is_refused(field, value):
    """A text that no session has changes nothing."""
    short = {"protocol": PROTOCOL, "member": "a", "session": "s", "seq": 2, "incarnation": 1, "same": 1, field: value}
    with pytest.raises(InvalidArgument, match=rf"^request, {field}: got .*, expected "):
        check_request(short)
