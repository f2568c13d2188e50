"""Every call of the actor, by somebody who holds only its handle."""

import numpy as np
import pytest
import ray
from deployments import LIMIT
from members import BareWorker

from partition_actor import Settings
from partition_actor.errors import GroupFull, GroupModeConflict, GroupNotFound, InvalidArgument, MemberNotFound
from partition_actor.ring import Ring

ITEMS = [f"item-{n}" for n in range(200)]


def test_get_subset_alone_is_enough_to_write_a_worker(steady, group, spawn):
    workers = [spawn(BareWorker, steady.handle, f"worker-{n}") for n in range(2)]
    ray.get([worker.work.remote(group, ITEMS) for worker in workers])  # all are members after this
    subsets = ray.get([worker.work.remote(group, ITEMS) for worker in workers])
    assert sorted(subsets[0] + subsets[1]) == sorted(ITEMS)
    assert all(subsets)


def test_get_subset_keeps_the_order_and_repetitions_of_the_items(steady, group):
    items = ["b", "a", 3, "a", None, 2.5]
    assert steady.call("get_subset", group, "only", items) == items
    assert steady.call("get_subset", group, "only", []) == []


def test_get_subset_joins_with_a_weight_and_counts_as_a_heartbeat(steady, group):
    steady.call("get_subset", group, "a", [], weight=3)
    steady.call("get_subset", group, "b", [])
    mine = steady.call("get_subset", group, "a", ITEMS, 3)
    assert mine == Ring({"a": 3, "b": 1}).subset("a", ITEMS)
    assert steady.call("heartbeat", "a")["known"]


def test_join_returns_the_view(steady, group):
    first = steady.call("join", group, "a")
    second = steady.call("join", group, "b", weight=2, metadata={"zone": 1}, exclusive=False)
    assert first["members"] == {"a": 1}
    assert second["members"] == {"a": 1, "b": 2}
    assert second["exclusive"] is False
    assert second["epoch"] > first["epoch"]
    assert second["token"] > first["token"] > 0


def test_joining_again_changes_nothing_and_a_new_weight_makes_the_next_epoch(steady, group):
    first = steady.call("join", group, "a", 2)
    assert steady.call("join", group, "a", 2) == first
    heavier = steady.call("join", group, "a", 3)
    assert heavier["members"] == {"a": 3}
    assert heavier["epoch"] > first["epoch"]


def test_heartbeat_tells_the_epochs_and_when_the_next_is_due(steady, group):
    joined = steady.call("join", group, "lone", session="one life")
    for _ in range(2):
        reply = steady.call("heartbeat", "lone", "one life")
        assert reply["groups"] == {group: joined["epoch"]}
        assert 0 < reply["next"] < steady.settings.ttl
        assert reply["known"]


def test_heartbeat_of_one_who_never_joined_makes_nobody_a_member(steady):
    sessions = steady.call("status")["sessions"]
    assert steady.call("heartbeat", "stranger") == {"groups": {}, "next": steady.settings.hold, "known": False}
    assert steady.call("status")["sessions"] == sessions


def test_leave_returns_once_the_new_epoch_stands_and_may_be_repeated(steady, group):
    joined = [steady.call("join", group, name) for name in ("leaver", "b")][-1]
    steady.call("leave", group, "leaver")
    group_status = steady.call("status", group)
    assert group_status["epoch"] > joined["epoch"]
    assert steady.members(group) == ["b"]
    steady.call("leave", group, "leaver")
    assert steady.members(group) == ["b"]
    assert not steady.call("heartbeat", "leaver")["known"]


def test_the_last_member_leaves_just_after_it_joined(steady, group):
    calls = [getattr(steady.handle, method).remote(group, "last") for method in ("join", "leave")]
    assert ray.get(calls, timeout=LIMIT)[1] is None
    assert steady.members(group) == []


def test_leaving_one_group_keeps_the_other(steady, group):
    for name in (group, group + "-2"):
        steady.call("join", name, "a-in-two")
    steady.call("leave", group, "a-in-two")
    assert list(steady.call("heartbeat", "a-in-two")["groups"]) == [group + "-2"]


def test_lists_are_sorted(steady, group):
    for name in ("c", "a", "b"):
        steady.call("join", group, name)
    steady.call("join", "0" + group, "a")
    assert steady.members(group) == ["a", "b", "c"]
    groups = steady.call("get_groups")
    assert groups == sorted(groups)
    assert {group, "0" + group} <= set(groups)


def test_get_owner_is_the_rings(steady, group):
    for name in ("a", "b", "c"):
        steady.call("join", group, name)
    ring = Ring(["a", "b", "c"])
    for key in (*ITEMS[:20], 7, None, ("x", 1)):
        assert steady.call("get_owner", group, key) == ring.owner(key)


def test_get_owner_in_an_empty_group_is_none(steady, group):
    steady.call("join", group, "a")
    steady.call("leave", group, "a")
    assert steady.call("get_owner", group, "key") is None
    assert steady.members(group) == []


