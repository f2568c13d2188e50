"""Calls to the owner of a key when owners die, nobody owns it, too many calls are made, or arguments are wrong."""

import asyncio
import os
import signal
import sys
import threading

import pytest
import ray
from deployments import LIMIT, wait_until
from teams import KEYS, Shared

from partition_actor import Ring, Router, Settings, errors

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_dead_owners_call_may_have_run(team, tmp_path):
    router = team.add("a", "b", "c", "d").router()
    for number, call in enumerate(
        [
            lambda key, marker: router.get(router.call(key, "die_once", key, marker)),
            lambda key, marker: asyncio.run(router.acall(key, "die_once", key, marker)),
        ]
    ):
        with pytest.raises(errors.CallMayHaveRun):
            call(KEYS[number], str(tmp_path / f"died-{number}"))


def test_what_is_safe_to_repeat_is_repeated_by_the_next_owner(team, tmp_path):
    router = team.add("a", "b", "c", "d").router(repeatable=["die_once"])
    for number, call in enumerate(
        [
            lambda key, marker: router.get(router.call(key, "die_once", key, marker)),
            lambda key, marker: asyncio.run(router.acall(key, "die_once", key, marker)),
        ]
    ):
        key, marker = KEYS[number], str(tmp_path / f"died-{number}")
        before = router.owner(key)
        assert call(key, marker) == router.owner(key) != before


def test_calls_after_an_owners_death_go_to_its_successor(team):
    router = team.add("a", "b").router()
    key = KEYS[0]
    dead = router.owner(key)
    team.kill(dead)
    wait_until(lambda: router.owner(key) != dead)
    assert router.get(router.call(key, "who", key))[0] == router.owner(key)


def test_without_a_group_a_call_waits_and_then_raises_no_owner(team):
    impatient = team.router(timeout=0.2)
    for call in (
        lambda: impatient.call("key", "who", "key"),
        lambda: asyncio.run(impatient.acall("key", "who", "key")),
        lambda: list(impatient.map("each", KEYS)),
        lambda: impatient.actor("key"),
    ):
        with pytest.raises(errors.NoOwner, match="no such group"):
            call()
    assert impatient.owner("key") is None
    assert impatient.members() == []
    waits, results = team.router(), []
    waiting = threading.Thread(target=lambda: results.append(ray.get(waits.call("key", "who", "key"))[0]))
    waiting.start()
    team.add("a")
    waiting.join(LIMIT)
    assert results == ["a"]


def test_an_empty_group_has_no_owner(team):
    team.add("a")
    router = team.router(timeout=0.2)
    ray.get(team.workers["a"].stop.remote(), timeout=LIMIT)
    wait_until(lambda: router.members() == [])
    with pytest.raises(errors.NoOwner, match="no members"):
        router.call("key", "who", "key")


def test_too_many_calls_are_refused_or_wait(team, tmp_path):
    gate = str(tmp_path / "gate")
    team.add("a", max_concurrency=8)
    hasty = team.router(max_calls=2, when_full="raise")
    waits, impatient = team.router(max_calls=2), team.router(max_calls=2, timeout=0.1)
    for router in (hasty, waits, impatient):
        references = [router.call("key", "gated", "key", gate) for _ in range(2)]
    for router in (hasty, impatient):
        with pytest.raises(errors.TooManyCalls, match="2 are allowed"):
            router.call("key", "who", "key")
        with pytest.raises(errors.TooManyCalls):
            asyncio.run(router.acall("key", "who", "key"))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(ray.get(waits.call("key", "who", "key"))[0])),
        threading.Thread(target=lambda: results.append(asyncio.run(waits.acall("key", "who", "key"))[0])),
        threading.Thread(target=lambda: results.extend(m for _, (m, _) in waits.map("each", ["key"]))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.1)
    assert results == []
    open(gate, "w").close()
    for thread in threads:
        thread.join(LIMIT)
    assert results == ["a"] * 3
    assert ray.get(references, timeout=LIMIT) == ["a", "a"]


def test_results_are_freed_even_if_no_more_calls_are_made(team):
    router = team.add("a").router()
    references = [router.call("key", "who", "key") for _ in range(10)]
    ray.get(references, timeout=LIMIT)
    results = {reference.hex() for reference in references}
    del references
    counted = ray._private.worker.global_worker.core_worker.get_all_reference_counts
    wait_until(lambda: not results & counted().keys())


def test_a_running_call_on_a_key_that_moves_delays_the_hand_off(team, tmp_path):
    gate = str(tmp_path / "gate")
    router = team.add("a", max_concurrency=4).router()
    moving, another = [key for key in KEYS if Ring(["a", "b"]).owner(key) == "b"][:2]
    running = router.call(moving, "gated", moving, gate)
    team.add("b", max_concurrency=4)
    wait_until(lambda: router.members() == ["a", "b"])
    assert router.owner(moving) == router.owner(another) == "b"
    results = []
    waiting = threading.Thread(target=lambda: results.append(asyncio.run(router.acall(another, "who", another))[0]))
    waiting.start()
    waiting.join(0.3)
    assert results == []
    open(gate, "w").close()
    waiting.join(LIMIT)
    assert results == ["b"]
    assert ray.get(running, timeout=LIMIT) == "a"


def test_the_refusal_of_a_call_within_a_call_is_not_retried(team):
    router = team.add("a", "b").router()
    key = KEYS[0]
    (other,) = team.others(key, router)
    with pytest.raises(errors.NotOwner):
        router.get(router.call(key, "ask_another", other, key))
    assert ray.get(team.workers[router.owner(key)].called.remote()) == 1


