"""One local Ray cluster for all tests, and partition actors on it.

The environment is set before Ray is imported: otherwise a new local cluster turns token authentication on.
"""

import asyncio
import os
import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import members as members_module
import pytest
import ray
from deployments import HASTY, LIMIT, QUICK, STEADY, Deployment, wait_until
from programs import BEGIN, Program
from teams import Team

from partition_actor.actor import predecessor


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster. Workers request no CPU and there are few CPUs, so Ray prestarts few processes."""
    ray.cloudpickle.register_pickle_by_value(members_module)
    yield ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.shutdown()


@pytest.fixture
def make_deployment(cluster):
    """Make partition actors that are not deployed yet; they are shut down after the test."""
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
    """A partition actor with short leases, for this test alone."""
    deployment = make_deployment(HASTY)
    deployment.deploy()
    return deployment


@pytest.fixture
def quick(make_deployment):
    """A partition actor, for this test alone, that soon forces a hand-off; no lease of those who are heard ends."""
    deployment = make_deployment(QUICK)
    deployment.deploy()
    return deployment


@pytest.fixture
def loop():
    """An event loop in a thread of its own, as an asyncio actor has one; the test may stop it."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever, daemon=True)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join(LIMIT)


@pytest.fixture(scope="session")
def _steady(cluster):
    deployment = Deployment(STEADY)
    deployment.deploy()
    yield deployment
    deployment.shutdown()


@pytest.fixture
def steady(_steady):
    """A partition actor that tests share, each with a group of its own. Its leases do not end within a test."""
    yield _steady
    _steady.stop_members()


@pytest.fixture
def another_node(cluster):
    """A second node of the cluster, on this machine; returns the name of a resource that only it has."""
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
def drain_node(cluster):
    """Tell Ray that a node, given by its id, ends in ten minutes."""

    def drain(node):
        ray_program, address = Path(sys.executable).with_name("ray"), cluster.address_info["gcs_address"]
        why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=test", "--deadline-remaining-seconds=600"]
        command = [ray_program, "drain-node", f"--address={address}", f"--node-id={node}", *why]
        subprocess.run(command, check=True, capture_output=True)

    return drain


@pytest.fixture
def group():
    """A name that no other test uses."""
    return f"group-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def spawn():
    """Start worker actors of the classes in ``members``; they are killed after the test."""
    made = []

    def spawn(cls, *args, **options):
        handle = ray.remote(cls).options(num_cpus=0, **options).remote(*args)
        made.append(handle)
        return handle

    yield spawn
    for handle in made:
        ray.kill(handle)


def _team(deployment, group, spawn):
    made = Team(deployment, group, spawn)
    yield made
    for router in made.routers:
        router.stop()


@pytest.fixture
def team(steady, group, spawn):
    yield from _team(steady, group, spawn)


@pytest.fixture
def hasty_team(hasty, group, spawn):
    yield from _team(hasty, group, spawn)


@pytest.fixture
def program(cluster, group):
    """Run a script as a driver of the cluster."""

    @contextmanager
    def run(deployment, script):
        where = [cluster.address_info["gcs_address"], deployment.name, deployment.namespace, group]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", BEGIN + script, *where], text=True, **pipes) as process:
            try:
                yield Program(process)
            finally:
                process.kill()

    return run


@pytest.fixture
def kept(cluster, monkeypatch):
    """Make the records, in the real GCS, of one more actor of a name that no other test uses."""
    monkeypatch.setattr(predecessor, "was_restarted", lambda: False)
    where, actors = (f"name-{uuid.uuid4().hex}", "tests"), iter("abcdef")

    class Kept(predecessor.Records):
        def __init__(self, actor=None):
            super().__init__(*where)
            self.life = (actor or next(actors), uuid.uuid4().hex)

        def _life(self):
            return self.life

    return Kept
