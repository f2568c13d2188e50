"""A process that gets SIGTERM hands over before it ends: real processes and real signals."""

import os
import signal
import threading

import pytest
import ray
from deployments import LIMIT, wait_until
from members import Worker

from partition_actor import PartitionCoordinator
from partition_actor.errors import InvalidArgument
from partition_actor.member import sigterm

KEYS = [f"key-{number}" for number in range(40)]

BEGIN = """
import os, signal, subprocess

KEYS = [f"key-{number}" for number in range(40)]
calls = []
finish = threading.Event()
finish.set()

def on_lost(lost):
    say(lost=len(lost))
    finish.wait()
    say(returned=True)

def join(my_id="member", on_sigterm=True):
    made = PartitionCoordinator(my_id, name, namespace, on_sigterm=on_sigterm)
    made.start()
    gained, partition = [], made.partition(group, KEYS)
    partition.on_gained(gained.extend)
    partition.on_lost(on_lost)
    made.join_group(group, exclusive=True)
    wait_until(lambda: gained)
    return made

def live():
    say(ready=True)
    while True:
        time.sleep(0.01)

def on_signal(number, frame):
    say(handler=number)
    sys.exit(3)
"""
SIGTERM_ENDS = -signal.SIGTERM


def its_end(steady, group):
    """Why the member went, by the partition actor's events."""
    told = steady.call("events", 0, group)["events"]
    return [event["what"] for event in told if event["member"] == "member" and event["what"] in ("left", "died")]


@pytest.fixture
def run(program, steady):
    """A program whose member is ready: `script` goes on to `live`."""

    def run(script):
        return program(steady, BEGIN + script)

    return run


def test_the_keys_are_handed_over_and_then_the_former_handler_runs(run, steady, group):
    home = steady.member("home")
    home.join_group(group, exclusive=True)
    with run("connect(); signal.signal(signal.SIGTERM, on_signal); finish.clear(); join(); live()") as process:
        assert process.says() == {"ready": True}
        wait_until(lambda: len(home.extract_my_subset(group, KEYS)) < len(KEYS))
        process.signal(signal.SIGTERM)
        assert "lost" in process.says()  # and its callback runs
        assert len(home.extract_my_subset(group, KEYS)) < len(KEYS)
        process.signal(signal.SIGTERM)  # a second one changes nothing
        process.kill()
    wait_until(lambda: home.extract_my_subset(group, KEYS) == KEYS)


def test_the_former_handler_runs_when_the_callbacks_have_returned(run, steady, group):
    script = "threading.Thread(target=lambda: (hear(), finish.set()), daemon=True).start()\n"
    script += "connect(); signal.signal(signal.SIGTERM, on_signal); finish.clear(); join(); live()"
    with run(script) as process:
        assert process.says() == {"ready": True}
        for _ in range(3):
            process.signal(signal.SIGTERM)
        assert "lost" in process.says()
        process.tell()
        assert process.says() == {"returned": True}
        assert process.says() == {"handler": signal.SIGTERM}
        assert process.end()[0] == 3
    assert its_end(steady, group) == ["left"]


def test_without_another_handler_the_process_dies_of_the_signal(run, steady, group):
    with run("connect(); signal.signal(signal.SIGTERM, signal.SIG_DFL); join(); live()") as process:
        process.says()
        process.signal(signal.SIGTERM)
        assert "lost" in process.says()
        assert process.says() == {"returned": True}
        assert process.end()[0] == SIGTERM_ENDS
    assert its_end(steady, group) == ["left"]


def test_a_process_that_ignores_the_signal_lives_on_without_keys(run, steady, group):
    script = "connect(); signal.signal(signal.SIGTERM, signal.SIG_IGN); member = join(); say(ready=True)\n"
    script += "wait_until(lambda: not member.is_active()); say(keys=member.extract_my_subset(group, KEYS))\n"
    script += "hear(); member.start(); say(active=member.is_active()); member.stop()\n"
    script += "say(ignored=signal.getsignal(signal.SIGTERM) == signal.SIG_IGN)"
    with run(script) as process:
        process.says()
        process.signal(signal.SIGTERM)
        assert "lost" in process.says()
        assert sorted([*process.says(), *process.says()]) == ["keys", "returned"]
        process.tell()
        assert process.says() == {"active": True}
        assert process.says() == {"ignored": True}
        assert process.end()[0] == 0


