"""Members and partition actors of two versions on one Ray: wheels built from two commits, each in its own processes.

``matrix.py`` runs it. The processes of a version find its wheel, unpacked, by ``PYTHONPATH``; this process imports
neither of them. Needs the history of the repository, with `OLD` in it.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import pytest
import ray

ROOT = Path(__file__).parents[2]
OLD = "e7924d7"
"""The last commit whose messages have no minor version."""
LIMIT = 90.0
TTL = 10.0
KEYS = [f"key-{number:02}" for number in range(40)]
WHERE = ("wheels", "wheels")
MINORS = {"old": 0, "new": 1, "next": 2, "future": 3}
"""The minor versions of the wheels' messages, all of protocol 4. Those after "new" are this one with another number."""
REPLACE = r"deploy\(replace=True\) or `partition-actor deploy --replace` puts a new one in without a pause"


# -- wheels ---------------------------------------------------------------------------------------------------------


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def check_out(commit, folder):
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(folder)
    return folder


def change(file, pattern, replacement):
    text, number = re.subn(pattern, replacement, file.read_text(), count=1, flags=re.MULTILINE)
    assert number == 1, (file, pattern)
    file.write_text(text)


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """``{name: folder}`` of unpacked wheels: that of `OLD`, this one, and two of later minor versions."""
    base = tmp_path_factory.mktemp("wheels")
    try:
        check_out(OLD, base / "source-old")
    except subprocess.CalledProcessError:
        pytest.skip(f"this copy of the repository has no commit {OLD}: it is not whole")
    for name in ("new", "next", "future"):
        source = base / f"source-{name}"
        shutil.copytree(ROOT / "partition_actor", source / "partition_actor", ignore=shutil.ignore_patterns("*.pyc"))
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / file, source)
    for name in ("next", "future"):
        source, version = base / f"source-{name}", f"0.{MINORS[name] + 1}.0"
        change(source / "partition_actor/core/messages.py", r"^MINOR = 1$", f"MINOR = {MINORS[name]}")
        change(source / "partition_actor/version.py", r'^__version__ = ".*"$', f'__version__ = "{version}"')
        change(source / "pyproject.toml", r'^version = ".*"$', f'version = "{version}"')
    folders = {}
    for name in MINORS:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", base / f"built-{name}"]
        subprocess.run([*build, base / f"source-{name}"], check=True, timeout=300)
        (wheel,) = (base / f"built-{name}").glob("*.whl")
        folders[name] = base / name
        zipfile.ZipFile(wheel).extractall(folders[name])
    yield folders
    shutil.rmtree(base)


# -- processes of a version -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    os.chdir(tmp_path_factory.mktemp("empty"))  # Ray's workers look for modules in this process's directory first
    yield ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.shutdown()


@pytest.fixture
def of(cluster, versions):
    """Options of Ray for a process of a version."""
    return lambda name: {"num_cpus": 0, "runtime_env": {"env_vars": {"PYTHONPATH": str(versions[name])}}}


def is_of_its_wheel():
    """Fail in a process that has not imported the wheel that it was to have."""
    import partition_actor

    assert partition_actor.__file__.startswith(os.environ["PYTHONPATH"] + os.sep), partition_actor.__file__


