"""Programs with members and routers: their Ray is shut down, not there yet or another one, and they end well."""

import logging
from contextlib import suppress

import pytest
from deployments import HASTY, LIMIT, wait_until
from sharing import KEYS, SOON, owned

from partition_actor import PartitionCoordinator, Settings

BRISK = Settings(ttl=60.0, hold=0.1)
"""Long leases, so that only a death watch can explain that a member is gone soon, and many heartbeats a second."""

SHORT = Settings(ttl=4.0, hold=0.1, node_proof_interval=0.4)
"""The same with short leases: half of one is how long a heartbeat waits that Ray does not answer any more."""

WITHOUT_THE_LOOK_UP = 7.0
"""Seconds in which a program ends that does not wait for the ten that a look-up may take."""


@pytest.fixture
def brisk(make_deployment):
    deployment = make_deployment(BRISK)
    deployment.deploy()
    return deployment


@pytest.fixture
def short(make_deployment):
    deployment = make_deployment(SHORT)
    deployment.deploy()
    return deployment


def watched(deployment, number):
    """Wait until the partition actor watches so many processes."""
    wait_until(lambda: deployment.call("status")["watched"] == number, SOON)


JOINED = """
connect()
made = member()
made.start()
made.join_group(group, exclusive=True)
wait_until(lambda: made.members(group))
"""
STARTED = {
    "a member": JOINED,
    "a member with callbacks": """
connect()
made = member()
made.start()
made.join_group(group)
made.watch_group(group, print)
made.partition(group, range(100)).on_lost(lambda keys: made.run_watchers())
assert made.lock(group).acquire()
made.elect(group)
wait_until(lambda: made.is_leader(group))
""",
    "a router": """
connect()
made = Router(group, name, namespace)
made.start()
""",
    "a member that never found its partition actor": """
connect()
made = PartitionCoordinator("lost", "no such actor", namespace, Settings(call_timeout=0.1))
made.start()
""",
}
ENDS = {"and ends": "", "and stops, and ends": "made.stop()\nassert not ray.is_initialized()\n"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("started", STARTED)
def test_after_ray_is_shut_down_a_program_goes_on_without_one_and_ends_well(program, short, started, end):
    script = STARTED[started] + "ray.shutdown()\nsay(none=no_ray(), logged=logged)\n" + ENDS[end]
    with program(short, script) as running:
        said = running.says()
        code, errors = running.end()
    assert said["none"]
    assert len(said["logged"]) == 1, said["logged"]
    assert "Traceback" not in errors
    assert code == 0, errors


def test_with_no_heartbeat_between_the_shutdown_and_the_end_it_ends_well_too(program, short):
    with program(short, JOINED + "ray.shutdown()\nsay(done=True)\n") as running:
        running.says()
        code, errors = running.end()
    assert (code, "Traceback" in errors) == (0, False), errors


def test_a_member_comes_back_by_itself_when_ray_does_and_is_watched(program, brisk, group):
    other = brisk.member("other")
    other.join_group(group, exclusive=True)
    script = """
ray.shutdown()
say(none=no_ray())
connect()
assert made.lock(group).acquire(timeout=50.0)
wait_until(lambda: made.members(group) == ["member", "other"])
say(subset=list(made.extract_my_subset(group, [f"key-{n}" for n in range(60)])))
hear()
"""
    with program(brisk, JOINED + script) as running:
        assert running.says()["none"]
        theirs = running.says()["subset"]
        wait_until(lambda: sorted([*theirs, *owned(other, group)]) == sorted(KEYS), SOON)
        assert other.members(group) == ["member", "other"]
        watched(brisk, 2)
        running.kill()
        wait_until(lambda: owned(other, group) == KEYS, SOON)
    watched(brisk, 1)


def test_a_member_comes_back_each_time(program, brisk, group):
    script = """
for number in range(3):
    ray.shutdown()
    connect()
    assert made.lock(f"{group}-{number}").acquire(timeout=50.0)
say(members=made.members(group))
made.stop()
"""
    with program(brisk, JOINED + script) as running:
        assert running.says()["members"] == ["member"]
        code, errors = running.end()
    assert code == 0, errors
    wait_until(lambda: brisk.members(group) == [], SOON)


def test_a_router_comes_back_by_itself_when_ray_does(program, brisk, group):
    script = """
ray.shutdown()
say(none=no_ray())
connect()
hear()
wait_until(lambda: made.members() == ["late"])
say(owner=made.owner("key"))
"""
    with program(brisk, STARTED["a router"] + script) as running:
        assert running.says()["none"]
        late = brisk.member("late")
        late.join_group(group)
        running.tell()
        assert running.says()["owner"] == "late"
        code, errors = running.end()
    assert code == 0, errors


def test_a_member_may_start_before_ray_does_and_is_watched_later(program, brisk, group):
    other = brisk.member("other")
    other.join_group(group)
    script = """
made = member(call_timeout=0.2)
made.start()
assert made.is_active()
say(none=no_ray(), logged=logged)
connect()
wait_until(lambda: (made.join_group(group), made.members(group))[1] == ["member", "other"])
say(logged=logged)
hear()
"""
    with program(brisk, script) as running:
        said = running.says()
        assert said["none"]
        assert len(said["logged"]) == 1
        running.says()
        wait_until(lambda: other.members(group) == ["member", "other"])
        watched(brisk, 2)
        running.kill()
        wait_until(lambda: other.members(group) == ["other"], SOON)


def test_stop_never_raises_whatever_state_ray_is_in(program, brisk, group):
    script = """
def ended(made):
    made.stop()
    made.stop()
    assert not getattr(made, "is_active", bool)()

made = [member("a", 0.2), member("b", 0.2), Router(group, name, namespace, Settings(call_timeout=0.2))]
for each in made:
    ended(each)                      # never started
    each.start()
    ended(each)                      # no Ray yet
    assert not ray.is_initialized()
connect()
for each in made:
    each.start()
ray.shutdown()
for each in made:
    ended(each)                      # no Ray any more
    each.start()
assert not ray.is_initialized()
connect()
for each in made:
    ended(each)                      # another Ray than it was started with
    each.start()
    ended(each)
    each.start()
wait_until(lambda: (made[0].join_group(group, exclusive=True), made[0].owns(group, "key"))[1])
lost, go_on = threading.Event(), threading.Event()
made[0].partition(group, ["key"]).on_lost(lambda keys: (lost.set(), go_on.wait()))
made[0].run_watchers()
stopping = threading.Thread(target=ended, args=[made[0]])
stopping.start()
lost.wait()
ray.shutdown()                       # meanwhile
go_on.set()
stopping.join()
for each in made:
    ended(each)
say(none=no_ray())
"""
    with program(brisk, script) as running:
        assert running.says()["none"]
        code, errors = running.end()
    assert (code, "Traceback" in errors) == (0, False), errors


def test_stop_never_raises_without_a_partition_actor(brisk, group):
    member = brisk.member("a", settings=Settings(call_timeout=0.2))
    member.join_group(group, exclusive=True)
    assert member.lock(group).acquire(timeout=LIMIT)
    brisk.shutdown()
    member.stop()
    assert not member.is_active()
    member.start()
    member.stop()
    assert not member.is_active()


BLOCKED = {
    "a member": "made = member(call_timeout=0.1)",
    "a router": "made = Router(group, name, namespace, Settings(call_timeout=0.1))",
}


@pytest.mark.parametrize("end", ["", "made.stop()\n", "ray.shutdown()\n"], ids=["ends", "stops", "shuts Ray down"])
@pytest.mark.parametrize("made", BLOCKED)
def test_a_program_ends_at_once_while_a_look_up_of_the_partition_actor_is_blocked(program, short, made, end):
    script = f"""
connect()
looking_up = threading.Event()
ray.get_actor = lambda *arguments, **options: (looking_up.set(), threading.Event().wait(3600.0))
{BLOCKED[made]}
made.start()
assert looking_up.wait(50.0)
{end}
say(ends=True)
"""
    with program(short, script) as running:
        running.says()
        code, errors = running.end(WITHOUT_THE_LOOK_UP)
    assert (code, "Traceback" in errors) == (0, False), errors


# -- errors of the error handling ---------------------------------------------------------------------------------


@pytest.fixture
def broken_log():
    """A log handler that raises, as one does whose disk is full."""
    handler = logging.Handler()
    emitted = []

    def emit(record):
        emitted.append(record)
        raise OSError("no space left on device")

    handler.emit = emit
    logger = logging.getLogger("partition_actor")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    yield emitted
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_a_log_that_cannot_be_written_ends_no_heartbeats(make_deployment, group, broken_log):
    deployment = make_deployment(HASTY)
    deployment.deploy()
    member = deployment.member("a", settings=Settings(call_timeout=0.2))
    partition = member.partition(group, KEYS)
    with suppress(OSError):  # of the log, and in the thread of the caller
        member.join_group(group)
    wait_until(lambda: owned(member, group) == KEYS)
    for _ in range(2):
        deployment.shutdown()
        wait_until(lambda: owned(member, group) == [])
        wait_until(lambda: any(record.levelno >= logging.WARNING for record in broken_log))  # it wanted to say so
        deployment.deploy()
        wait_until(lambda: owned(member, group) == KEYS, SOON)
    deployment.call("forget", group, "a")  # it logs that it has rejoined
    wait_until(lambda: deployment.members(group) == ["a"], SOON)
    wait_until(lambda: list(partition) == KEYS, SOON)


def test_a_log_that_cannot_be_written_ends_no_callbacks(steady, group, broken_log):
    a, b = steady.member("a"), steady.member("b")
    events = []
    for member in (a, b):
        with suppress(OSError):
            member.join_group(group, exclusive=True)
    wait_until(lambda: a.members(group) == ["a", "b"])

    def broken(_event):
        raise RuntimeError("on purpose")

    a.watch_group(group, broken)
    a.watch_group(group, events.append)
    b.stop()
    wait_until(lambda: [event.left for event in events] == [("b",)], SOON)
    wait_until(lambda: owned(a, group) == KEYS, SOON)


class Unspeakable(Exception):
    """An error that cannot be printed."""

    def __str__(self):
        raise RuntimeError("it has no words")

    __repr__ = __str__


def test_an_error_that_cannot_be_printed_ends_no_heartbeats(make_deployment, group):
    deployment = make_deployment(HASTY)
    deployment.deploy()

    class Handle:
        """The partition actor's handle, whose calls may fail on their way."""

        fails = False

        def __getattr__(self, name):
            if self.fails and not name.startswith("_"):
                raise Unspeakable
            return getattr(deployment.handle, name)

    handle = Handle()
    with PartitionCoordinator("a", handle, settings=Settings(call_timeout=0.2)) as member:
        member.join_group(group)
        wait_until(lambda: owned(member, group) == KEYS)
        handle.fails = True
        wait_until(lambda: owned(member, group) == [])
        handle.fails = False
        wait_until(lambda: owned(member, group) == KEYS, SOON)
