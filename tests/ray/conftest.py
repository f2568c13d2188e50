"""One local Ray cluster for all tests here, and coordinators on it.

Ray is imported after the environment is set: a new local cluster would otherwise turn token authentication on.
"""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import members as members_module
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
    """A coordinator under a name of its own, and the members that a test makes for it."""

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


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster; workers here ask for no CPU, so that few processes are started ahead of need."""
    ray.cloudpickle.register_pickle_by_value(members_module)
    yield ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.shutdown()


@pytest.fixture
def make_deployment(cluster):
    """Make coordinators, not deployed yet; they are shut down after the test."""
    made = []

    def make(settings=HASTY):
        made.append(Deployment(settings))
        return made[-1]

    yield make
    for deployment in made:
        deployment.stop_members()
        deployment.shutdown()


@pytest.fixture
def hasty(make_deployment):
    """A coordinator of the test's own whose leases end soon."""
    deployment = make_deployment(HASTY)
    deployment.deploy()
    return deployment


@pytest.fixture(scope="session")
def _steady(cluster):
    deployment = Deployment(STEADY)
    deployment.deploy()
    yield deployment
    deployment.shutdown()


@pytest.fixture
def steady(_steady):
    """A coordinator that tests share, each with a group of its own; nobody expires there."""
    yield _steady
    _steady.stop_members()


@pytest.fixture
def another_node(cluster):
    """A second node of the cluster, on this machine; returns the resource that only it has."""
    start = ["start", f"--address={cluster.address_info['gcs_address']}", "--num-cpus=1", "--block"]
    node = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), *start, '--resources={"elsewhere": 1}'],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: "elsewhere" in ray.cluster_resources())
    yield "elsewhere"
    node.terminate()
    node.wait(LIMIT)
    wait_until(lambda: "elsewhere" not in ray.cluster_resources())


@pytest.fixture
def group():
    """A name that no other test uses."""
    return f"group-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def spawn():
    """Make worker actors of the classes in ``members``; they are killed after the test."""
    made = []

    def spawn(cls, *args, **options):
        handle = ray.remote(cls).options(num_cpus=0, **options).remote(*args)
        made.append(handle)
        return handle

    yield spawn
    for handle in made:
        ray.kill(handle)
