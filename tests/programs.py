"""Programs that a test runs as drivers of its cluster."""

import json
import subprocess

import pytest
from deployments import LIMIT

BEGIN = '''
import json, logging, sys, threading, time
import ray
from partition_actor import PartitionCoordinator, Router, Settings, deploy

address, name, namespace, group = sys.argv[1:]
logged = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: logged.append(record.getMessage())
logging.getLogger("partition_actor").addHandler(handler)

def connect():
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")

def member(my_id="member", call_timeout=5.0):
    return PartitionCoordinator(my_id, name, namespace, Settings(call_timeout=call_timeout))

def wait_until(condition, seconds=50.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    assert condition()

def no_ray():
    """Wait until it has logged that it cannot reach the partition actor. Whether meanwhile no Ray has been started,
    nor within a dozen heartbeats."""
    started, begun = [], time.monotonic()
    wait_until(lambda: (started.append(ray.is_initialized()), logged and time.monotonic() > begun + 1.0)[1])
    return not any(started)

def say(**what):
    print(json.dumps(what), flush=True)

def hear():
    sys.stdin.readline()
'''


class Program:
    """A program of its own process, and the lines of JSON that it prints."""

    def __init__(self, process):
        self._process = process

    def says(self):
        """The next thing that it says."""
        line = self._process.stdout.readline()
        assert line, self.end()
        return json.loads(line)

    def tell(self):
        """Let it go on."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self):
        self._process.kill()

    def signal(self, number):
        self._process.send_signal(number)

    def end(self, timeout=LIMIT):
        """Wait for its end. Returns its exit code, and what it had to complain of."""
        try:
            errors = self._process.communicate(timeout=timeout)[1]
        except subprocess.TimeoutExpired:
            pytest.fail(f"the program has not ended within {timeout} s", pytrace=False)
        return self._process.returncode, errors
