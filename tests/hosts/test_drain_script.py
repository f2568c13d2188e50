"""deploy/kuberay/drain.py, the preStop of a worker pod, on hosts that are to each other as pods are."""

import os
import secrets
import sys
from pathlib import Path

import bed
import pytest
from deployments import LIMIT, wait_until
from ray_hosts import HEAD, PORT, Driver, RayHosts

DRAIN = bed.ROOT / "deploy" / "kuberay" / "drain.py"
WORKER = 1


@pytest.fixture
def pods(make_hosts):
    """A head and a worker with the environment that KubeRay gives them."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return RayHosts(make_hosts(2), RAY_ADDRESS=f"{bed.address(HEAD)}:{PORT}", PATH=path, **token)


@pytest.mark.slow_hosts
def test_a_worker_pod_ends_when_its_members_have_handed_their_keys_over(pods):
    driver = Driver(pods, Path(__file__).with_name("pod_driver.py"))
    wait_until(lambda: all(driver.ask("keys").values()))
    before = driver.ask("keys")
    drained = pods.hosts.run(WORKER, [sys.executable, DRAIN, "30"], env=pods.environment, timeout=LIMIT)
    assert (drained.returncode, drained.stdout.splitlines()[-1]) == (0, "drain: no member is left here"), drained
    assert driver.ask("keys") == {"head": sorted(before["head"] + before["worker"]), "worker": []}
    assert {*before["worker"]} <= {*driver.ask("lost_keys")["worker"]}  # its callback was called
    happened = driver.events()
    assert ["drained", "worker"] in happened
    assert not {"died", "expired"} & {what for what, _ in happened}
