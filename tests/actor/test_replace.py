"""``deploy(replace=True)`` on a real cluster: nobody loses a key, whatever fails on the way."""

import asyncio
import threading
import time

import pytest
import ray
from deployments import HASTY, LIMIT, STEADY, wait_until
from members import ExclusiveWorker

import partition_actor
from partition_actor import Settings, deployment
from partition_actor.actor import predecessor
from partition_actor.errors import InvalidArgument, InvalidSettings, PartitionActorReplaced, PartitionActorUnavailable
from partition_actor.settings import told

KEYS = [f"key-{number}" for number in range(60)]


@pytest.fixture
def steady(make_deployment):
    """One for each test, as they all replace it."""
    deployment = make_deployment(STEADY)
    deployment.deploy()
    return deployment


def replace(steady, settings=None):
    steady.handle = partition_actor.deploy(steady.name, steady.namespace, settings, replace=True)
    return steady.handle


def shares(workers):
    return [sorted(each) for each in ray.get([worker.subset.remote(KEYS) for worker in workers], timeout=LIMIT)]


@pytest.fixture
def workers(steady, group, spawn):
    made = [spawn(ExclusiveWorker, steady.name, steady.namespace, f"w{number}", group) for number in range(3)]
    wait_until(lambda: sum(map(len, shares(made))) == len(KEYS) and all(shares(made)))
    return made


