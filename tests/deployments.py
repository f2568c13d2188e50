"""A partition actor for a test, and waiting on conditions."""

import threading
import time
import uuid

import pytest
import ray

import partition_actor
from partition_actor import PartitionCoordinator, Settings

LIMIT = 60.0
"""Seconds until a condition counts as not met. On an idle machine they are met within milliseconds."""

STEADY = Settings(ttl=60.0, hold=1.0)
"""For tests in which no lease may end, however busy the machine is. Changes are still published at once."""

HASTY = Settings(ttl=2.0, hold=0.4, handoff_timeout=2.0, node_proof_interval=0.4, max_members=100)
"""For tests in which leases end."""

QUICK = Settings(ttl=4.0, hold=0.4, handoff_timeout=0.8, node_proof_interval=0.4, max_members=100)
"""Leases long enough that no member expires by itself; a hand-off that is not acknowledged is forced soon."""


def in_thread(call):
    """Call it in a thread. Returns a function that waits for the result and gives it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def result():
        thread.join(LIMIT)
        return results[0]

    return result


def wait_until(condition, timeout=LIMIT):
    """Return the first true value of `condition()`. Fail the test with its last value after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            pytest.fail(f"after {timeout} s still {value!r}", pytrace=True)
        time.sleep(0.01)
    return value


class Deployment:
    """A partition actor under a unique name, and the members that a test creates for it."""

    def __init__(self, settings):
        self.name = f"partition-actor-{uuid.uuid4().hex[:8]}"
        self.namespace = "tests"
        self.settings = settings
        self.handle = None
        self._members = []

    def deploy(self):
        self.handle = partition_actor.deploy(self.name, self.namespace, self.settings)
        return self.handle

    def shutdown(self, force=True):
        partition_actor.shutdown(self.name, self.namespace, force)

    def call(self, method, *args, **kwargs):
        """Call a method of the actor by its handle."""
        return ray.get(getattr(self.handle, method).remote(*args, **kwargs), timeout=LIMIT)

    def members(self, group):
        return self.call("get_members", group)

    def member(self, my_id=None, **kwargs):
        """A started ``PartitionCoordinator`` in this process; it is stopped after the test."""
        made = PartitionCoordinator(my_id, self.name, self.namespace, **kwargs)
        self._members.append(made)
        made.start()
        return made

    def worker_arguments(self, my_id, group):
        """The constructor arguments of the classes in ``members``."""
        return self.name, self.namespace, my_id, group

    def stop_members(self):
        while self._members:
            self._members.pop().stop()
