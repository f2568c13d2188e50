"""Bad input to every public call: the typed error, and after it everything is as it was."""

import inspect
import math

import pytest
import ray
from deployments import LIMIT
from members import SilentPartitionActor

import partition_actor
from partition_actor import PartitionCoordinator, Ring
from partition_actor.actor.partition_actor import PartitionActor
from partition_actor.core.messages import PROTOCOL
from partition_actor.errors import InvalidArgument, NotStarted, VersionMismatch

BAD_TEXTS = {
    "None": None,
    "empty": "",
    "bytes": b"a",
    "int": 7,
    "list": ["a"],
    "1 MB": "x" * 1_000_000,
    "lone surrogate": "a\ud800",
}
BAD_WEIGHTS = {
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "True": True,
    "NaN": math.nan,
    "None": None,
    "text": "1",
    "huge": 10**9,
}
BAD_ITEMS = {"None": None, "int": 7, "text": "abc", "bytes": b"abc"}
BAD_MODES = {"int": 1, "text": "yes"}
BAD_METADATA = {"text": "abc", "int key": {1: 2}, "list": ["a"]}
BAD_SESSIONS = {name: value for name, value in BAD_TEXTS.items() if name != "None"}
BAD_REQUESTS = {"None": None, "text": "abc", "empty": {}, "no protocol": {"member": "a"}}

ITEMS = [f"item-{n}" for n in range(100)]
GOOD = {
    "group": "group",
    "member_id": "member",
    "items": ITEMS,
    "weight": 1,
    "metadata": None,
    "exclusive": None,
    "session": None,
    "actor": None,
    "request": None,
    "key": "key",
    "since": 0,
    "name": "lock",
    "limit": 1,
    "groups": [],
    "status": {},
}
BAD = {
    "group": BAD_TEXTS,
    "member_id": BAD_TEXTS,
    "items": BAD_ITEMS,
    "weight": BAD_WEIGHTS,
    "metadata": BAD_METADATA,
    "exclusive": BAD_MODES,
    "session": BAD_SESSIONS,
    "actor": {"text": "agent-1", "int": 7, "class": object, "dict": {"handle": None}},
    "request": BAD_REQUESTS,
    "key": {},
    "since": {"None": None, "-2": -2, "1.5": 1.5, "True": True, "text": "1"},
    "name": BAD_TEXTS,
    "limit": {"None": None, "0": 0, "501": 501, "1.5": 1.5, "True": True},
    "groups": {"None": None, "text": "group", "int": 7, "21 groups": ["g"] * 21},
    "status": {"None": None, "text": "f", "empty": {}, "class": {"name": object}, "large": {"name": "x" * 2_000_000}},
}
CALLS = {
    "get_subset": ["group", "member_id", "items", "weight", "session", "actor"],
    "join": ["group", "member_id", "weight", "metadata", "exclusive", "session", "actor"],
    "heartbeat": ["member_id", "session", "actor"],
    "leave": ["group", "member_id", "session"],
    "close_session": ["member_id", "session"],
    "sync": ["request"],
    "get_members": ["group"],
    "get_owner": ["group", "key"],
    "forget": ["group", "member_id"],
    "drain": ["group", "member_id"],
    "make_group": ["group"],
    "delete_group": ["group"],
    "get_metadata": ["group"],
    "get_leader": ["group"],
    "get_actors": ["group", "since"],
    "break_lock": ["name"],
    "events": ["since", "limit"],
    "observe": ["groups", "since"],
    "note_fleet": ["status"],
}
CASES = [
    pytest.param(method, name, value, id=f"{method}-{name}-{kind}")
    for method, names in CALLS.items()
    for name in names
    for kind, value in BAD[name].items()
]


def held(deployment):
    """What the partition actor holds: what must not change."""
    status = deployment.call("status")
    groups = {}
    for name in status["groups"]:
        group = deployment.call("status", name)
        members = [(m["id"], m["session"], m["weight"], m["metadata"]) for m in group["members"]]
        groups[name] = (group["epoch"], members)
    return status["pid"], status["sessions"], groups


