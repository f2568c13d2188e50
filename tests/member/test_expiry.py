"""How members leave (expired, stopped, killed, out of scope), and how they come back."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
from deployments import LIMIT, STEADY, wait_until
from members import Restless, Worker, member_in_a_task

from partition_actor import Settings
from partition_actor.core.member import MemberState

ITEMS = [f"item-{n}" for n in range(300)]
SOON = 30.0
"""Seconds: half of a steady lease, so no lease can have ended by then."""


def test_a_stopped_agent_leaves_after_its_ttl_and_comes_back_by_itself(hasty, group, spawn):
    agent = spawn(Worker, *hasty.worker_arguments("agent", group))
    pid = ray.get(agent.pid.remote(), timeout=LIMIT)
    other = hasty.member("other")
    other.join_group(group)
    wait_until(lambda: hasty.members(group) == ["agent", "other"])
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: hasty.members(group) == ["other"])
        wait_until(lambda: other.extract_my_subset(group, ITEMS) == ITEMS)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: hasty.members(group) == ["agent", "other"])
    wait_until(lambda: any("has rejoined" in line for line in ray.get(agent.log.remote(), timeout=LIMIT)))

    def shared():
        theirs, ours = ray.get(agent.subset.remote(ITEMS), timeout=LIMIT), other.extract_my_subset(group, ITEMS)
        return theirs and ours and sorted(theirs + ours) == sorted(ITEMS)

    wait_until(shared)


def test_a_worker_that_holds_its_gil_for_three_intervals_is_not_expired(make_deployment, group, spawn):
    settings = Settings()  # the default ones
    deployment = make_deployment(settings)
    deployment.deploy()
    agent = spawn(Worker, *deployment.worker_arguments("agent", group))
    other = deployment.member("other")
    other.join_group(group)
    wait_until(lambda: other.members(group) == ["agent", "other"])
    before = other.epoch(group)
    ray.get(agent.hold_gil.remote(3 * settings.hold), timeout=LIMIT)
    assert other.epoch(group) == before
    assert not any("has rejoined" in line for line in ray.get(agent.log.remote(), timeout=LIMIT))
    assert other.members(group) == ["agent", "other"]


def test_a_bare_caller_that_asks_no_more_expires(hasty, group):
    assert hasty.call("get_subset", group, "bare", ITEMS) == ITEMS
    wait_until(lambda: hasty.members(group) == [])
    assert not hasty.call("heartbeat", "bare")["known"]
    assert hasty.call("get_subset", group, "bare", ITEMS) == ITEMS


def test_when_the_partition_actor_is_away_a_subset_is_kept_until_the_lease_ends(make_deployment, group, caplog):
    deployment = make_deployment(Settings(ttl=6.0, hold=0.5))
    deployment.deploy()
    member = deployment.member("a")
    partition = member.partition(group, ITEMS)
    told = []
    partition.on_gained(lambda keys: told.append(("gained", keys)))
    partition.on_lost(lambda keys: told.append(("lost", keys)))
    member.join_group(group)
    wait_until(lambda: told == [("gained", ITEMS)])

    ray.kill(deployment.handle)
    wait_until(lambda: "cannot reach the partition actor" in caplog.text)
    assert member.extract_my_subset(group, ITEMS) == ITEMS
    assert member.members(group) == ["a"]
    wait_until(lambda: member.extract_my_subset(group, ITEMS) == [])
    assert not member.owns(group, ITEMS[0])
    assert member.fencing_token(group) == 0
    wait_until(lambda: told[1:] == [("lost", ITEMS)])

    deployment.deploy()
    wait_until(lambda: member.extract_my_subset(group, ITEMS) == ITEMS)
    wait_until(lambda: told[2:] == [("gained", ITEMS)])
    assert deployment.members(group) == ["a"]


def test_a_killed_worker_is_gone_long_before_its_lease_ends(make_deployment, group, spawn):
    deployment = make_deployment(STEADY)
    deployment.deploy()
    survivor = deployment.member("survivor")
    survivor.join_group(group)
    victim = spawn(Worker, *deployment.worker_arguments("victim", group))
    pid = ray.get(victim.pid.remote(), timeout=LIMIT)
    wait_until(lambda: survivor.members(group) == ["survivor", "victim"])
    assert deployment.call("status")["watched"] == 2

    # One that was forgotten and came back is watched as before.
    before = survivor.epoch(group)
    deployment.call("forget", group, "victim")
    wait_until(lambda: survivor.epoch(group) > before and survivor.members(group) == ["survivor", "victim"])
    wait_until(lambda: deployment.call("status")["watched"] == 2)

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: survivor.members(group) == ["survivor"], SOON)
    assert survivor.extract_my_subset(group, ITEMS) == ITEMS
    wait_until(lambda: deployment.call("status")["watched"] == 1)


ENDS = {
    "kill -9": lambda worker: os.kill(ray.get(worker[0].pid.remote()), signal.SIGKILL),
    "SIGTERM": lambda worker: os.kill(ray.get(worker[0].pid.remote()), signal.SIGTERM),
    "ray.kill": lambda worker: ray.kill(worker[0]),
    "exit_actor": lambda worker: worker[0].exit.remote(),
    "out of scope": lambda worker: (worker.clear(), gc.collect()),
}


@pytest.mark.parametrize("end", ENDS)
def test_however_a_worker_ends_its_keys_are_taken_over_soon_and_never_while_it_may_act(steady, group, tmp_path, end):
    survivor = steady.member("survivor")
    survivor.join_group(group, exclusive=True)
    arguments = (*steady.worker_arguments("victim", group), ITEMS[:5], str(tmp_path / "owned"))
    worker = [ray.remote(Restless).options(num_cpus=0).remote(*arguments)]
    theirs = []

    def shared():
        theirs[:] = [item for item in ITEMS[:5] if survivor.owner(group, item) == "victim"]
        return theirs and (tmp_path / "owned").exists() and (tmp_path / "owned").read_text()

    wait_until(shared)
    ENDS[end](worker)
    wait_until(lambda: any(survivor.owns(group, item) for item in theirs), SOON)
    taken = time.monotonic()
    wait_until(lambda: survivor.extract_my_subset(group, ITEMS) == ITEMS, SOON)
    wait_until(lambda: steady.call("status")["watched"] == 1)  # and so its process is no more
    assert float((tmp_path / "owned").read_text().split()[-1]) <= taken
    assert steady.members(group) == ["survivor"]


def test_a_worker_on_another_node_that_ends_in_an_orderly_way(steady, group, another_node):
    survivor = steady.member("survivor")
    survivor.join_group(group, exclusive=True)
    arguments = (*steady.worker_arguments("victim", group), [], "/dev/null")
    victim = ray.remote(Restless).options(num_cpus=0, resources={another_node: 0.001}).remote(*arguments)
    pid = ray.get(victim.pid.remote(), timeout=LIMIT)
    wait_until(lambda: survivor.members(group) == ["survivor", "victim"])
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: survivor.extract_my_subset(group, ITEMS) == ITEMS, SOON)


DRIVER = """
import sys, ray
from partition_actor import PartitionCoordinator
ray.init(address=sys.argv[1], log_to_driver=False)
coordinator = PartitionCoordinator("victim", sys.argv[2], sys.argv[3])
coordinator.start()
coordinator.join_group(sys.argv[4], exclusive=True)
sys.stdin.read()
"""


def test_a_driver_that_is_killed_is_gone_long_before_its_lease_ends(steady, group, cluster):
    survivor = steady.member("survivor")
    survivor.join_group(group, exclusive=True)
    command = [sys.executable, "-c", DRIVER, cluster.address_info["gcs_address"], steady.name, steady.namespace, group]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as driver:
        wait_until(lambda: survivor.members(group) == ["survivor", "victim"])
        driver.kill()
        wait_until(lambda: survivor.extract_my_subset(group, ITEMS) == ITEMS, SOON)
    wait_until(lambda: steady.call("status")["watched"] == 1)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_task_that_is_killed_is_gone_long_before_its_lease_ends(steady, group, another_node, tmp_path, elsewhere):
    survivor = steady.member("survivor")
    survivor.join_group(group, exclusive=True)
    where = {"resources": {another_node: 0.001}} if elsewhere else {}
    task = ray.remote(member_in_a_task).options(num_cpus=0, max_retries=0, **where)
    result = task.remote(*steady.worker_arguments("victim", group), str(tmp_path / "pid"))
    wait_until(lambda: survivor.members(group) == ["survivor", "victim"])
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    wait_until(lambda: survivor.extract_my_subset(group, ITEMS) == ITEMS, SOON)
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(result, timeout=LIMIT)


def test_a_watched_actor_works_undisturbed_and_ends_when_nobody_holds_it(make_deployment, group, tmp_path):
    deployment = make_deployment(STEADY)
    deployment.deploy()
    worker = ray.remote(Worker).options(num_cpus=0).remote(*deployment.worker_arguments("worker", group))
    wait_until(lambda: deployment.call("status")["watched"] == 1)

    # Its calls run in their order, those that wait behind a long one as well.
    end = tmp_path / "end"
    busy = worker.busy_until.remote(str(end))
    notes = [worker.note.remote(n) for n in range(50)]
    end.touch()
    ray.get([busy, *notes], timeout=LIMIT)
    assert ray.get(worker.noted.remote(), timeout=LIMIT) == list(range(50))

    del worker
    gc.collect()
    wait_until(lambda: deployment.members(group) == [], SOON)
    wait_until(lambda: deployment.call("status")["watched"] == 0)


def test_a_worker_that_stops_is_watched_no_longer(make_deployment, group, spawn):
    deployment = make_deployment(STEADY)
    deployment.deploy()
    worker = spawn(Worker, *deployment.worker_arguments("worker", group))
    wait_until(lambda: deployment.call("status")["watched"] == 1)
    ray.get(worker.stop.remote(), timeout=LIMIT)
    assert deployment.members(group) == []
    wait_until(lambda: deployment.call("status")["watched"] == 0)
    assert deployment.call("status")["sessions"] == 0
    assert ray.get(worker.subset.remote(ITEMS), timeout=LIMIT) == []  # it lives


def test_a_member_of_no_group_expires_too(hasty, group):
    hasty.handle.sync.remote(MemberState("idle", "one life", hasty.settings).request(0.0))
    wait_until(lambda: hasty.call("status")["sessions"] == 1)
    wait_until(lambda: hasty.call("status")["sessions"] == 0)
