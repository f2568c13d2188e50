"""``PartitionCoordinator`` on a real cluster, in every kind of process."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter

import pytest
import ray
import xxhash
from deployments import LIMIT, wait_until
from members import AsyncWorker, Worker, task_of_a_member
from uhashring import HashRing

from partition_actor import PartitionCoordinator, Ring, Settings
from partition_actor.errors import GroupFull, GroupModeConflict, NotStarted, SessionSuperseded

ITEMS = [f"item-{n}" for n in range(300)]
BRIEF = Settings(call_timeout=0.2)

IN_ANOTHER_PROCESS = """
import json, sys, xxhash
from uhashring import HashRing
from partition_actor import Ring
members, keys = json.load(sys.stdin)
ring = HashRing(
    nodes={member: {"weight": 1} for member in members},
    vnodes=160,
    hash_fn=lambda text: xxhash.xxh3_64_intdigest(text.encode()),
)
ours = Ring(members)
subsets = {member: [key for key in keys if ring.get_node(key) == member] for member in members}
assert subsets == {member: ours.subset(member, keys) for member in members}
json.dump([hash("key"), subsets], sys.stdout)
"""


def subset_of_all(members, group, items):
    """Each member's subset, once each of them knows all members."""
    names = sorted(member.my_id for member in members)
    wait_until(lambda: all(member.members(group) == names for member in members))
    return {member.my_id: member.extract_my_subset(group, items) for member in members}


def test_ten_workers_share_ten_thousand_keys_as_uhashring_does_in_every_process(steady, group):
    keys = [f"key-{n}" for n in range(10_000)]
    members = [steady.member(f"worker-{n}") for n in range(10)]
    for member in members:
        member.join_group(group)
    subsets = subset_of_all(members, group, keys)

    assert Counter(key for subset in subsets.values() for key in subset) == Counter(keys)
    reference = HashRing(
        nodes={name: {"weight": 1} for name in sorted(subsets)},
        vnodes=160,
        hash_fn=lambda text: xxhash.xxh3_64_intdigest(text.encode()),
    )
    assert subsets == {name: [key for key in keys if reference.get_node(key) == name] for name in subsets}
    assert subsets == {name: steady.call("get_subset", group, name, keys, session="bare") for name in subsets}

    other = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=json.dumps([sorted(subsets), keys]),
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )
    its_hash, its_subsets = json.loads(other.stdout)
    assert its_hash != hash("key")  # else it is no other process in this respect
    assert its_subsets == subsets


def test_sync_and_threaded_actors_stay_members_while_they_are_busy(make_deployment, group, spawn, tmp_path):
    deployment = make_deployment(Settings(ttl=4.0, hold=0.5))
    deployment.deploy()
    sync = spawn(Worker, *deployment.worker_arguments("sync", group))
    threaded = spawn(Worker, *deployment.worker_arguments("threaded", group), max_concurrency=3)
    ray.get([sync.pid.remote(), threaded.pid.remote()], timeout=LIMIT)
    before = deployment.call("status", group)
    assert [member["id"] for member in before["members"]] == ["sync", "threaded"]

    end = tmp_path / "end"
    calls = [worker.busy_until.remote(str(end)) for worker in (sync, threaded)]
    try:
        mine = ray.get(threaded.subset.remote(ITEMS), timeout=LIMIT)  # in another of its threads
        assert mine == Ring(["sync", "threaded"]).subset("threaded", ITEMS)
        after = wait_until(
            lambda: (
                deployment.call("status")["uptime"] > before["members"][1]["age"] + 8.0
                and deployment.call("status", group)
            )
        )
        assert not ray.wait(calls, num_returns=2, timeout=0)[0]
    finally:
        end.touch()
    assert after["epoch"] == before["epoch"]  # one that had expired and come back would have made others
    ray.get(calls, timeout=LIMIT)
    assert sorted(ray.get(sync.subset.remote(ITEMS), timeout=LIMIT) + mine) == sorted(ITEMS)