def test_several_members_of_one_process_and_the_exit_code_of_rays_own_handler(run, steady, group):
    with run("connect(); join(); join('second'); join('third', on_sigterm=False); live()") as process:
        process.says()
        wait_until(lambda: steady.members(group) == ["member", "second", "third"])
        process.signal(signal.SIGTERM)
        assert process.end()[0] == signal.SIGTERM
    told = steady.call("events", 0, group)["events"]
    ends = {event["member"]: event["what"] for event in told if event["what"] in ("left", "died")}
    assert ends["member"] == ends["second"] == "left"
    wait_until(lambda: steady.members(group) == [])


def test_a_callback_that_never_returns_is_waited_for_no_longer_than_the_lease(run, hasty, program, group):
    with program(hasty, BEGIN + "connect(); finish.clear(); join(); live()") as process:
        assert process.says() == {"ready": True}
        process.signal(signal.SIGTERM)
        assert process.end()[0] == signal.SIGTERM


def test_a_partition_actor_that_is_away_holds_nobody_up(run, hasty, program, group):
    with program(hasty, BEGIN + "connect(); join(); live()") as process:
        process.says()
        hasty.shutdown()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == signal.SIGTERM


@pytest.mark.parametrize("how", ["with member.session_lock: ", "with threading._active_limbo_lock: "])
def test_a_main_thread_that_holds_a_lock(run, steady, group, how):
    script = "connect(); member = join(); member.session_lock = member._session.lock; say(ready=True)\n"
    script += f"while True:\n    {how}time.sleep(0.05)"
    with run(script) as process:
        process.says()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == signal.SIGTERM
    assert its_end(steady, group) == ["left"]


def test_asyncio(run, steady, group):
    script = """
import asyncio

async def main(handled):
    connect()
    if handled:
        done = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    async with PartitionCoordinator("member", name, namespace, on_sigterm=True) as member:
        await member.ajoin_group(group, exclusive=True)
        say(ready=True)
        await (done.wait() if handled else asyncio.sleep(600))
    say(ended=True)

asyncio.run(main(HANDLED))
"""
    with run(script.replace("HANDLED", "True")) as process:
        process.says()
        process.signal(signal.SIGTERM)
        assert process.says() == {"ended": True}
        assert process.end()[0] == 0
    assert its_end(steady, group) == ["left"]
    with run(script.replace("HANDLED", "False")) as process:
        process.says()
        process.signal(signal.SIGTERM)
        assert process.end()[0] == signal.SIGTERM
    assert its_end(steady, group) == ["left", "left"]


def test_a_forked_child_ends_by_the_signal_and_its_parent_keeps_its_keys(run, steady, group):
    script = "connect(); signal.signal(signal.SIGTERM, signal.SIG_DFL); member = join()\n"
    script += "child = os.fork()\nif not child:\n    live()\n"
    script += "hear(); os.kill(child, signal.SIGTERM); say(status=os.waitpid(child, 0)[1])\n"
    script += "say(keys=len(member.extract_my_subset(group, KEYS)))"
    with run(script) as process:
        assert process.says() == {"ready": True}
        process.tell()
        assert process.says() == {"status": signal.SIGTERM}
        assert process.says() == {"keys": len(KEYS)}


def test_a_handler_that_was_installed_later_stays(run, steady, group):
    script = "connect(); member = join(); signal.signal(signal.SIGTERM, on_signal); member.stop()\n"
    script += "say(stays=signal.getsignal(signal.SIGTERM) is on_signal); live()"
    with run(script) as process:
        process.says(), process.says()
        assert process.says() == {"stays": True}
        process.says()
        process.signal(signal.SIGTERM)
        assert process.says() == {"handler": signal.SIGTERM}
        assert process.end()[0] == 3


