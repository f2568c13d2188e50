import asyncio
import os
import signal
import subprocess
import sys

import pytest

from partition_actor.processes import _state_and_start, has_ended, own_process, wait_until_ended, watch

LIMIT = 30.0
NAMESPACE = os.readlink("/proc/self/ns/pid")


@pytest.fixture
def child():
    """A process, and the text by which it is known."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process, f"{NAMESPACE} {process.pid} {_state_and_start(process.pid)[1]}"
    process.kill()
    process.communicate()


def test_a_process_that_runs_has_not_ended(child):
    assert has_ended(own_process()) is False
    assert has_ended(child[1]) is False


def test_a_stopped_process_has_not_ended(child):
    process, known_as = child
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    assert has_ended(known_as) is False


def test_a_killed_process_has_ended_before_anybody_has_waited_for_it(child):
    process, known_as = child
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie stays
    assert has_ended(known_as) is True
    process.wait()
    assert has_ended(known_as) is True


def test_another_process_under_the_same_number_is_another(child):
    assert has_ended(child[1] + "0") is True


@pytest.mark.parametrize("process", ["", "nonsense", "a b c", "pid:[1] 1 1", f"{NAMESPACE} x 1"])
def test_what_cannot_be_told_from_here_is_not_told(process):
    assert has_ended(process) is None
    assert wait_until_ended(process, LIMIT) is False


def test_waiting_for_the_end(child):
    process, known_as = child
    assert wait_until_ended(known_as, 0.0) is False
    process.stdin.close()
    assert wait_until_ended(known_as, LIMIT) is True


def test_the_kernel_tells_of_the_end_without_being_asked_again(child):
    process, known_as = child

    async def scenario():
        watching = asyncio.ensure_future(watch(known_as))
        done, _ = await asyncio.wait({watching}, timeout=0.05)
        assert not done
        process.kill()
        assert await asyncio.wait_for(watching, LIMIT) is True

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    process.wait()
    assert asyncio.run(watch(known_as)) is True
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_watch_that_is_given_up_leaves_nothing_open(child):
    async def scenario():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch(child[1]), 0.01)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("process", ["", "nonsense", "a b c", "pid:[1] 1 1", f"{NAMESPACE} x 1"])
def test_what_cannot_be_watched_is_not(process):
    assert asyncio.run(watch(process)) is False


def test_without_descriptors_of_processes_nothing_is_watched(child, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert asyncio.run(watch(child[1])) is False
