"""Deploying, connecting to and shutting down the partition actor."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import ray
from deployments import HASTY, LIMIT, STEADY, in_thread, wait_until
from members import OldPartitionActor, SilentPartitionActor, StuckPartitionActor, deploy_and_tell_pid

import partition_actor
from partition_actor import PartitionCoordinator, Settings, ray_internals
from partition_actor import deployment as deployment_module
from partition_actor.actor import predecessor
from partition_actor.actor.partition_actor import PartitionActor
from partition_actor.errors import InvalidSettings, PartitionActorNotFound, PartitionActorUnavailable, VersionMismatch
from partition_actor.settings import told

KEYS = [f"key-{number:02}" for number in range(20)]

DRIVER = """
import sys, ray, partition_actor
address, name, namespace = sys.argv[1:]
ray.init(address=address, log_to_driver=False)
handle = partition_actor.deploy(name, namespace)
print(ray.get(handle.status.remote())["pid"])
"""


def test_many_threads_and_tasks_at_once_get_one_partition_actor(make_deployment):
    deployment = make_deployment()
    where = deployment.name, deployment.namespace
    task = ray.remote(deploy_and_tell_pid).options(num_cpus=0)
    tasks = [task.remote(*where) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda _: partition_actor.deploy(*where), range(8)))
    pids = {status["pid"] for status in ray.get([handle.status.remote() for handle in handles], timeout=LIMIT)}
    assert pids == set(ray.get(tasks, timeout=LIMIT))
    assert len(pids) == 1


def test_a_second_deploy_gets_the_first_and_warns_of_other_settings(make_deployment, caplog):
    deployment = make_deployment(HASTY)
    deployment.deploy()
    pid = deployment.call("status")["pid"]
    for settings in (HASTY, None):
        partition_actor.deploy(deployment.name, deployment.namespace, settings)
    assert "other settings" not in caplog.text
    deployment.settings = Settings(**{**HASTY.to_dict(), "vnodes": 7, "call_timeout": 1.0})
    deployment.deploy()
    assert f"{deployment.name!r} runs already with other settings for call_timeout, vnodes" in caplog.text
    assert deployment.call("status")["pid"] == pid
    assert deployment.call("status")["settings"] == HASTY.to_dict()


def test_connect_finds_the_running_actor_and_raises_when_there_is_none(make_deployment):
    deployment = make_deployment()
    where = deployment.name, deployment.namespace
    with pytest.raises(PartitionActorNotFound, match=f"{deployment.name}.*'tests'.*deploy"):
        partition_actor.connect(*where)
    deployment.deploy()
    handle = partition_actor.connect(*where)
    found = ray.get(handle.status.remote(), timeout=LIMIT)
    assert found["pid"] == deployment.call("status")["pid"]
    with pytest.raises(PartitionActorNotFound, match="'elsewhere'"):
        partition_actor.connect(deployment.name, "elsewhere")


def test_shutdown_may_be_repeated_and_deploy_starts_from_nothing(make_deployment):
    deployment = make_deployment()
    deployment.shutdown(force=False)
    deployment.deploy()
    before = deployment.call("status")
    deployment.call("join", "group", "a")
    deployment.shutdown(force=False)
    deployment.shutdown(force=False)
    with pytest.raises(PartitionActorNotFound):
        partition_actor.connect(deployment.name, deployment.namespace)
    deployment.deploy()
    after = deployment.call("status")
    assert after["incarnation"] > before["incarnation"]
    assert after["groups"] == {}


def test_shutdown_waits_until_members_have_let_go_and_the_next_one_waits_for_nothing(make_deployment, group):
    deployment = make_deployment(STEADY)  # whose leases last longer than any wait here
    deployment.deploy()
    member = deployment.member("a")
    lost, finish = [], threading.Event()

    def on_lost(keys):
        lost.extend(keys)
        assert finish.wait(LIMIT)

    partition = member.partition(group, KEYS)
    partition.on_lost(on_lost)
    member.join_group(group, exclusive=True)
    wait_until(lambda: sorted(partition) == KEYS)
    ends = [in_thread(lambda: deployment.shutdown(force=False) or True) for _ in range(2)]
    wait_until(lambda: sorted(lost) == KEYS)
    assert member.extract_my_subset(group, KEYS) == []
    with pytest.raises(PartitionActorUnavailable, match="being shut down"):
        deployment.call("get_subset", group, "bare", KEYS)
    partition_actor.connect(deployment.name, deployment.namespace)  # it is still there
    finish.set()
    assert all(end() for end in ends)
    with pytest.raises(PartitionActorNotFound):
        partition_actor.connect(deployment.name, deployment.namespace)
    deployment.deploy()
    assert not deployment.call("status")["recovering"]
    wait_until(lambda: sorted(member.extract_my_subset(group, KEYS)) == KEYS)


def test_after_shutdown_by_force_the_next_one_waits_for_leases(make_deployment):
    deployment = make_deployment(STEADY)
    deployment.deploy()
    deployment.shutdown(force=True)
    deployment.deploy()
    assert deployment.call("status")["recovering"]
    deployment.shutdown(force=True)


def started(deployment):
    """What the present partition actor said when it started."""
    events = deployment.call("events", 0)["events"]
    return next(event["why"] for event in events if event["what"] == "started")


def test_a_partition_actor_of_a_new_cluster_waits_for_leases_of_the_former_one_if_it_is_to(make_deployment, group):
    deployment = make_deployment(Settings(**{**HASTY.to_dict(), "new_cluster_wait": 60.0}))
    deployment.deploy()
    assert "it waits 61.2 s for leases" in started(deployment)
    pid = deployment.call("status")["pid"]
    os.kill(pid, signal.SIGKILL)  # the next one finds a record of this one's leases, which are shorter
    wait_until(lambda: has_pid_other_than(deployment, pid))
    assert "it waits 61.2 s for leases" in started(deployment)
    deployment.shutdown(force=True)


def test_it_waits_once_in_a_cluster(make_deployment, group):
    deployment = make_deployment(Settings(**{**HASTY.to_dict(), "new_cluster_wait": 1.0}))
    deployment.deploy()
    assert "it waits 1.0 s for leases" in started(deployment)
    member = deployment.member("a")
    member.join_group(group, exclusive=True)
    wait_until(lambda: member.extract_my_subset(group, KEYS) == KEYS)
    deployment.shutdown(force=False)
    deployment.deploy()
    assert started(deployment) == "no lease of a former partition actor can be out"


def has_pid_other_than(deployment, pid):
    try:
        return deployment.call("status")["pid"] != pid
    except ray.exceptions.RayActorError:
        return False


def test_a_namespace_never_used_before_pays_nothing_for_a_name_used_elsewhere(make_deployment):
    deployment, other = make_deployment(), make_deployment()
    deployment.deploy()
    other.name, other.namespace = deployment.name, f"namespace of {deployment.name}"
    other.deploy()
    assert not other.call("status")["recovering"]
    deployment.shutdown(force=True)
    deployment.deploy()
    assert deployment.call("status")["recovering"]


def is_known(deployment):
    try:
        ray.get_actor(deployment.name, namespace=deployment.namespace)
    except ValueError:
        return False
    return True


def test_after_a_crash_the_wait_is_as_long_as_the_leases_that_can_be_out(make_deployment, group):
    growing = {**HASTY.to_dict(), "max_members": 10_000, "max_heartbeats_per_second": 10.0}
    deployment = make_deployment(Settings(**growing))  # leases of an hour and a half, with so many members
    deployment.deploy()
    survivor = deployment.member("survivor")
    survivor.join_group(group, exclusive=True)
    wait_until(lambda: survivor.extract_my_subset(group, KEYS))
    before = deployment.call("status")
    os.kill(before["pid"], 9)
    newcomer = deployment.member("newcomer")
    newcomer.join_group(group, exclusive=True)
    wait_until(lambda: newcomer.extract_my_subset(group, KEYS))


def test_records_tell_the_longest_lease_that_may_be_out(kept):
    async def story():
        first, second, third = kept(), kept(), kept()
        assert first.longest_lease() == 0.0
        assert await first.add_lease(10.0)
        assert await first.add_lease(12.5)
        assert second.longest_lease() == 12.5
        assert await second.add_lease(3.0)
        assert third.longest_lease() == 12.5
        assert await second.settle_former()
        assert third.longest_lease() == 3.0
        assert await third.add_lease(4.0)
        assert await third.settle()
        assert kept().longest_lease() == 0.0
        assert await first.add_lease(20.0)  # a late word of one that is over
        assert kept().longest_lease() == 0.0

    asyncio.run(story())


def test_an_actor_that_left_no_records_may_have_granted_anything(kept, monkeypatch):
    monkeypatch.setattr(predecessor, "_actors_of", lambda name, namespace: {"a", "of an older version"})
    assert kept("a").longest_lease() is None
    monkeypatch.setattr(predecessor, "_actors_of", lambda name, namespace: {"a"})
    assert kept("a").longest_lease() == 0.0
    monkeypatch.setattr(predecessor, "was_restarted", lambda: True)
    assert kept("a").longest_lease() is None


def test_when_the_gcs_does_not_tell_nobody_knows_and_nothing_is_confirmed(kept, monkeypatch):
    monkeypatch.setattr(ray_internals, "gcs_client", lambda: SimpleNamespace(async_internal_kv_put=None))
    assert kept().longest_lease() is None
    assert not asyncio.run(kept().add_lease(1.0))
    monkeypatch.setattr(ray_internals, "gcs_client", lambda: None)
    assert not kept().are_kept
    assert not asyncio.run(kept().settle())


def test_changed_settings_are_told_or_nothing_starts_without_them(kept, monkeypatch):
    """A former life may have granted longer leases than those of `deploy`, and have told bare callers of them."""
    first, longer = kept(), Settings(ttl=60.0)
    assert first.settings() == {}
    assert asyncio.run(first.add_settings(1, longer.to_dict()))
    assert first.settings() == {1: longer}
    assert kept().settings() == {}
    monkeypatch.setattr(ray_internals, "gcs_client", lambda: SimpleNamespace(async_internal_kv_put=None))
    with pytest.raises(PartitionActorUnavailable, match="does not tell its settings"):
        first.settings()


def test_shutdown_of_one_that_does_not_answer_raises_and_force_kills_it(impostor, monkeypatch):
    deployment = impostor(StuckPartitionActor)
    monkeypatch.setattr("partition_actor.deployment.ANSWER_WITHIN", 0.5)
    with pytest.raises(PartitionActorUnavailable, match=r"did not answer within 0\.5 s: shutdown\(force=True\)"):
        deployment.shutdown(force=False)
    monkeypatch.undo()
    deployment.shutdown(force=True)
    assert not is_known(deployment)


def test_one_that_cannot_end_in_good_order_is_killed(impostor):
    deployment = impostor(SilentPartitionActor)
    deployment.shutdown(force=False)
    assert not is_known(deployment)


def test_shutdown_leaves_the_one_alone_that_was_deployed_since(make_deployment, monkeypatch):
    deployment = make_deployment()
    deployment.deploy()
    ask = deployment_module._ask_to_end

    def ask_and_redeploy(handle, name):
        ask(handle, name)
        wait_until(lambda: not is_known(deployment))
        deployment.deploy()
        return 0.0

    monkeypatch.setattr(deployment_module, "_ask_to_end", ask_and_redeploy)
    deployment.shutdown(force=False)
    assert told(deployment.call("hello")) == HASTY.to_dict()


def test_it_outlives_the_driver_that_deployed_it(make_deployment):
    deployment = make_deployment(STEADY)
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, address, deployment.name, deployment.namespace],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert driver.returncode == 0, driver.stderr
    found = partition_actor.connect(deployment.name, deployment.namespace)
    assert ray.get(found.status.remote(), timeout=LIMIT)["pid"] == int(driver.stdout)


def test_it_is_restarted_when_its_process_dies(hasty, group):
    before = hasty.call("status")
    member = hasty.member("a")
    member.join_group(group)
    first = member.epoch(group)
    os.kill(before["pid"], 9)
    wait_until(lambda: member.epoch(group) > first)
    after = hasty.call("status")
    assert after["pid"] != before["pid"]
    assert after["incarnation"] > before["incarnation"]
    assert after["settings"] == hasty.settings.to_dict()
    assert hasty.members(group) == ["a"]


@pytest.fixture
def impostor(make_deployment):
    """Start another actor under the partition actor's name; returns the deployment."""

    def impostor(cls):
        deployment = make_deployment()
        deployment.handle = (
            ray.remote(cls)
            .options(name=deployment.name, namespace=deployment.namespace, lifetime="detached", num_cpus=0)
            .remote()
        )
        return deployment

    return impostor