@pytest.fixture
def unchanged(steady):
    """A partition actor with two members, which must hold the same after the test and go on serving."""
    for name in ("a", "b"):
        steady.call("join", "unchanged", name, metadata={"zone": 1})
    before = held(steady)
    yield steady
    assert held(steady) == before
    assert steady.call("get_subset", "unchanged", "a", ITEMS) == Ring(["a", "b"]).subset("a", ITEMS)


@pytest.mark.parametrize(("method", "name", "value"), CASES)
def test_the_actor_refuses_a_bad_argument_by_its_name(unchanged, method, name, value):
    arguments = {**{name: GOOD[name] for name in CALLS[method]}, name: value}
    if "group" in arguments and name != "group":
        arguments["group"] = "unchanged"
    with pytest.raises(InvalidArgument, match=rf"{name}: got .*, expected ") as caught:
        unchanged.call(method, **arguments)
    assert len(str(caught.value.cause)) < 300


def test_every_argument_of_every_call_is_tried():
    """`hello`, `get_groups` and `never` take none."""
    methods = {
        name: inspect.signature(method)
        for name, method in inspect.getmembers(PartitionActor)
        if inspect.iscoroutinefunction(method) and not name.startswith("_")
    }
    taken = {name: [*signature.parameters][1:] for name, signature in methods.items()}
    taken["sync"].remove("watch")  # these have a test of their own
    taken["configure"].remove("changes")
    taken["hand_over"].remove("settings")
    taken["fleets"].remove("name")
    for name in ("status", "events"):
        taken[name].remove("group")
    for names in taken.values():
        if "_ray_trace_ctx" in names:  # Ray's, from when it made an actor of the class
            names.remove("_ray_trace_ctx")
    assert {name: set(names) for name, names in taken.items() if names} == {
        name: set(names) for name, names in CALLS.items()
    }


ANYBODY = {"handle": None, "node": "n", "actor": "", "worker": "w", "process": "p", "owned": None}


@pytest.mark.parametrize(
    "watch",
    [7, "ab", ["a"], {"handle": None, "node": "n"}, {**ANYBODY, "worker": "x" * 10**6}, {**ANYBODY, "handle": "x"}],
    ids=["int", "text", "list", "lacking", "long", "no handle"],
)
def test_a_heartbeat_with_a_bad_watch_is_refused(unchanged, watch):
    request = {"protocol": PROTOCOL, "member": "m", "session": "s", "seq": 0, "incarnation": 0, "same": 0}
    with pytest.raises(InvalidArgument, match=r"watch(, worker)?: got"):
        unchanged.call("sync", request, watch)


@pytest.mark.parametrize(
    ("field", "value"), [("interval", math.nan), ("interval", "soon"), ("leased", None), ("locks", {1: 7})]
)
def test_a_heartbeat_with_a_broken_field_is_refused(unchanged, field, value):
    request = {"protocol": PROTOCOL, "member": "m", "session": "s", "seq": 1, "incarnation": 0}
    whole = {**request, "interval": 1.0, "leased": False, "groups": {}, field: value}
    with pytest.raises(InvalidArgument, match=rf"request, {field[:4]}.*: got .*, expected "):
        unchanged.call("sync", whole)


@pytest.mark.parametrize("weight", [0, 10**9, 1.5, "1", None, True])
def test_a_weight_in_a_heartbeat_is_checked_as_any_other(unchanged, weight):
    report = {"want": "in", "since": 1, "exclusive": None, "have": None, "rev": 0, "acked": None, "weight": weight}
    request = {"protocol": PROTOCOL, "member": "m", "session": "s", "seq": 1, "incarnation": 0}
    whole = {**request, "interval": 1.0, "leased": False, "groups": {"unchanged": report}}
    with pytest.raises(
        InvalidArgument, match=r"request, group 'unchanged', weight: got .*, expected an int from 1 to 1000"
    ):
        unchanged.call("sync", whole)