def test_a_handler_that_was_installed_later_and_calls_the_former_one(run, steady, group):
    script = "connect(); signal.signal(signal.SIGTERM, on_signal); first = join()\n"
    script += "former = signal.getsignal(signal.SIGTERM)\n"
    script += "signal.signal(signal.SIGTERM, lambda *what: former(*what)); second = join('second'); live()"
    with run(script) as process:
        while process.says() != {"ready": True}:
            pass
        process.signal(signal.SIGTERM)
        said = [process.says() for _ in range(5)]
        assert said[-1] == {"handler": signal.SIGTERM}
        assert process.end()[0] == 3
    wait_until(lambda: steady.members(group) == [])


# -- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def present():
    """The handler of this process, which is put in place again."""
    handler = signal.getsignal(signal.SIGTERM)
    yield handler
    signal.signal(signal.SIGTERM, handler)


def test_stop_puts_the_former_handler_in_place(steady, present):
    first, second = steady.member("first", on_sigterm=True), steady.member("second", on_sigterm=True)
    assert signal.getsignal(signal.SIGTERM) != present
    first.stop()
    assert signal.getsignal(signal.SIGTERM) != present
    second.stop()
    assert signal.getsignal(signal.SIGTERM) == present
    second.start()
    assert signal.getsignal(signal.SIGTERM) != present
    second.stop()
    assert signal.getsignal(signal.SIGTERM) == present


def test_after_a_stop_in_another_thread_the_signal_is_passed_on(steady, present):
    heard = []
    signal.signal(signal.SIGTERM, lambda *what: heard.append(what[0]))
    member = steady.member("member", on_sigterm=True)
    thread = threading.Thread(target=member.stop)
    thread.start()
    thread.join(LIMIT)
    os.kill(os.getpid(), signal.SIGTERM)
    wait_until(lambda: heard == [signal.SIGTERM])


def test_the_default_leaves_the_signal_alone(steady, present):
    steady.member("member")
    assert signal.getsignal(signal.SIGTERM) == present


def test_single_instance_mode_leaves_the_signal_alone(present):
    with PartitionCoordinator("member", None, on_sigterm=True):
        assert signal.getsignal(signal.SIGTERM) == present


def test_another_thread_is_refused(steady):
    member, raised = PartitionCoordinator("member", steady.name, steady.namespace, on_sigterm=True), []

    def start():
        with pytest.raises(InvalidArgument, match="main thread") as error:
            member.start()
        raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(LIMIT)
    assert raised
    assert not member.is_active()


def test_a_worker_of_ray_is_refused(steady, spawn, group):
    def start(worker, name, namespace):
        made = PartitionCoordinator("another", name, namespace, on_sigterm=True)
        try:
            made.start()
        except InvalidArgument as error:
            return str(error)

    worker = spawn(Worker, *steady.worker_arguments("member", group))
    text = ray.get(worker.__ray_call__.remote(start, steady.name, steady.namespace))
    assert text.startswith("on_sigterm: got True, expected False in an actor or a task")


def test_a_value_of_another_type_is_refused():
    with pytest.raises(InvalidArgument, match="on_sigterm: got 1, expected True or False"):
        PartitionCoordinator("member", on_sigterm=1)


def test_what_is_started_after_the_signal_does_not_put_it_off(present):
    heard, handed_over, first, second = [], threading.Event(), object(), object()
    signal.signal(signal.SIGTERM, lambda *what: heard.append(what[0]))
    started = threading.Event()
    sigterm.add(first, started.wait)
    os.kill(os.getpid(), signal.SIGTERM)
    sigterm.add(second, handed_over.set)
    started.set()
    wait_until(lambda: heard)
    assert not handed_over.is_set()
    os.kill(os.getpid(), signal.SIGTERM)  # the process lives on: the next signal is for what runs now
    wait_until(lambda: len(heard) == 2)
    assert handed_over.is_set()
