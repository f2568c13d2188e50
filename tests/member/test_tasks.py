"""Ray tasks that are members while they run, in worker processes that are used again."""

import os
import sys
import time
from pathlib import Path

import pytest
import ray
from deployments import LIMIT, wait_until
from sharing import KEYS, SOON, owned

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Agent:
    """An object that has a coordinator, whose callbacks are its own methods."""

    def __init__(self, coordinator, group):
        self.coordinator, self.told = coordinator, []
        coordinator.start()
        coordinator.join_group(group, exclusive=True)
        coordinator.watch_group(group, self.on_event)
        self.partition = coordinator.partition(group, KEYS)
        self.partition.on_gained(self.on_event)
        self.partition.on_lost(self.on_event)
        self.lock = coordinator.lock(group)
        assert self.lock.acquire(timeout=60.0)

    def on_event(self, event):
        self.told.append((event, self.coordinator.my_id))


def run(how, where, my_id, group, path):
    """A task. Without `how` it waits until a file of this name exists; else it is a member that forgets to stop."""
    from partition_actor import PartitionCoordinator

    if how is None:
        while not Path(path).exists():
            time.sleep(0.01)
        return os.getpid()
    coordinator = PartitionCoordinator(my_id, *where)
    if how == "with callbacks":
        agent = Agent(coordinator, group)
        while not agent.partition.keys():
            time.sleep(0.01)
        return os.getpid()
    coordinator.start()
    coordinator.join_group(group, exclusive=True)
    if how == "raises":
        raise ValueError(str(os.getpid()))
    return os.getpid()


def pid_of(first):
    try:
        return ray.get(first, timeout=LIMIT)
    except ray.exceptions.RayTaskError as error:
        return int(error.cause.args[0])


@pytest.mark.parametrize("how", ["returns", "raises", "with callbacks"])
def test_a_task_that_forgets_to_stop_is_no_member_when_it_has_returned(steady, group, tmp_path, how):
    other = steady.member("other")
    other.join_group(group, exclusive=True)
    # Both CPUs, so the second task waits for the first, and Ray gives it the same process.
    task = ray.remote(run).options(num_cpus=2, max_retries=0)
    where, end = (steady.name, steady.namespace), tmp_path / "end"
    for attempt in range(10):
        arguments = (where, f"task-{attempt}", group, str(end))
        first, second = task.remote(how, *arguments), task.remote(None, *arguments)
        try:
            pid = pid_of(first)
            wait_until(lambda: owned(other, group) == KEYS, SOON)
            wait_until(lambda: steady.members(group) == ["other"], SOON)
            assert other.lock(group).acquire(timeout=SOON)
            assert not ray.wait([second], timeout=0)[0]
        finally:
            end.touch()
        if ray.get(second, timeout=LIMIT) == pid:  # its process lived on all the time
            break
        end.unlink()
    else:
        pytest.fail("Ray never used the process again")


def test_tasks_one_after_another_in_one_process_are_members_each_as_long_as_it_runs(steady, group):
    """Under one id, as tasks of one program are."""
    other = steady.member("other")
    other.join_group(group, exclusive=True)
    task = ray.remote(run).options(num_cpus=2, max_retries=0)
    arguments = ("returns", (steady.name, steady.namespace), "task", group, "")
    pids = ray.get([task.remote(*arguments) for _ in range(4)], timeout=LIMIT)
    wait_until(lambda: owned(other, group) == KEYS, SOON)
    wait_until(lambda: steady.members(group) == ["other"], SOON)
    assert len(pids) == 4


def test_an_actor_stays_a_member_between_its_calls(steady, group, spawn):
    class Worker:
        def join(self, where, group):
            from partition_actor import PartitionCoordinator

            self.coordinator = PartitionCoordinator("actor", *where)
            self.coordinator.start()
            self.coordinator.join_group(group, exclusive=True)

        def subset(self, group):
            return len(self.coordinator.extract_my_subset(group, KEYS))

    worker = spawn(Worker)
    ray.get(worker.join.remote((steady.name, steady.namespace), group), timeout=LIMIT)
    assert ray.get(worker.subset.remote(group), timeout=LIMIT) == len(KEYS)
    epoch = steady.call("status", group)["epoch"]
    assert ray.get(worker.subset.remote(group), timeout=LIMIT) == len(KEYS)
    assert steady.call("status", group)["epoch"] == epoch