def test_an_asyncio_actor_goes_on_while_it_waits_for_the_partition_actor(steady, group, spawn):
    worker = spawn(AsyncWorker, *steady.worker_arguments("asyncio", group))
    mine, turned = ray.get(worker.work.remote(ITEMS), timeout=LIMIT)
    assert mine == ITEMS
    assert all(turned)
    assert steady.members(group) == []


def test_a_task_is_a_member_as_long_as_it_runs(steady, group):
    task = ray.remote(task_of_a_member).options(num_cpus=0)
    arguments = steady.worker_arguments("task", group)
    assert ray.get(task.remote(*arguments, ITEMS), timeout=LIMIT) == (ITEMS, ["task"])
    assert steady.members(group) == []


def test_a_driver_with_a_handle_in_place_of_a_name(steady, group):
    with PartitionCoordinator("driver", steady.handle) as member:
        assert member.is_active()
        assert member.extract_my_subset(group, ITEMS) == ITEMS
    assert not member.is_active()
    assert steady.members(group) == []


def test_extract_joins_and_joining_twice_is_fine(steady, group):
    member = steady.member("a")
    assert member.extract_my_subset(group, ["x"]) == ["x"]
    epoch = member.epoch(group)
    member.join_group(group)
    member.join_group(group)
    member.heartbeat()
    assert member.extract_my_subset(group, ["x"]) == ["x"]
    assert (member.epoch(group), member.members(group)) == (epoch, ["a"])


@pytest.mark.parametrize("nothing", ["", None])
def test_without_a_group_nothing_is_joined_and_the_iterable_comes_back(steady, nothing):
    groups = steady.call("get_groups")
    member = steady.member("a")
    items = iter(ITEMS)
    assert member.extract_my_subset(nothing, items) is items
    member.join_group(nothing)
    member.leave_group(nothing)
    assert steady.call("get_groups") == groups


def test_what_a_member_says_of_its_group(steady, group):
    a, b = steady.member("a"), steady.member("b")
    a.join_group(group, weight=2)
    first = a.fencing_token(group)
    b.join_group(group)
    subset_of_all([a, b], group, [])
    ring = Ring({"a": 2, "b": 1})
    for item in ITEMS[:50]:
        assert a.owner(group, item) == ring.owner(item)
        assert a.owns(group, item) == (ring.owner(item) == "a")
    assert a.epoch(group) == b.epoch(group) == steady.call("status", group)["epoch"]
    assert a.fencing_token(group) == b.fencing_token(group) > first > 0
    assert list(a.partition(group, ITEMS)) == ring.subset("a", ITEMS)


def test_a_member_of_another_group_knows_nothing_of_this_one(steady, group):
    member = steady.member("a")
    assert (member.members(group), member.owner(group, "x"), member.epoch(group)) == ([], None, None)
    assert not member.owns(group, "x")
    assert member.fencing_token(group) == 0
    assert list(member.partition(group, ITEMS)) == []


def test_leaving_gives_the_keys_back_and_joining_again_is_fine(steady, group):
    a, b = steady.member("a"), steady.member("b")
    for member in (a, b):
        member.join_group(group)
    subset_of_all([a, b], group, [])
    b.leave_group(group)
    assert b.members(group) == []
    wait_until(lambda: a.extract_my_subset(group, ITEMS) == ITEMS)
    b.leave_group(group)
    b.join_group(group)
    subsets = subset_of_all([a, b], group, ITEMS)
    assert sorted(subsets["a"] + subsets["b"]) == sorted(ITEMS)


def test_before_start_it_says_so_and_after_stop_it_owns_nothing(steady, group):
    member = PartitionCoordinator("a", steady.name, steady.namespace)
    assert not member.is_active()
    for call in (member.join_group, member.members, member.epoch, member.fencing_token):
        with pytest.raises(NotStarted, match="'a'"):
            call(group)
    for call in (member.extract_my_subset, member.partition):
        with pytest.raises(NotStarted, match="start"):
            call(group, ITEMS)
    member.heartbeat()
    member.leave_group(group)
    member.stop()
    with member:
        assert member.extract_my_subset(group, ITEMS) == ITEMS
    member.stop()
    assert member.extract_my_subset(group, ITEMS) == []
    assert not member.owns(group, "x")
    with member:
        assert member.extract_my_subset(group, ITEMS) == ITEMS