class Member:
    """A member of an exclusive group. Notes when a callback for lost keys has returned, and when keys are gained."""

    def __init__(self, my_id, group):
        import logging

        import partition_actor
        from partition_actor.settings import Settings

        is_of_its_wheel()
        self.logged = []
        handler = logging.Handler()
        handler.emit = lambda record: self.logged.append(record.getMessage())
        logging.getLogger("partition_actor").addHandler(handler)
        self.group, self.times = group, []
        self.coordinator = partition_actor.PartitionCoordinator(my_id, *WHERE, Settings(call_timeout=2.0))
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=True)
        self.partition = self.coordinator.partition(group, KEYS)
        self.partition.on_lost(lambda keys: (time.sleep(0.05), self.note("lost", keys)))
        self.partition.on_gained(lambda keys: self.note("gained", keys))

    def note(self, what, keys):
        self.times.append((what, time.monotonic(), list(keys)))

    def noted(self, what):
        return {key: moment for said, moment, keys in self.times if said == what for key in keys}

    def owned(self):
        return [key for key in KEYS if self.coordinator.owns(self.group, key)]

    def begin_to_look(self):
        """Look from now on, every few milliseconds, at what this member owns."""
        self.looks = []
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        while True:
            owned = self.owned()
            if not self.looks or self.looks[-1] != owned:
                self.looks.append(owned)
            time.sleep(0.005)

    def seen(self):
        return self.looks

    def lock(self):
        self.held = self.coordinator.lock("lock")
        return self.held.acquire(timeout=LIMIT)

    def has_lock(self):
        return self.held.held

    def slot(self, wish):
        self.coordinator.join_group(self.group, slot=wish)
        return self.coordinator.slot(self.group)

    def log(self):
        return self.logged

    def pid(self):
        return os.getpid()

    def stop(self):
        self.coordinator.stop()


def deploy():
    """Deploy the partition actor and return what it says of itself, or the error."""
    import partition_actor
    from partition_actor.settings import Settings

    is_of_its_wheel()
    try:
        handle = partition_actor.deploy(*WHERE, Settings(ttl=TTL, hold=0.5))
        return ray.get(handle.hello.remote(), timeout=LIMIT)
    except partition_actor.errors.VersionMismatch as error:
        return str(error)


def replace():
    """Replace the partition actor by one of this version; returns what it says of itself, or the error."""
    import partition_actor

    is_of_its_wheel()
    try:
        handle = partition_actor.deploy(*WHERE, replace=True)
        return ray.get(handle.hello.remote(), timeout=LIMIT)
    except partition_actor.errors.PartitionActorUnavailable as error:
        return str(error)


def shut_down():
    import partition_actor

    partition_actor.shutdown(*WHERE, force=True)


def send():
    """Send what a member of this version says, past the check of the answer to `hello`; returns the error."""
    from partition_actor.core.member import MemberState
    from partition_actor.errors import VersionMismatch
    from partition_actor.settings import Settings

    is_of_its_wheel()
    handle = ray.get_actor(WHERE[0], namespace=WHERE[1])
    try:
        ray.get(handle.sync.remote(MemberState("sender", "session", Settings()).request(0.0)), timeout=LIMIT)
    except VersionMismatch as error:
        return str(error).strip().splitlines()[-1]
    return "accepted"


@pytest.fixture
def run(of):
    """Run a function as a task of a version."""
    return lambda function, version: ray.get(ray.remote(function).options(**of(version)).remote(), timeout=LIMIT)


@pytest.fixture
def deployed(run):
    """Deploy the partition actor of a version."""
    ended_by = []

    def deployed(version):
        ended_by.append(version)
        return run(deploy, version)

    yield deployed
    for version in ended_by[:1]:
        run(shut_down, version)


@pytest.fixture
def start(of):
    made = []

    def start(my_id, group, version):
        made.append(ray.remote(Member).options(max_concurrency=4, **of(version)).remote(my_id, group))
        return made[-1]

    yield start
    for member in made:
        ray.kill(member)


def ask(member, method, *arguments):
    return ray.get(getattr(member, method).remote(*arguments), timeout=LIMIT)


def wait_until(condition, told=lambda: ""):
    until = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < until, f"still {value!r} {told()}"
        time.sleep(0.02)
    return value


def share(*members):
    """Wait until the members own all keys together, each of them some; returns what each owns."""

    def shared():
        owned = [ask(member, "owned") for member in members]
        return owned if all(owned) and sorted(key for keys in owned for key in keys) == KEYS else None

    return wait_until(shared, lambda: [ask(member, "log") for member in members])


def kill(member):
    os.kill(ask(member, "pid"), signal.SIGKILL)