def test_a_partition_actor_of_another_protocol_is_refused_with_what_to_do(impostor, caplog):
    deployment = impostor(OldPartitionActor)
    for call in (partition_actor.connect, partition_actor.deploy):
        with pytest.raises(VersionMismatch, match=r"version 0\.0\.1 with protocol 0\.0, older.*shutdown\(\)"):
            call(deployment.name, deployment.namespace)
    deployment.member("a")  # logged, not raised
    wait_until(lambda: "the partition actor runs version 0.0.1" in caplog.text)


def test_waiting_for_a_partition_actor_that_does_not_answer_has_a_limit(impostor):
    deployment = impostor(SilentPartitionActor)
    with pytest.raises(PartitionActorUnavailable, match=r"did not answer within 0\.5 s"):
        partition_actor.connect(deployment.name, deployment.namespace, timeout=0.5)


def test_an_actor_with_bad_settings_starts_and_raises_them_in_every_call():
    actor = PartitionActor("name", {"ttl": -1})
    for call in (actor.hello, actor.status, actor.get_groups):
        with pytest.raises(InvalidSettings, match=r"^ttl: got -1"):
            asyncio.run(call())


def test_a_member_uses_the_call_timeout_of_its_own_settings(impostor, group):
    deployment = impostor(SilentPartitionActor)
    member = PartitionCoordinator("a", deployment.name, deployment.namespace, Settings(call_timeout=0.1))
    with member:
        assert member.extract_my_subset(group, ["x"]) == []
