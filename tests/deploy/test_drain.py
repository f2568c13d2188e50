"""deploy/kuberay/drain.py, the preStop of a worker pod; tests/hosts/test_drain_script.py runs it as a whole."""

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest
import ray
from deployments import LIMIT, STEADY, wait_until
from members import ExclusiveWorker
from ray.exceptions import GetTimeoutError

SCRIPT = Path(__file__).parents[2] / "deploy" / "kuberay" / "drain.py"


@pytest.fixture
def deployment(make_deployment):
    made = make_deployment(STEADY)
    made.deploy()
    return made


@pytest.fixture
def drain(deployment, monkeypatch):
    monkeypatch.setenv("PARTITION_ACTOR_NAME", deployment.name)
    monkeypatch.setenv("PARTITION_ACTOR_NAMESPACE", deployment.namespace)
    spec = importlib.util.spec_from_file_location("drain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def soon(seconds):
    return time.monotonic() + seconds


def this_node():
    return ray.get_runtime_context().get_node_id()


def test_it_waits_for_the_members_on_its_node_in_all_groups(drain, deployment, group):
    for number in range(2):
        deployment.member(f"m{number}").join_group(f"{group}-{number}", exclusive=bool(number))
    assert drain.members(this_node(), None) == {f"{group}-0": ["m0"], f"{group}-1": ["m1"]}
    assert drain.wait(this_node(), soon(1.0)) == f"m0 in {group}-0; m1 in {group}-1"
    assert drain.wait("f" * 56, soon(LIMIT)) == ""
    deployment.stop_members()
    assert drain.wait(this_node(), soon(LIMIT)) == ""


def test_without_a_partition_actor_there_is_nobody_to_wait_for(drain, monkeypatch):
    monkeypatch.setattr(drain, "NAME", "another")
    assert drain.wait(this_node(), soon(LIMIT)) == ""


def test_it_goes_on_waiting_while_the_partition_actor_does_not_answer(drain, monkeypatch):
    def no_answer(_):
        raise GetTimeoutError("no answer")

    monkeypatch.setattr(drain, "ask", no_answer)
    assert drain.wait(this_node(), soon(1.0)) == "unknown (no answer)"


def test_a_node_of_which_nothing_is_known_counts_as_not_drained(drain):
    assert drain.wait(this_node(), soon(0.0)).startswith("unknown (")


def test_members_leave_a_node_that_is_drained(drain, deployment, cluster, another_node, group, spawn, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address_info["gcs_address"])
    there = next(each["NodeID"] for each in ray.nodes() if another_node in each["Resources"])
    deployment.member("here").join_group(group, exclusive=True)
    spawn(ExclusiveWorker, *deployment.worker_arguments("there", group), resources={another_node: 0.1})
    wait_until(lambda: drain.members(there, None) == {group: ["there"]})
    drain.tell_ray(there, 60)
    assert drain.wait(there, soon(LIMIT)) == ""
    assert deployment.members(group) == ["here"]
