"""A partition actor for a test, and waiting for what it is to do."""

import time
import uuid

import pytest
import ray

import partition_actor
from partition_actor import PartitionCoordinator, Settings

LIMIT = 60.0
"""Seconds after which a condition counts as not met; what is waited for takes milliseconds on an idle machine."""

STEADY = Settings(ttl=60.0, hold=1.0)
"""For tests in which nobody is to expire, however busy the machine is. News travels as fast as ever."""

HASTY = Settings(ttl=2.0, hold=0.4, handoff_timeout=2.0, node_proof_interval=0.4, max_members=100)
"""For tests of leases that end."""


def wait_until(condition, timeout=LIMIT):
    """Return the first true value of `condition()`; fail with its last value after `timeout` seconds."""
    until = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > until:
            pytest.fail(f"after {timeout} s still {value!r}", pytrace=True)
        time.sleep(0.01)
    return value


class Deployment:
    """A partition actor under a name of its own, and the members that a test makes for it."""

    def __init__(self, settings):
        self.name = f"coordinator-{uuid.uuid4().hex[:8]}"
        self.namespace = "tests"
        self.settings = settings
        self.handle = None
        self._members = []

    def deploy(self):
        self.handle = partition_actor.deploy(self.name, self.namespace, self.settings)
        return self.handle

    def shutdown(self):
        partition_actor.shutdown(self.name, self.namespace)

    def call(self, method, *args, **kwargs):
        """Call a method of the actor as anybody with its handle does."""
        return ray.get(getattr(self.handle, method).remote(*args, **kwargs), timeout=LIMIT)

    def members(self, group):
        return self.call("get_members", group)

    def member(self, my_id=None, **kwargs):
        """A started ``PartitionCoordinator`` in this process, stopped after the test."""
        made = PartitionCoordinator(my_id, self.name, self.namespace, **kwargs)
        self._members.append(made)
        made.start()
        return made

    def worker_arguments(self, my_id, group):
        """What the classes in ``members`` are made with."""
        return self.name, self.namespace, my_id, group

    def stop_members(self):
        while self._members:
            self._members.pop().stop()
