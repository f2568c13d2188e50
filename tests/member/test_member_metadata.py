"""Metadata on a real cluster: whatever a member tells of itself, it harms nobody."""

import os
import pickle
import sys
import threading
import types

import pytest
import ray
from deployments import LIMIT, wait_until
from members import Worker

from partition_actor.arguments import MAX_METADATA_BYTES
from partition_actor.core.messages import PROTOCOL
from partition_actor.errors import InvalidArgument

PLAIN = {"zone": "north", "ports": (1, 2.5, None, True), "tags": {"a"}, "nested": [{"b": b"\0"}]}


@pytest.fixture
def only_here():
    """A class of a module that no other process can import."""
    module = types.ModuleType("a_module_of_this_process")
    exec("class Secret:\n    def __eq__(self, other):\n        return type(other) is type(self)", module.__dict__)
    sys.modules[module.__name__] = module
    yield module.Secret
    sys.modules.pop(module.__name__, None)


class Trap:
    """Leaves the id of each process that unpickles it in a file."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return exec, (f"import os; print(os.getpid(), file=open({str(self._path)!r}, 'a'))",)


def who_opened(path):
    return set(map(int, path.read_text().split())) if path.exists() else set()


def ask_for_all(deployment, group):
    """Everything of a partition actor that tells metadata; what `get_metadata` tells."""
    deployment.call("status", group)
    deployment.call("observe", [group])
    return deployment.call("get_metadata", group)


def hears_of(deployment, member, group, other):
    """Whether a member's heartbeats go on, so that it hears of one that joins a group."""
    deployment.call("join", group, other)
    wait_until(lambda: other in member.members(group))
    return True


@pytest.mark.parametrize(
    "metadata",
    [{"lock": threading.Lock()}, {"frame": sys._getframe()}, {"blob": "x" * MAX_METADATA_BYTES}],
    ids=["lock", "frame", "large"],
)
def test_metadata_that_cannot_travel_are_refused_at_once_and_other_groups_are_untouched(steady, group, metadata):
    member = steady.member("a")
    member.join_group(group)
    with pytest.raises(InvalidArgument, match=r"^metadata: got "):
        member.join_group(group + "-2", metadata=metadata)
    assert member.members(group + "-2") == []
    assert hears_of(steady, member, group, "b")


def test_a_class_that_the_partition_actor_cannot_import_does_it_no_harm(steady, group, only_here):
    member = steady.member("a")
    member.join_group(group, metadata={"secret": only_here()})
    steady.call("join", group, "b", metadata=PLAIN)
    assert hears_of(steady, member, group, "c")
    metadata = steady.call("get_metadata", group)
    assert (metadata["b"], metadata["c"]) == (PLAIN, None)
    assert pickle.loads(metadata["a"]) == {"secret": only_here()}
    told = {each["id"]: each["metadata"] for each in steady.call("status", group)["members"]}
    assert told == metadata


def test_a_class_of_the_program_itself_can_be_read_in_another_process(steady, group):
    class Zone:
        def __init__(self, name):
            self.name = name

    def read(handle):
        return pickle.loads(ray.get(handle.get_metadata.remote(group))["a"])["zone"].name

    steady.member("a").join_group(group, metadata={"zone": Zone("north")})
    reader = ray.remote(read).options(num_cpus=0).remote(steady.handle)
    assert ray.get(reader, timeout=LIMIT) == "north"


def test_a_members_own_handle_can_be_its_metadata(steady, group, spawn):
    worker = spawn(Worker, *steady.worker_arguments("worker", group))
    steady.member("a").join_group(group, metadata={"handle": worker})
    read = pickle.loads(steady.call("get_metadata", group)["a"])["handle"]
    assert ray.get(read.pid.remote(), timeout=LIMIT) == ray.get(worker.pid.remote(), timeout=LIMIT)


def test_builtins_are_read_as_they_were_given(steady, group):
    member = steady.member("a")
    member.join_group(group, metadata=PLAIN)
    steady.call("join", group, "b", metadata=PLAIN)
    steady.call("join", group, "c")
    assert steady.call("get_metadata", group) == {"a": PLAIN, "b": PLAIN, "c": None}
    member.join_group(group)  # says no metadata, and so keeps them
    assert steady.call("get_metadata", group)["a"] == PLAIN
    member.join_group(group, metadata={"zone": "south"})
    wait_until(lambda: steady.call("get_metadata", group)["a"] == {"zone": "south"})


def test_metadata_are_what_they_were_at_the_call(steady, group):
    member, metadata = steady.member("a"), {"zone": "north"}
    member.join_group(group, metadata=metadata)
    metadata["zone"] = "south"
    member.join_group(group, metadata={"zone": "north"}, weight=2)
    wait_until(lambda: steady.call("status", group)["members"][0]["weight"] == 2)
    assert steady.call("get_metadata", group) == {"a": {"zone": "north"}}


def test_a_bare_callers_metadata_are_bounded_too(steady, group):
    with pytest.raises(InvalidArgument, match=r"metadata: got .*, expected at most \d+ bytes when pickled"):
        steady.call("join", group, "a", metadata={"blob": "x" * MAX_METADATA_BYTES})
    assert group not in steady.call("get_groups")


def test_the_partition_actor_never_unpickles_what_a_member_tells_of_itself(steady, group, tmp_path):
    member = steady.member("a")
    member.join_group(group, metadata={"trap": Trap(tmp_path / "opened")})
    assert hears_of(steady, member, group, "b")
    told = ask_for_all(steady, group)["a"]
    assert who_opened(tmp_path / "opened") == set()
    pickle.loads(told)
    assert who_opened(tmp_path / "opened") == {os.getpid()}


def test_not_even_if_the_member_says_that_they_are_builtins(steady, group, tmp_path):
    """Such a member does not use the library. Whoever asks for its metadata opens them."""
    trap = b"b" + pickle.dumps({"trap": Trap(tmp_path / "opened")})
    report = {"want": "in", "since": 1, "weight": 1, "exclusive": None, "have": None, "rev": 0, "acked": None}
    heading = {"protocol": PROTOCOL, "member": "hostile", "session": "s", "seq": 1, "incarnation": 0}
    said = {"interval": 1.0, "leased": False, "prompt": True, "groups": {group: {**report, "metadata": trap}}}
    steady.call("sync", heading | said)
    wait_until(lambda: steady.members(group) == ["hostile"])
    ask_for_all(steady, group)
    assert who_opened(tmp_path / "opened") == {os.getpid()}
