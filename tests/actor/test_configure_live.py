"""`configure` on a real partition actor."""

import os
import signal

import pytest
import ray
from deployments import LIMIT, wait_until

import partition_actor
from partition_actor import Settings
from partition_actor.errors import InvalidSettings
from partition_actor.settings import told

SETTINGS = Settings(ttl=8.0, hold=1.0)


@pytest.fixture
def member(make_deployment):
    deployment = make_deployment(SETTINGS)
    deployment.deploy()
    coordinator = deployment.member("a")
    coordinator.join_group("group", exclusive=True)
    return deployment, coordinator


def lease(deployment):
    (member,) = deployment.call("status", "group")["members"]
    return member["lease"]


def answers(deployment):
    try:
        return deployment.call("hello")
    except ray.exceptions.RayActorError:
        return False


def test_settings_change_without_moving_a_key_and_outlast_a_crash(member):
    deployment, _ = member
    epoch = deployment.call("status", "group")["epoch"]
    changed = deployment.call("configure", {"ttl": 3.0, "hold": 0.5})
    assert (changed["ttl"], changed["hold"]) == (3.0, 0.5)
    assert deployment.call("status")["settings"] == changed
    wait_until(lambda: lease(deployment) < 3.1)
    assert deployment.call("status", "group")["epoch"] == epoch
    assert deployment.call("events")["events"][-1]["what"] == "settings"

    os.kill(deployment.call("status")["pid"], signal.SIGKILL)
    wait_until(lambda: answers(deployment))
    assert told(deployment.call("hello")) == changed
    assert deployment.call("configure", {"ttl": 12.0})["ttl"] == 12.0  # once the GCS has a record of such a lease
    assert deployment.call("status")["ttl"] == 12.0


def test_a_field_that_cannot_change_is_refused_and_nothing_changes(member):
    deployment, _ = member
    with pytest.raises(InvalidSettings, match="max_members"):
        deployment.call("configure", {"hold": 0.5, "max_members": 7})
    assert told(deployment.call("hello")) == SETTINGS.to_dict()


def test_the_next_deployment_begins_with_its_own_settings(make_deployment):
    deployment = make_deployment(SETTINGS)
    deployment.deploy()
    deployment.call("configure", {"hold": 0.5})
    partition_actor.shutdown(deployment.name, deployment.namespace)
    deployment.deploy()
    assert told(ray.get(deployment.handle.hello.remote(), timeout=LIMIT)) == SETTINGS.to_dict()


def test_a_newcomer_after_a_shorter_ttl_need_not_wait_for_the_former_interval_of_proofs(make_deployment):
    deployment = make_deployment(Settings(ttl=6000.0, hold=1.0, node_proof_interval=2000.0))
    deployment.deploy()
    deployment.member("a").join_group("group", exclusive=True)
    wait_until(lambda: deployment.call("status")["uptime"] > 3.0)  # then the first proof grants no lease of 3 s
    deployment.call("configure", {"ttl": 3.0, "node_proof_interval": 0.5})
    newcomer = deployment.member("b")
    newcomer.join_group("group", exclusive=True)
    wait_until(lambda: newcomer.extract_my_subset("group", range(100)))
