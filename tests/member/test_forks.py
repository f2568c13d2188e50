"""A forked child of a member's process: it is not permitted, it hangs nowhere, and its parent goes on as before."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from deployments import LIMIT, wait_until
from sharing import KEYS, SOON, owned

from partition_actor.errors import PartitionError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

HANGS_AFTER = 15
"""Seconds after which the kernel ends a child. It needs milliseconds, unless a call hangs."""


class Key:
    """A key whose `str` takes until it is told, so that whoever computes its place meanwhile holds his locks."""

    def __init__(self):
        self.asked, self.go_on = threading.Event(), threading.Event()

    def __str__(self):
        self.asked.set()
        self.go_on.wait(60.0)
        return "slow key"


class Member:
    """A member of an exclusive and of a plain group, which holds a lock and leads, and can fork."""

    def __init__(self, name, namespace, my_id, group):
        from partition_actor import PartitionCoordinator, Settings, owned_by

        class Guarded:
            @owned_by("key", group=group)
            def work(self, key):
                return key

        self.where, self.group, self.plain = (name, namespace), group, f"{group}-plain"
        self.guarded = Guarded()
        # No call of the child returns because its timeout is over.
        self.coordinator = PartitionCoordinator(my_id, name, namespace, settings=Settings(call_timeout=60.0))
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=True)
        self.coordinator.join_group(self.plain, exclusive=False)
        self.told = []
        self.partition = self.coordinator.partition(group, KEYS)
        self.partition.on_lost(self.told.append)
        self.lock = self.coordinator.lock(group)
        assert self.lock.acquire()
        self.coordinator.elect(group)
        while not self.coordinator.is_leader(group):
            time.sleep(0.01)

    def pid(self):
        return os.getpid()

    def permitted(self, group=None):
        """What it may do now, by each way to ask for it."""
        from partition_actor.errors import NotOwner

        ours, group = self.coordinator, group or self.group
        found = {
            "owns": sum(ours.owns(group, key) for key in KEYS),
            "owns, plain": sum(ours.owns(self.plain, key) for key in KEYS),
            "subset": len(ours.extract_my_subset(group, KEYS)),
            "subset, plain": len(ours.extract_my_subset(self.plain, KEYS)),
            "partition": len(self.partition.keys()),
            "token": ours.fencing_token(group),
            "held": self.lock.held,
            "lock token": self.lock.fencing_token,
            "leads": ours.is_leader(group),
            "calls": 0,
        }
        for key in KEYS:
            with contextlib.suppress(NotOwner):
                found["calls"] += bool(self.guarded.work(key))
        return found

    def calls(self):
        """Every call that a child may think of, by name."""
        from partition_actor import PartitionCoordinator, Settings

        def start_one_of_its_own():
            own = PartitionCoordinator("child", *self.where, settings=Settings(call_timeout=0.2))
            own.start()
            return sum(own.owns(self.group, key) for key in KEYS)

        ours, group = self.coordinator, self.group
        return {
            "nothing": lambda: None,
            "repr": lambda: repr(ours) and None,
            "run_watchers": ours.run_watchers,
            "heartbeat": ours.heartbeat,
            "is_active": lambda: ours.is_active() and None,
            "acquire": lambda: self.lock.acquire(blocking=False),
            "acquire another": lambda: ours.lock("another").acquire(blocking=False),
            "release": self.lock.release,
            "stand_down": lambda: ours.stand_down(group),
            "join_group": lambda: ours.join_group(group),
            "join another": lambda: ours.join_group(f"{group}-3"),
            "leave_group": lambda: ours.leave_group(group),
            "start one of its own": start_one_of_its_own,
            "stop": ours.stop,
        }

    def fork(self, folder):
        """Fork a child for each call, which makes it and notes there what came of it. Returns how they ended."""
        children = {name: self._fork(Path(folder, name), call) for name, call in self.calls().items()}
        return {name: os.waitpid(child, 0)[1] for name, child in children.items()}

    def fork_with_locks_held(self, folder):
        """`fork` while another thread is in the middle of calls that ask for a key's place."""
        key = Key()
        calls = [
            lambda: self.guarded.work(key),
            lambda: self.coordinator.owns(self.group, key),
            lambda: self.partition.add(str(each) for each in [key]),
        ]
        for call in calls:
            threading.Thread(target=call, daemon=True).start()
        key.asked.wait()
        time.sleep(0.05)  # the others are on their way; it does no harm if they are not
        ended = self.fork(folder)
        key.go_on.set()
        return ended

    def _fork(self, path, call):
        from partition_actor.errors import PartitionError

        if child := os.fork():
            return child
        signal.alarm(HANGS_AFTER)
        found = {"before": self.permitted()}
        try:
            found["outcome"] = call()
        except PartitionError as error:
            found["outcome"] = type(error).__name__
        except BaseException as error:
            found["outcome"] = f"raised {error!r}"
        found["after"] = self.permitted()
        path.write_text(json.dumps(found))
        os._exit(0)

    def fork_and_go_on(self, path):
        """Fork a child that works as long as it may, and notes when it did, until it is killed."""
        if child := os.fork():
            return child
        signal.alarm(600)  # should the test not kill it
        with open(path, "w", buffering=1) as out:
            out.write("begun\n")
            while True:
                if any(self.coordinator.owns(self.group, key) for key in KEYS) or self.lock.held:
                    out.write("worked\n")
                self.coordinator.heartbeat()
                self.coordinator.run_watchers()
                time.sleep(0.001)

    def stop(self):
        self.coordinator.stop()

    def lost(self):
        return self.told