def test_status_has_what_an_operator_asks(steady, group):
    steady.call("join", group, "a", 2, {"zone": "north"})
    status = steady.call("status")
    assert status["name"] == steady.name
    assert status["settings"] == steady.settings.to_dict()
    assert status["node"] == ray.get_runtime_context().get_node_id()
    (member,) = steady.call("status", group)["members"]
    assert (member["id"], member["weight"], member["metadata"]) == ("a", 2, {"zone": "north"})
    assert member["share"] == pytest.approx(1.0)
    assert 0 < member["lease"] <= steady.settings.ttl * (1 + steady.settings.clock_rate_margin)
    (summary, details) = (status["groups"][group], steady.call("status", group))
    assert (summary["members"], summary["waiting"]) == (1, 0)
    assert {"name": group, **summary} == {**details, "members": 1, "waiting": 0}


@pytest.mark.parametrize("asked", ["", 5, b"group"])
def test_status_of_a_group_with_no_such_name_is_refused(steady, asked):
    with pytest.raises(InvalidArgument, match="group"):
        steady.call("status", asked)
    with pytest.raises(GroupNotFound):
        steady.call("status", "no such group")


def test_forget_takes_a_member_off_the_ring_and_it_may_come_back(steady, group):
    for name in ("a", "b"):
        steady.call("join", group, name)
    epoch = steady.call("forget", group, "a")
    assert steady.call("status", group)["epoch"] == epoch
    assert steady.members(group) == ["b"]
    with pytest.raises(MemberNotFound):
        steady.call("forget", group, "a")
    steady.call("get_subset", group, "a", [])
    assert steady.members(group) == ["a", "b"]


def test_drain_keeps_a_member_out_until_it_joins_anew(steady, group):
    for name in ("a", "b"):
        steady.call("join", group, name)
    epoch = steady.call("drain", group, "a")
    assert steady.call("status", group)["epoch"] == epoch
    assert steady.call("get_subset", group, "a", ITEMS) == []
    assert steady.members(group) == ["b"]
    with pytest.raises(MemberNotFound):
        steady.call("drain", group, "a")
    steady.call("join", group, "a")
    assert steady.members(group) == ["a", "b"]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("leave", ["a"]),
        ("get_members", []),
        ("get_owner", ["key"]),
        ("forget", ["a"]),
        ("drain", ["a"]),
    ],
)
def test_a_group_never_made_is_told_by_name(steady, group, method, arguments):
    with pytest.raises(GroupNotFound, match=group):
        steady.call(method, group, *arguments)
    assert group not in steady.call("get_groups")


@pytest.mark.parametrize("method", ["forget", "drain"])
def test_a_member_that_is_not_there_is_told_by_name(steady, group, method):
    steady.call("join", group, "a")
    with pytest.raises(MemberNotFound, match="'stranger'"):
        steady.call(method, group, "stranger")
    assert steady.members(group) == ["a"]


def test_sessions_under_one_id_are_told_apart(steady, group):
    steady.call("join", group, "a", session="old")
    steady.call("join", group, "a", session="new")
    assert steady.members(group) == ["a"]
    assert steady.call("get_subset", group, "a", ITEMS, session="new") == ITEMS
    steady.call("leave", group, "a", session="old")
    assert steady.members(group) == ["a"]


def test_a_mode_conflict_names_both_modes_and_leaves_nothing_behind(steady, group):
    steady.call("join", group, "a", exclusive=False)
    before = steady.call("status")
    with pytest.raises(GroupModeConflict, match=r"is not exclusive.* says that it is exclusive"):
        steady.call("join", group, "newcomer", exclusive=True)
    with pytest.raises(GroupModeConflict):
        steady.call("join", group, "a", exclusive=True)
    after = steady.call("status")
    assert after["sessions"] == before["sessions"]
    assert after["groups"][group]["epoch"] == before["groups"][group]["epoch"]


def test_a_full_partition_actor_refuses_and_has_room_again_after_a_leave(make_deployment):
    small = make_deployment(Settings(ttl=60.0, hold=1.0, max_members=2))
    small.deploy()
    for name in ("a", "b"):
        small.call("join", "group", name)
    for method, arguments in (("join", []), ("get_subset", [[]])):
        with pytest.raises(GroupFull, match="max_members is 2"):
            small.call(method, "group", "c", *arguments)
    with pytest.raises(GroupFull):
        small.call("join", "another", "c")
    assert small.members("group") == ["a", "b"]
    assert small.call("get_groups") == ["group"]
    small.call("join", "group", "a", 2)  # who is in may go on as before
    small.call("leave", "group", "a")
    assert small.call("join", "group", "c")["members"] == {"b": 1, "c": 1}


def test_held_heartbeats_are_not_walked_through_again_and_again_for_cycles(hasty):
    def after(_actor):
        import gc

        return gc.get_threshold()

    allocations, searches, _ = ray.get(hasty.handle.__ray_call__.remote(after))
    assert allocations >= 2_000
    assert searches >= 1_000_000  # of young objects, before those that outlived one are searched again


def test_keys_may_be_an_array_or_a_reference(steady, group):
    pa = pytest.importorskip("pyarrow")
    for name in ("a", "b"):
        steady.call("join", group, name)
    keys = [f"key-{number}" for number in range(10_000)]
    mine = Ring(["a", "b"]).subset("a", keys)
    for items in (keys, np.array(keys), pa.array(keys), pa.chunked_array([keys])):
        for given_items in (items, ray.put(items)):
            answer = steady.call("get_subset", group, "a", given_items)
            assert type(answer) is type(items)
            assert list(map(str, answer)) == mine