@pytest.mark.parametrize("field", ["member", "session"])
def test_a_short_heartbeat_of_nobody_leaves_nothing_behind(unchanged, field):
    """Its texts are not measured, because only those of a session that is known count."""
    request = {"protocol": PROTOCOL, "member": "m", "session": "s", "seq": 0, "incarnation": 0, "same": 0}
    reply = unchanged.call("sync", {**request, field: "x" * 10**6})
    assert reply["resync"]
    assert (reply["lease"], reply["groups"]) == (0, {})


def test_a_heartbeat_of_another_protocol_is_told_what_to_do(unchanged):
    with pytest.raises(VersionMismatch, match=r"protocol 0\.0, older.*install partition-actor"):
        unchanged.call("sync", {"protocol": 0})


def test_a_call_with_a_wrong_number_of_arguments_never_leaves_the_caller(unchanged):
    with pytest.raises(TypeError):
        unchanged.handle.get_members.remote()
    with pytest.raises(TypeError):
        unchanged.handle.get_subset.remote("group", "a", [], 1, None, None, "too many")


KEYS = [{"a": 1}, ["x"], {"set"}, 7, 1.5, None, True, b"bytes", ("t", 1), "", "lone \ud800", "nul \0", "x" * 100_000]


def test_a_key_is_any_object_by_its_str(steady, group):
    """Unhashable, empty, with a lone surrogate, or huge: all of them are keys."""
    for name in ("a", "b"):
        steady.call("join", group, name)
    subsets = {name: steady.call("get_subset", group, name, KEYS) for name in ("a", "b")}
    ring = Ring(["a", "b"])
    assert subsets == {name: [key for key in KEYS if ring.owner(key) == name] for name in ("a", "b")}
    assert len(subsets["a"]) + len(subsets["b"]) == len(KEYS)
    for key in KEYS:
        assert steady.call("get_owner", group, key) == ring.owner(key)


def test_a_key_is_any_object_on_the_members_side(steady, group):
    member = steady.member("a")
    assert member.extract_my_subset(group, KEYS) == KEYS
    assert list(member.partition(group, KEYS)) == KEYS
    for key in KEYS:
        assert member.owner(group, key) == "a"
        assert member.owns(group, key)


def test_keys_come_from_any_iterable(steady, group):
    member = steady.member("a")
    for keys in (iter("abc"), (letter for letter in "abc"), {"a": 1, "b": 2, "c": 3}, ("a", "b", "c")):
        assert member.extract_my_subset(group, keys) == ["a", "b", "c"]


# -- the member's side --------------------------------------------------------------------------------------------

MEMBER_CALLS = {
    "join_group": ["group_id", "weight", "metadata", "exclusive"],
    "leave_group": ["group_id"],
    "watch_group": ["group_id", "callback"],
    "extract_my_subset": ["group_id", "iterable"],
    "partition": ["group_id", "items"],
    "owns": ["group_id", "key"],
    "owner": ["group_id", "key"],
    "members": ["group_id"],
    "epoch": ["group_id"],
    "fencing_token": ["group_id"],
}
GOOD_HERE = {**GOOD, "group_id": "unchanged", "iterable": ITEMS, "callback": print}
BAD_HERE = {
    **BAD,
    "group_id": BAD_TEXTS,
    "iterable": BAD_ITEMS,
    "callback": {"None": None, "text": "print"},
}
NOTHING_TO_DO = {"join_group", "leave_group", "watch_group", "extract_my_subset"}
"""Those that take an empty or None group for "no group", as the seed did."""
MEMBER_CASES = [
    pytest.param(method, name, value, id=f"{method}-{name}-{kind}")
    for method, names in MEMBER_CALLS.items()
    for name in names
    for kind, value in BAD_HERE[name].items()
    if not (name == "group_id" and kind in ("None", "empty") and method in NOTHING_TO_DO)
]