def test_no_key_moves_and_no_lease_lapses(steady, group, workers):
    before, seen, done = shares(workers), [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(shares(workers))

    watcher = threading.Thread(target=watch)
    watcher.start()
    former, epoch = steady.call("status"), steady.call("status", group)["epoch"]
    replace(steady)
    newcomer = steady.member("newcomer")  # it, too, finds the next one by the name
    newcomer.join_group("another group")
    assert steady.call("status")["pid"] != former["pid"]
    wait_until(lambda: steady.call("status")["heartbeats"] >= len(workers))
    done.set()
    watcher.join()
    assert len(seen) > 2
    assert all(each == before for each in seen)
    assert steady.call("status", group)["epoch"] == epoch
    wait_until(lambda: _watched(steady, group) == ["actor"] * len(workers))


def _watched(steady, group):
    return [member["watched_by"] for member in steady.call("status", group)["members"]]


def test_a_member_that_dies_after_it_is_replaced_within_moments(steady, group, workers):
    replace(steady)
    wait_until(lambda: _watched(steady, group) == ["actor"] * len(workers))
    ray.kill(workers[0])
    wait_until(lambda: sum(map(len, shares(workers[1:]))) == len(KEYS))
    assert [event["what"] for event in steady.call("events", 0, group)["events"]][-2:].count("died") == 1


def test_locks_and_metadata_stay(steady, group):
    holder, other = steady.member("a"), steady.member("b")
    holder.join_group(group, metadata={"zone": 1})
    lock = holder.lock(group)
    assert lock.acquire()
    replace(steady)
    assert steady.call("get_metadata", group) == {"a": {"zone": 1}}
    assert not other.lock(group).acquire(blocking=False)
    assert lock.held
    lock.release()
    assert other.lock(group).acquire(timeout=LIMIT)


def test_a_bare_caller_finds_the_next_one_by_the_name(steady, group):
    former = steady.handle
    mine = steady.call("get_subset", group, "bare", KEYS)
    replace(steady)
    assert steady.call("get_subset", group, "bare", KEYS) == mine == KEYS
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(former.get_subset.remote(group, "bare", KEYS), timeout=LIMIT)


def test_other_settings_come_in_and_those_that_move_keys_do_not(steady, group):
    member = steady.member("a")
    member.join_group(group)
    changed = Settings(**{**STEADY.to_dict(), "ttl": 50.0, "max_members": 123})
    replace(steady, changed)
    assert told(steady.call("hello")) == changed.to_dict()
    assert steady.call("get_members", group) == ["a"]
    with pytest.raises(InvalidSettings, match=r"vnodes: got 7, expected .* keys would move"):
        replace(steady, Settings(**{**STEADY.to_dict(), "vnodes": 7}))
    replace(steady)
    assert told(steady.call("hello")) == changed.to_dict()
    ray.kill(steady.handle, no_restart=False)  # Ray restarts it with what it began with
    assert told(wait_until(lambda: _answers(steady, "hello"))) == changed.to_dict()


def test_new_code_that_does_not_start_leaves_the_old_one_as_it_is(steady, group, workers, monkeypatch):
    def broken(settings, form, state):
        raise ImportError("no module named pydantic")

    before, pid = shares(workers), steady.call("status")["pid"]
    monkeypatch.setattr(deployment, "_start_new_code", broken)
    with pytest.raises(PartitionActorUnavailable, match=r"does not start, and the old one goes on.*pydantic"):
        replace(steady)
    monkeypatch.setattr(deployment, "_start_new_code", lambda settings, form, state: 99)
    with pytest.raises(PartitionActorUnavailable, match=r"takes over states of form 99, .* hands over form 1"):
        replace(steady)
    assert (steady.call("status")["pid"], shares(workers)) == (pid, before)


def test_a_state_that_nobody_comes_for_is_taken_by_the_restarted_one(steady, group, workers):
    """As when whoever replaces it dies half way."""
    before, epoch = shares(workers), steady.call("status", group)["epoch"]
    steady.call("hand_over")
    steady.call("hand_over")
    with pytest.raises(PartitionActorReplaced):
        steady.call("get_members", group)
    ray.kill(steady.handle, no_restart=False)
    wait_until(lambda: _answers(steady, "get_members", group))
    assert not steady.call("status")["recovering"]
    assert (shares(workers), steady.call("status", group)["epoch"]) == (before, epoch)
    steady.handle = partition_actor.connect(steady.name, steady.namespace)


def _answers(steady, *call):
    try:
        return steady.call(*call)
    except (PartitionActorUnavailable, ray.exceptions.RayError):
        return None


def test_several_that_replace_it_at_once_end_with_one(steady, group, workers):
    before = shares(workers)
    threads = [threading.Thread(target=_replaced_from_a_task, args=(steady,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    steady.handle = partition_actor.connect(steady.name, steady.namespace)
    wait_until(lambda: steady.call("status")["heartbeats"] >= len(workers))
    assert shares(workers) == before


def _replaced_from_a_task(steady):
    name, namespace = steady.name, steady.namespace
    task = ray.remote(lambda: partition_actor.deploy(name, namespace, replace=True) and None).options(num_cpus=0)
    ray.get(task.remote(), timeout=LIMIT)


def test_where_none_runs_one_is_deployed(make_deployment):
    deployment = make_deployment(STEADY)
    replace(deployment, STEADY)
    assert deployment.call("status")["sessions"] == 0
    with pytest.raises(InvalidArgument, match="replace: got 1, expected True or False"):
        partition_actor.deploy(deployment.name, deployment.namespace, replace=1)


def test_joins_go_on_while_it_is_replaced(steady, group):
    """Callers by the name wait about as long as Ray needs to start a process."""
    joined, done = [], threading.Event()

    def join():
        while not done.is_set():
            try:
                handle = ray.get_actor(steady.name, steady.namespace)
                ray.get(handle.join.remote(group, f"m{len(joined)}"), timeout=LIMIT)
                joined.append(time.monotonic())
            except (ValueError, PartitionActorUnavailable, ray.exceptions.RayActorError):
                time.sleep(0.001)

    thread = threading.Thread(target=join)
    thread.start()
    wait_until(lambda: joined)
    replace(steady)
    count = len(joined)
    wait_until(lambda: len(joined) > count)
    done.set()
    thread.join()
    assert len(steady.members(group)) == len(joined)


def test_settings_that_are_none_stop_nothing(steady):
    with pytest.raises(InvalidSettings, match="ttl: got -1"):
        steady.call("hand_over", {"ttl": -1})
    assert steady.call("get_groups") == []


def test_a_state_that_the_gcs_would_not_take_in_is_told_before_anything_stops(kept, monkeypatch):
    kept.check_size({"metadata": b"m" * 1000})
    monkeypatch.setattr(predecessor, "LARGEST_STATE", 999)
    with pytest.raises(PartitionActorUnavailable, match=r"the state has 10\d\d bytes, and the GCS takes at most 999"):
        kept.check_size({"metadata": b"m" * 1000})


def test_a_router_goes_on(team):
    router = team.add("a", "b").router()
    owners = {key: router.owner(key) for key in KEYS}
    replace(team.deployment)
    late = team.router()
    for key in KEYS:
        assert [each.get(each.call(key, "who", key))[:2] for each in (router, late)] == [(owners[key], key)] * 2


def test_what_was_left_is_taken_once_and_only_by_the_next_life(kept):
    async def story():
        first, second, third = kept(), kept(), kept()
        assert second.take_over(1) is None
        assert await first.add_lease(1.0)
        assert await first.hand_over(1, first.known(), {"sessions": []})
        assert second.take_over(1) == {"sessions": []}
        assert second.take_over(1) is None
        assert await first.hand_over(2, first.known(), {})
        assert second.take_over(1) is None  # of another form
        assert await first.hand_over(1, first.known(), {})
        assert await second.add_lease(1.0)
        assert third.take_over(1) is None  # the second one has granted leases since

    asyncio.run(story())


def test_whoever_deploys_meanwhile_it_runs_with_the_settings_of_the_one_before(make_deployment, group, spawn):
    """A ring of other virtual nodes would give keys to others while their owners still work on them."""
    settings = Settings(**{**STEADY.to_dict(), "vnodes": 7, "handoff_timeout": 33.0})
    deployment = make_deployment(settings)
    deployment.deploy()
    workers = [
        spawn(ExclusiveWorker, deployment.name, deployment.namespace, f"w{number}", group) for number in range(2)
    ]
    wait_until(lambda: sum(map(len, shares(workers))) == len(KEYS) and all(shares(workers)))
    before = shares(workers)
    deployment.call("hand_over")
    ray.kill(deployment.handle, no_restart=True)
    deployment.handle = partition_actor.deploy(deployment.name, deployment.namespace)
    assert deployment.call("status", group)["members"]
    assert told(deployment.call("hello")) == settings.to_dict()
    wait_until(lambda: deployment.call("status")["heartbeats"] >= len(workers))
    assert shares(workers) == before
    ray.kill(deployment.handle, no_restart=False)
    assert told(wait_until(lambda: _answers(deployment, "hello"))) == settings.to_dict()


def test_settings_that_change_while_the_new_code_is_tried_out_stay(steady, monkeypatch):
    tried = deployment._try_out

    def slowly(*arguments):
        steady.call("configure", {"handoff_timeout": 44.0})
        tried(*arguments)

    monkeypatch.setattr(deployment, "_try_out", slowly)
    replace(steady)
    assert told(steady.call("hello"))["handoff_timeout"] == 44.0


def test_one_that_crashes_while_the_new_code_is_tried_out_is_still_replaced(make_deployment, monkeypatch):
    """Ray restarts it, and that one hands over: it knows what its members have reported."""
    hasty = make_deployment(HASTY)
    hasty.deploy()
    tried, crashed = deployment._try_out, []

    def crash(*arguments):
        if not crashed:
            ray.kill(hasty.handle, no_restart=False)
            crashed.append(1)
        tried(*arguments)

    monkeypatch.setattr(deployment, "_try_out", crash)
    former = hasty.handle
    replace(hasty)
    assert hasty.handle._actor_id != former._actor_id
    started = [event["why"] for event in hasty.call("events")["events"] if event["what"] == "started"]
    assert any("goes on for a former one" in why for why in started)
