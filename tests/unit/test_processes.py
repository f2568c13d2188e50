import os
import signal
import subprocess
import sys

import pytest

from partition_actor.processes import _state_and_start, has_ended, own_process, wait_until_ended

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