@pytest.fixture
def member(unchanged):
    """A member in no group yet."""
    member = PartitionCoordinator("member", unchanged.name, unchanged.namespace)
    yield member
    member.stop()


@pytest.mark.parametrize(("method", "name", "value"), MEMBER_CASES)
def test_a_member_refuses_a_bad_argument_by_its_name_at_the_call(calm, method, name, value):
    arguments = {**{name: GOOD_HERE[name] for name in MEMBER_CALLS[method]}, name: value}
    expected = "items|keys" if name in ("items", "iterable") else name
    with pytest.raises(InvalidArgument, match=rf"^({expected}): got .*, expected "):
        getattr(calm, method)(**arguments)
    assert calm.members("calm") == ["calm"]
    assert calm.extract_my_subset("calm", ITEMS) == ITEMS


@pytest.fixture(scope="module")
def calm(_steady):
    """A member of a group of its own, which no bad call may disturb."""
    with PartitionCoordinator("calm", _steady.name, _steady.namespace) as member:
        member.join_group("calm")
        yield member


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("my_id", "actor", "namespace")
        for kind in BAD_TEXTS
        if kind != "None" or name == "namespace"  # the others have a meaning for None
    ],
)
def test_a_member_cannot_be_made_of_bad_names(name, kind):
    with pytest.raises(InvalidArgument, match=rf"^{name}: got "):
        PartitionCoordinator(**{name: BAD_TEXTS[kind]})


@pytest.mark.parametrize("settings", [{"ttl": 5.0}, "settings.yaml", 7])
def test_settings_are_settings(settings):
    for call in (
        lambda: PartitionCoordinator(settings=settings),
        lambda: partition_actor.deploy(settings=settings),
    ):
        with pytest.raises(InvalidArgument, match=r"^settings: got .*, expected a Settings or None"):
            call()


def test_a_handle_of_something_else_is_no_partition_actor(spawn):
    stranger = spawn(SilentPartitionActor)
    with pytest.raises(
        InvalidArgument, match=r"^actor: got .*, expected the partition actor's name, its handle or None"
    ):
        PartitionCoordinator(actor=stranger)


@pytest.mark.parametrize("call", ["deploy", "connect", "shutdown"])
@pytest.mark.parametrize("name", ["name", "namespace"])
@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_partition_actors_have_good_names(unchanged, call, name, kind):
    with pytest.raises(InvalidArgument, match=rf"^{name}: got "):
        getattr(partition_actor, call)(**{name: BAD_TEXTS[kind]})


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, True, None, "5"])
def test_connect_takes_a_timeout_in_seconds(unchanged, timeout):
    with pytest.raises(InvalidArgument, match=r"^timeout: got "):
        partition_actor.connect(unchanged.name, unchanged.namespace, timeout)


@pytest.mark.parametrize("register", ["on_gained", "on_lost"])
def test_a_partition_refuses_bad_arguments(calm, register):
    partition = calm.partition("calm", ITEMS)
    for bad in (None, "print", 7):
        with pytest.raises(InvalidArgument, match=r"^callback: got "):
            getattr(partition, register)(bad)
    for change in (partition.add, partition.discard):
        for bad in BAD_ITEMS.values():
            with pytest.raises(InvalidArgument):
                change(bad)
    assert list(partition) == ITEMS


def test_a_member_that_has_not_started_refuses_bad_arguments_first(member):
    with pytest.raises(InvalidArgument):
        member.join_group(b"group")
    with pytest.raises(NotStarted):
        member.join_group("group")


def test_a_generator_cannot_cross_to_the_actor_and_ray_says_so(unchanged):
    with pytest.raises(TypeError, match="generator"):
        ray.get(unchanged.handle.get_subset.remote("unchanged", "a", (x for x in "ab")), timeout=LIMIT)
