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
    """A process, and its id as `own_process` returns it."""
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


def test_a_killed_process_has_ended_even_while_it_is_a_zombie(child):
    process, known_as = child
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie stays
    assert has_ended(known_as) is True
    process.wait()
    assert has_ended(known_as) is True


def test_a_process_with_a_reused_pid_is_another_process(child):
    assert has_ended(child[1] + "0") is True


@pytest.mark.parametrize("process", ["", "nonsense", "a b c", "pid:[1] 1 1", f"{NAMESPACE} x 1"])
def test_an_unknown_process_is_neither_running_nor_ended(process):
    assert has_ended(process) is None
    assert wait_until_ended(process, LIMIT) is False


def test_waiting_for_the_end(child):
    process, known_as = child
    assert wait_until_ended(known_as, 0.0) is False
    process.stdin.close()
    assert wait_until_ended(known_as, LIMIT) is True


def test_a_watch_ends_with_the_process_without_polling(child):
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


def test_a_cancelled_watch_leaves_no_descriptor_open(child):
    async def scenario():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watch(child[1]), 0.01)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("process", ["", "nonsense", "a b c", "pid:[1] 1 1", f"{NAMESPACE} x 1"])
def test_watching_an_unknown_process_returns_false_at_once(process):
    assert asyncio.run(watch(process)) is False


def test_without_pidfd_open_watching_returns_false_at_once(child, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open")
    assert asyncio.run(watch(child[1])) is False