NOTHING = {
    "owns": 0,
    "owns, plain": 0,
    "subset": 0,
    "subset, plain": 0,
    "partition": 0,
    "token": 0,
    "held": False,
    "lock token": 0,
    "leads": False,
    "calls": 0,
}


@pytest.fixture
def parent(steady, group, spawn):
    made = spawn(Member, *steady.worker_arguments("parent", group), max_concurrency=2)
    ray.get(made.pid.remote(), timeout=LIMIT)
    return made


def ask(parent, method, *arguments):
    return ray.get(getattr(parent, method).remote(*arguments), timeout=LIMIT)


def everything(found):
    """Whether the parent may do all that it could before it forked."""
    wanted = {**dict.fromkeys(("owns", "owns, plain", "subset", "subset, plain", "calls"), len(KEYS))}
    return all(found[name] >= value for name, value in wanted.items()) and found["held"] and found["leads"]


@pytest.mark.parametrize("how", ["fork", "fork_with_locks_held"])
def test_a_call_of_a_forked_child_returns_or_raises_and_permits_nothing(steady, group, parent, tmp_path, how):
    before = ask(parent, "permitted")
    epoch = steady.call("status", group)["epoch"]
    ended = ask(parent, how, str(tmp_path))
    assert {name: status for name, status in ended.items() if status} == {}  # none hangs
    outcomes = {}
    for name in ended:
        found = json.loads((tmp_path / name).read_text())
        assert (found["before"], found["after"]) == (NOTHING, NOTHING), name
        outcomes[name] = found["outcome"]
    errors = {error.__name__ for error in PartitionError.__subclasses__()}
    assert {name: value for name, value in outcomes.items() if value and value not in errors} == {}
    after = ask(parent, "permitted")
    assert everything(after)
    assert (after["token"], after["lock token"]) == (before["token"], before["lock token"])
    assert steady.call("status", group)["epoch"] == epoch
    assert steady.members(group) == ["parent"]


def test_a_child_that_goes_on_does_nothing_and_its_parent_is_a_member_as_before(steady, group, parent, tmp_path):
    path = tmp_path / "worked"
    child = ask(parent, "fork_and_go_on", str(path))
    try:
        wait_until(lambda: path.exists() and path.read_text())
        other = steady.member("other")
        other.join_group(group)
        wait_until(lambda: owned(other, group), SOON)
        wait_until(lambda: len(owned(other, group)) + ask(parent, "permitted")["owns"] == len(KEYS), SOON)
        assert sorted(itertools.chain(*ask(parent, "lost"))) == sorted(owned(other, group))
        ask(parent, "stop")
        wait_until(lambda: owned(other, group) == KEYS, SOON)
        assert other.lock(group).acquire(timeout=SOON)
    finally:
        os.kill(child, signal.SIGKILL)
    assert path.read_text() == "begun\n"
    assert owned(other, group) == KEYS


def test_the_child_of_a_killed_parent_works_on_nothing_and_keeps_no_key_longer_than_a_lease(
    hasty, group, spawn, tmp_path
):
    """It has inherited every connection of its parent, so Ray does not notice the parent's end."""
    parent, path = spawn(Member, *hasty.worker_arguments("parent", group)), tmp_path / "worked"
    child = ask(parent, "fork_and_go_on", str(path))
    try:
        wait_until(lambda: path.exists() and path.read_text())
        os.kill(ask(parent, "pid"), signal.SIGKILL)
        other = hasty.member("other")
        other.join_group(group)
        wait_until(lambda: owned(other, group) == KEYS, SOON)
    finally:
        os.kill(child, signal.SIGKILL)
    assert path.read_text() == "begun\n"


FORK_BEFORE_RAY = """
import os, sys, time
import ray
from partition_actor import PartitionCoordinator, Settings
address, name, namespace, group, path = sys.argv[1:]
early = PartitionCoordinator("early", name, namespace, settings=Settings(call_timeout=0.1))
early.start()  # there is no Ray yet, but the thread for heartbeats runs
child = os.fork()
my_id = "parent" if child else "child"
ray.init(address=address, log_to_driver=False)
assert not early.owns(group, "key")
with PartitionCoordinator(my_id, name, namespace) as member:
    member.join_group(group)
    while member.members(group) != ["child", "parent"]:
        time.sleep(0.01)
    open(f"{path}/{my_id}", "w").write(str(len(member.extract_my_subset(group, range(100)))))
    while not os.path.exists(f"{path}/end"):
        time.sleep(0.01)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_forked_before_ray_was_there_is_a_member_of_its_own(steady, group, cluster, tmp_path):
    where = [cluster.address_info["gcs_address"], steady.name, steady.namespace, group, str(tmp_path)]
    command = [sys.executable, "-c", FORK_BEFORE_RAY, *where]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        try:
            shares = [tmp_path / my_id for my_id in ("parent", "child")]
            wait_until(lambda: all(share.exists() and share.read_text() for share in shares))
            assert sum(int(share.read_text()) for share in shares) == 100
            assert steady.members(group) == ["child", "parent"]
        finally:
            (tmp_path / "end").touch()
            errors = program.communicate(timeout=LIMIT)[1]
    assert program.returncode == 0, errors
    wait_until(lambda: steady.members(group) == [], SOON)