# -- one minor version apart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "versions_of_members"),
    [("new", ("old", "new")), ("old", ("new", "old")), ("new", ("next", "old")), ("next", ("new", "next"))],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_one_minor_version_apart_they_join_share_hand_over_and_outlive_a_kill(
    deployed, start, actor, versions_of_members
):
    assert deployed(actor).get("minor", 0) == MINORS[actor]
    one, other = versions_of_members
    a = start("a", "group", one)
    share(a)
    assert ask(a, "lock")
    b = start("b", "group", other)
    mine, moved = share(a, b)
    lost, gained = ask(a, "noted", "lost"), ask(b, "noted", "gained")
    assert set(moved) == set(lost) == set(gained)
    assert all(lost[key] <= gained[key] for key in moved)
    assert set(mine).isdisjoint(moved)
    kill(a)
    (everything,) = share(b)
    assert everything == KEYS
    assert ask(b, "lock")
    a = start("a", "group", one)
    share(a, b)
    ask(b, "stop")
    share(a)


def test_a_partition_actor_that_knows_no_slots_gives_a_certain_one_and_not_any(deployed, start):
    deployed("old")
    a, b = start("a", "group", "new"), start("b", "group", "new")
    share(a, b)
    assert ask(a, "slot", True) is None
    assert ask(a, "slot", 3) == 3
    assert ask(b, "slot", 3) is None
    kill(a)
    wait_until(lambda: ask(b, "slot", 3) == 3)


# -- too far apart ----------------------------------------------------------------------------------------------------


def has_said(member, pattern):
    return wait_until(lambda: next((line for line in ask(member, "log") if re.search(pattern, line)), None))


def test_a_process_two_minor_versions_newer_is_told_to_replace_the_partition_actor(deployed, run, start):
    ours = re.escape(deployed("new")["version"])
    advice = rf": install partition-actor==0\.4\.0 on the head, then {REPLACE}"
    for side, said in (("process", run(deploy, "future")), ("member", has_said(start("a", "g", "future"), advice))):
        older = rf"runs version {ours} with protocol 4\.1, older than version 0\.4\.0 with protocol 4\.3 of this {side}"
        assert re.search(older + advice, said)
    newer = r"^.*this member runs version 0\.4\.0 with protocol 4\.3, newer than .* of the partition actor"
    assert re.search(newer + advice, run(send, "future"))


def test_a_process_two_minor_versions_older_is_told_what_to_install(deployed, run, start):
    deployed("future")
    advice = r"install partition-actor==0\.4\.0 where this (process|member) runs"
    newer = rf"runs version 0\.4\.0 with protocol 4\.3, newer than .* of this process: {advice}"
    assert re.search(newer, run(deploy, "new"))
    for my_id, version in (("a", "new"), ("b", "old")):
        member = start(my_id, "group", version)
        has_said(member, advice)
        assert ask(member, "owned") == []
        assert re.search(rf"this member runs .*, older than version 0\.4\.0 .*: {advice}", run(send, version))


# -- an upgrade -------------------------------------------------------------------------------------------------------


def test_an_upgrade_moves_no_key_and_members_of_both_versions_go_on(deployed, run, start):
    deployed("new")
    a, b = (start(my_id, "group", "new") for my_id in "ab")
    before = share(a, b)
    assert ask(a, "lock")
    for member in (a, b):
        ask(member, "begin_to_look")
    assert run(replace, "next")["minor"] == MINORS["next"]
    handle = ray.get_actor(WHERE[0], namespace=WHERE[1])
    wait_until(lambda: ask(handle, "status")["uptime"] > TTL)  # every lease of the old one has ended
    assert [ask(member, "owned") for member in (a, b)] == before
    assert [ask(member, "seen") for member in (a, b)] == [[before[0]], [before[1]]]  # and nothing else meanwhile
    assert ask(a, "has_lock")
    c = start("c", "group", "next")
    share(a, b, c)
    kill(a)
    share(b, c)


def test_one_that_cannot_hand_over_goes_on_and_who_replaces_it_is_told(deployed, run, start):
    deployed("old")
    member = start("a", "group", "new")
    share(member)
    assert re.search(r"runs version 0\.1\.0, which cannot hand over: call shutdown\(\)", run(replace, "new"))
    assert ask(member, "owned") == KEYS