def test_a_group_that_is_not_exclusive_is_routed_as_well(team):
    router = team.add("a", "b", cls=Shared).router()
    # Until it has heard of the other, a member of a plain group works on every key.
    workers = team.workers.values()
    wait_until(lambda: all(ray.get(each.members.remote()) == ["a", "b"] for each in workers))
    for key in KEYS[:6]:
        (other,) = team.others(key, router)
        assert router.get(other.who.remote(key))[0] == router.owner(key)


def test_routers_outlive_the_partition_actor(hasty_team):
    team = hasty_team
    router = team.add("a", "b").router()
    epoch = router.epoch()
    os.kill(team.deployment.call("status")["pid"], signal.SIGKILL)
    assert [router.get(router.call(key, "who", key))[0] for key in KEYS] == [router.owner(key) for key in KEYS]
    newcomer = team.router()
    assert [newcomer.get(newcomer.call(key, "who", key))[0] for key in KEYS] == [router.owner(key) for key in KEYS]
    team.add("c")
    wait_until(lambda: router.members() == newcomer.members() == ["a", "b", "c"])
    assert router.epoch() > epoch
    for key in KEYS:
        assert router.get(router.call(key, "who", key))[0] == router.owner(key)


def test_a_restarted_actor_is_called_again(team):
    router = team.add("a", max_restarts=1).router(repeatable=["who"])
    pid = ray.get(team.workers["a"].pid.remote())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: router.get(router.call("key", "pid")) != pid if _answers(team.workers["a"]) else None)
    assert asyncio.run(router.acall("key", "who", "key"))[0] == "a"


def _answers(handle):
    try:
        return ray.get(handle.pid.remote(), timeout=LIMIT)
    except ray.exceptions.RayActorError:
        return None


def test_a_router_counts_among_the_sessions(make_deployment, group):
    deployment = make_deployment(Settings(ttl=60.0, hold=1.0, max_members=1))
    deployment.deploy()
    with Router(group, deployment.name, deployment.namespace), pytest.raises(errors.GroupFull):
        Router(group, deployment.name, deployment.namespace).start()
    with Router(group, deployment.name, deployment.namespace) as another:
        assert another.epoch() is None


def test_the_handles_are_there_for_any_caller(team):
    team.add("a", "b")
    told = team.deployment.call("get_actors", team.group)
    assert sorted(told["actors"]) == ["a", "b"]
    assert told["complete"]
    assert ray.get(told["actors"]["a"].pid.remote()) == ray.get(team.workers["a"].pid.remote())

    def nothing_new():  # a member that has just joined may register its handle twice
        told.update(team.deployment.call("get_actors", team.group, told["upto"]))
        return told["actors"] == {}

    wait_until(nothing_new)
    with pytest.raises(errors.GroupNotFound):
        team.deployment.call("get_actors", team.group + "-2")
    with pytest.raises(errors.InvalidArgument, match="since"):
        team.deployment.call("get_actors", team.group, "x")


@pytest.mark.parametrize(
    "options",
    [
        {"group": ""},
        {"group": None},
        {"actor": None},
        {"actor": 3},
        {"namespace": ""},
        {"settings": {}},
        {"timeout": 0},
        {"timeout": "1"},
        {"retries": -1},
        {"retries": 1.0},
        {"repeatable": "name"},
        {"max_calls": 0},
        {"when_full": "explode"},
    ],
)
def test_an_invalid_argument_of_a_router_is_named(options):
    (name,) = options
    with pytest.raises(errors.InvalidArgument, match=name if name != "repeatable" else "items"):
        Router(**{"group": "g", **options})


def test_a_router_that_was_not_started_says_so(team):
    router = Router(team.group, team.deployment.name, team.deployment.namespace)
    for call in (
        lambda: router.call("key", "who"),
        lambda: asyncio.run(router.acall("key", "who")),
        lambda: router.map("each", KEYS),
        lambda: router.actor("key"),
    ):
        with pytest.raises(errors.NotStarted):
            call()


def test_a_stopped_router_makes_no_calls_until_it_is_started_again(team):
    router = team.add("a").router()
    sessions = team.deployment.call("status")["sessions"]
    router.stop()
    wait_until(lambda: team.deployment.call("status")["sessions"] < sessions)
    wait_until(lambda: router.members() == [])
    with pytest.raises(errors.NotStarted):
        router.call("key", "who", "key")
    router.start()
    assert ray.get(router.call("key", "who", "key"))[0] == "a"


def test_a_stopped_router_gives_the_results_of_its_calls(team):
    router = team.add("a").router()
    result, failure = router.call("key", "who", "key"), router.call("key", "raises")
    router.stop()
    assert router.get(result)[0] == "a"
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            router.get(failure)


@pytest.mark.parametrize("method", ["nothing_of_that_name", "_actor_id", "remote", 3])
def test_an_unknown_method_is_named(team, method):
    router = team.add("a").router()
    with pytest.raises(errors.InvalidArgument, match="method"):
        router.call("key", method)
    with pytest.raises(errors.InvalidArgument, match="method"):
        asyncio.run(router.acall("key", method))


def test_get_takes_a_reference_and_a_time(team, tmp_path):
    gate = str(tmp_path / "gate")
    router = team.add("a").router(repeatable=["gated"])
    with pytest.raises(errors.InvalidArgument, match="reference"):
        router.get([router.call("key", "who", "key")])
    reference = router.call("key", "gated", "key", gate)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        router.get(reference, timeout=0.1)
    open(gate, "w").close()
    assert router.get(reference, timeout=LIMIT) == "a"


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("chunk", "x"), ("items", "text"), ("items", 3)])
def test_an_invalid_argument_of_map_is_named(team, name, value):
    router = team.add("a").router()
    with pytest.raises(errors.InvalidArgument, match=name):
        router.map("each", **{"items": KEYS, name: value})