def test_a_partition_actor_that_cannot_be_reached_at_start_is_logged_and_found_later(make_deployment, group, caplog):
    deployment = make_deployment()
    member = deployment.member("early", settings=BRIEF)
    assert member.is_active()
    wait_until(lambda: "cannot reach the partition actor" in caplog.text)
    assert "there is no partition actor" in caplog.text
    assert member.extract_my_subset(group, ITEMS) == []
    partition = member.partition(group, ITEMS)
    member.heartbeat()
    deployment.settings = Settings(hash_function="md5")  # other than the member thinks so far
    deployment.deploy()
    wait_until(lambda: member.extract_my_subset(group, ITEMS) == ITEMS)
    assert list(partition) == ITEMS
    assert deployment.members(group) == ["early"]


def test_a_forgotten_member_comes_back_by_itself_and_logs_it(steady, group, caplog):
    member = steady.member("forgotten")
    member.join_group(group)
    before = member.epoch(group)
    steady.call("forget", group, "forgotten")
    wait_until(lambda: "has rejoined" in caplog.text)
    assert "'forgotten'" in caplog.text
    assert member.epoch(group) > before
    assert member.extract_my_subset(group, ITEMS) == ITEMS
    assert steady.members(group) == ["forgotten"]


def test_a_drained_member_stays_out_until_it_joins_anew(steady, group, caplog):
    caplog.set_level(logging.INFO)
    member = steady.member("drained")
    member.join_group(group)
    steady.call("drain", group, "drained")
    wait_until(lambda: "is out of group" in caplog.text)
    assert not member.owns(group, "x")
    assert member.extract_my_subset(group, ITEMS) == []
    assert steady.members(group) == []
    member.join_group(group)
    assert steady.members(group) == ["drained"]


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_mode_conflict_names_both_modes_and_disturbs_nobody(steady, group, exclusive):
    first, second = steady.member("first"), steady.member("second")
    first.join_group(group, exclusive=exclusive)
    epoch = first.epoch(group)
    expected = r"is exclusive .* it is not exclusive" if exclusive else r"is not exclusive .* it is exclusive"
    for member in (second, first):
        with pytest.raises(GroupModeConflict, match=expected):
            member.join_group(group, exclusive=not exclusive)
    assert second.extract_my_subset(group, ITEMS) == []
    assert first.extract_my_subset(group, ITEMS) == ITEMS
    assert first.epoch(group) == epoch
    second.join_group(group)
    assert steady.members(group) == ["first", "second"]


def test_another_process_under_the_same_id_takes_over(steady, group, caplog):
    first = steady.member("same")
    first.join_group(group)
    second = steady.member("same")
    second.join_group(group)
    assert second.extract_my_subset(group, ITEMS) == ITEMS
    wait_until(lambda: first.extract_my_subset(group, ITEMS) == [])
    assert not first.owns(group, ITEMS[0])
    with pytest.raises(SessionSuperseded, match=f"'same'.*{group}"):
        first.join_group(group)
    wait_until(lambda: "another process has taken the id 'same'" in caplog.text)
    assert steady.members(group) == ["same"]
    first.stop()
    assert second.extract_my_subset(group, ITEMS) == ITEMS


def test_a_full_partition_actor_refuses_a_member_and_has_room_after_another_stops(make_deployment, group):
    deployment = make_deployment(Settings(ttl=60.0, hold=1.0, max_members=2))
    deployment.deploy()
    a, b, c = (deployment.member(name) for name in "abc")
    for member in (a, b):
        member.join_group(group)
    with pytest.raises(GroupFull, match=r"'c'.*max_members is 2"):
        c.join_group(group)
    subsets = subset_of_all([a, b], group, ITEMS)
    assert sorted(subsets["a"] + subsets["b"]) == sorted(ITEMS)
    a.stop()

    def joined():
        try:
            return c.extract_my_subset(group, ITEMS)
        except GroupFull:
            return None

    wait_until(joined)
    assert deployment.members(group) == ["b", "c"]
