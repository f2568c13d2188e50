"""Calls to the owner of a key, on a real cluster: where they go, and what they end with when things change."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest
import ray
from deployments import LIMIT, wait_until

from partition_actor import PartitionCoordinator, Router, Settings, errors, owned_by

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

KEYS = [f"key-{number}" for number in range(40)]


class Worker:
    """A member whose methods run only on its own keys."""

    exclusive = True

    def __init__(self, name, namespace, my_id, group):
        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.my_id, self.group, self.calls = my_id, group, 0
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=self.exclusive)

    def pid(self):
        return os.getpid()

    @owned_by("key")
    def who(self, key, *rest, **more):
        return self.my_id, key, rest, more

    @owned_by("keys", each=True)
    def each(self, keys):
        return self.my_id, keys

    @owned_by("key")
    def die_once(self, key, marker):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return self.my_id

    @owned_by("key")
    def gated(self, key, gate):
        while not os.path.exists(gate):
            time.sleep(0.005)
        return self.my_id

    def raises(self, *_):
        raise ValueError("on purpose")

    def ask_another(self, other, key):
        self.calls += 1
        return ray.get(other.who.remote(key))

    def called(self):
        return self.calls

    def stop(self):
        self.coordinator.stop()


class Shared(Worker):
    exclusive = False


class AsyncWorker(Worker):
    @owned_by("key", group=lambda self: self.group)
    async def who(self, key):
        await asyncio.sleep(0)
        return self.my_id


class Peer(AsyncWorker):
    """A member that calls the others, and does itself what is its own."""

    async def ask_all(self, keys):
        async with Router(self.group, *self.where) as router:
            mine = [key for key in keys if router.owner(key) == self.my_id]
            others = [key for key in keys if key not in mine]
            theirs = await asyncio.gather(*(router.acall(key, "who", key) for key in others))
            return {**dict.fromkeys(mine, self.my_id), **dict(zip(others, theirs, strict=True))}

    def __init__(self, name, namespace, my_id, group):
        super().__init__(name, namespace, my_id, group)
        self.where = (name, namespace)


class Team:
    """Workers in a group, and routers to them."""

    def __init__(self, deployment, group, spawn):
        self.deployment, self.group, self._spawn = deployment, group, spawn
        self.workers, self.routers = {}, []

    def add(self, *ids, cls=Worker, **options):
        for my_id in ids:
            self.workers[my_id] = self._spawn(cls, *self.deployment.worker_arguments(my_id, self.group), **options)
        ray.get([self.workers[my_id].pid.remote() for my_id in ids], timeout=LIMIT)
        return self

    def router(self, **options):
        made = Router(self.group, self.deployment.name, self.deployment.namespace, **options)
        self.routers.append(made)
        made.start()
        return made

    def kill(self, my_id):
        os.kill(ray.get(self.workers.pop(my_id).pid.remote(), timeout=LIMIT), signal.SIGKILL)

    def others(self, key, router):
        return [handle for my_id, handle in self.workers.items() if my_id != router.owner(key)]


@pytest.fixture
def team(steady, group, spawn):
    made = Team(steady, group, spawn)
    yield made
    for router in made.routers:
        router.stop()


@pytest.fixture
def hasty_team(hasty, group, spawn):
    made = Team(hasty, group, spawn)
    yield made
    for router in made.routers:
        router.stop()


def test_calls_reach_the_owner(team):
    router = team.add("a", "b").router()
    assert router.members() == ["a", "b"]
    assert router.epoch() is not None
    assert {router.owner(key) for key in KEYS} == {"a", "b"}
    for key in KEYS[:8]:
        reference = router.call(key, "who", key, 1, more=2)
        assert isinstance(reference, ray.ObjectRef)
        assert router.get(reference) == (router.owner(key), key, (1,), {"more": 2})
        assert ray.get(router.actor(key).pid.remote()) == ray.get(team.workers[router.owner(key)].pid.remote())


def test_acall_reaches_the_owner_from_any_loop(team):
    router = team.add("a", "b", cls=AsyncWorker).router()

    async def many():
        async with Router(team.group, team.deployment.name, team.deployment.namespace) as another:
            ours = await asyncio.gather(*(another.acall(key, "who", key) for key in KEYS))
        return ours, await asyncio.gather(*(router.acall(key, "who", key) for key in KEYS))

    one, other = asyncio.run(many())
    assert one == other == [router.owner(key) for key in KEYS]


def test_members_call_each_other(team):
    router = team.add("a", "b", cls=Peer).router()
    answers = ray.get([worker.ask_all.remote(KEYS) for worker in team.workers.values()], timeout=LIMIT)
    assert answers == [{key: router.owner(key) for key in KEYS}] * 2


def task_that_calls(name, namespace, group, key):
    """A Ray task, no member, that calls the owner of a key."""
    with Router(group, name, namespace) as router:
        return router.get(router.call(key, "who", key))[0]


def test_a_task_calls_the_owner(team):
    router = team.add("a", "b").router()
    where = (team.deployment.name, team.deployment.namespace)
    task = ray.remote(task_that_calls).options(num_cpus=0)
    assert ray.get(task.remote(*where, team.group, KEYS[0]), timeout=LIMIT) == router.owner(KEYS[0])


def test_map_sends_one_call_an_owner(team):
    router = team.add("a", "b").router()
    results = list(router.map("each", KEYS))
    assert sorted(member for _, (member, _) in results) == ["a", "b"]
    for items, (member, keys) in results:
        assert items == keys
        assert {router.owner(key) for key in items} == {member}
    assert sorted(key for items, _ in results for key in items) == sorted(KEYS)


def test_map_in_chunks_with_a_key_and_few_in_flight(team):
    router = team.add("a", "b").router()
    items = [{"key": key, "n": n} for n, key in enumerate(KEYS)]
    results = list(router.map("each", [item["key"] for item in items], in_flight=1, chunk=3))
    assert max(len(keys) for keys, _ in results) == 3
    assert sorted(key for keys, _ in results for key in keys) == sorted(KEYS)
    assert list(router.map("each", [])) == []


def test_map_raises_or_yields_what_fails(team):
    router = team.add("a", "b").router()
    with pytest.raises(ValueError, match="on purpose"):
        list(router.map("raises", KEYS))
    results = list(router.map("raises", KEYS, return_exceptions=True, progress=True))
    assert sorted(key for keys, _ in results for key in keys) == sorted(KEYS)
    assert all(isinstance(error, ValueError) for _, error in results)


def test_what_the_method_raises_comes_back_as_with_ray(team):
    router = team.add("a").router()
    for call in (
        lambda: router.get(router.call("key", "raises")),
        lambda: asyncio.run(router.acall("key", "raises")),
    ):
        with pytest.raises(ValueError, match="on purpose"):
            call()


def test_a_router_keeps_no_worker_alive(team):
    router = team.add("a", "b").router()
    key = next(key for key in KEYS if router.owner(key) == "a")
    assert router.get(router.call(key, "who", key))[0] == "a"
    handle = router.actor(key)
    pid = ray.get(team.workers["a"].pid.remote())
    lone = ray.remote(Worker).options(num_cpus=0).remote(*team.deployment.worker_arguments("c", team.group))
    wait_until(lambda: "c" in router.members())
    mine = next(key for key in KEYS if router.owner(key) == "c")
    assert router.get(router.call(mine, "who", mine))[0] == "c"
    del lone
    wait_until(lambda: "c" not in router.members())
    assert ray.get(handle.pid.remote()) == pid


def test_a_member_that_is_no_actor_cannot_be_called(team):
    team.deployment.member("driver").join_group(team.group, exclusive=True)
    router = team.router()
    for call in (
        lambda: router.call("key", "who", "key"),
        lambda: router.actor("key"),
        lambda: asyncio.run(router.acall("key", "who", "key")),
        lambda: list(router.map("each", KEYS)),
    ):
        with pytest.raises(errors.MemberHasNoActor, match="'driver'"):
            call()


def test_a_refused_call_is_sent_to_the_owner(team):
    router = team.add("a", "b").router()
    for key in KEYS[:6]:
        (other,) = team.others(key, router)
        assert router.get(other.who.remote(key, more=1)) == (router.owner(key), key, (), {"more": 1})
        with pytest.raises(errors.NotOwner) as caught:
            ray.get(other.who.remote(key))
        assert caught.value.cause.epoch == router.epoch()


@pytest.fixture
def behind(monkeypatch):
    """Lets a router's views wait until they are wanted."""

    def hold_back(router):
        follower, held = router._follower, []
        monkeypatch.setattr(follower, "_on_changes", held.append)
        follower._connection._on_changes = held.append

        def release():
            follower._connection._on_changes = follower.__class__._on_changes.__get__(follower)
            loop = sys.modules["partition_actor.background"].background_loop()
            for changes in held:
                loop.call_soon_threadsafe(follower._connection._on_changes, changes)

        return release

    return hold_back


def test_a_router_that_is_behind_is_told_so_and_catches_up(team, behind):
    router = team.add("a", "b").router()
    before = {key: router.owner(key) for key in KEYS}
    release = behind(router)
    team.add("c")
    current = team.router()
    wait_until(lambda: "c" in current.members())
    moved = next(key for key in KEYS if current.owner(key) == "c")
    wait_until(lambda: is_settled(team))
    assert router.owner(moved) == before[moved] != "c"
    with pytest.raises(errors.NotOwner):
        ray.get(router.call(moved, "who", moved))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(router.get(router.call(moved, "who", moved))[0])),
        threading.Thread(target=lambda: results.append(asyncio.run(router.acall(moved, "who", moved))[0])),
        threading.Thread(target=lambda: results.extend({m for _, (m, _) in router.map("each", [moved])})),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(0.2)
    assert results == []
    release()
    for thread in threads:
        thread.join(LIMIT)
    assert results == ["c"] * 3


def is_settled(team):
    """Whether no hand-off is in progress."""
    members = team.deployment.call("status")["groups"][team.group]["members"]
    return not any(member["waits_for"] for member in members)


def test_map_groups_anew_what_has_moved(team, behind):
    router = team.add("a").router()
    release = behind(router)
    team.add("b")
    wait_until(lambda: is_settled(team))
    answers = router.map("each", KEYS, chunk=15)
    threading.Timer(0.2, release).start()
    results = list(answers)
    assert {member for _, (member, _) in results} == {"a", "b"}
    assert sorted(key for keys, _ in results for key in keys) == sorted(KEYS)


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


def test_a_killed_owner_is_replaced_for_calls_to_come(team):
    router = team.add("a", "b").router()
    key = KEYS[0]
    dead = router.owner(key)
    team.kill(dead)
    wait_until(lambda: router.owner(key) != dead)
    assert router.get(router.call(key, "who", key))[0] == router.owner(key)


def test_without_a_group_a_call_waits_and_then_says_that_it_has_not_run(team):
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
    patient, results = team.router(), []
    waiting = threading.Thread(target=lambda: results.append(ray.get(patient.call("key", "who", "key"))[0]))
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
    patient, impatient = team.router(max_calls=2), team.router(max_calls=2, timeout=0.1)
    for router in (hasty, patient, impatient):
        references = [router.call("key", "gated", "key", gate) for _ in range(2)]
    for router in (hasty, impatient):
        with pytest.raises(errors.TooManyCalls, match="2 are allowed"):
            router.call("key", "who", "key")
        with pytest.raises(errors.TooManyCalls):
            asyncio.run(router.acall("key", "who", "key"))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(ray.get(patient.call("key", "who", "key"))[0])),
        threading.Thread(target=lambda: results.append(asyncio.run(patient.acall("key", "who", "key"))[0])),
        threading.Thread(target=lambda: results.extend(m for _, (m, _) in patient.map("each", ["key"]))),
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


def test_a_result_is_not_kept_because_nobody_calls_any_more(team):
    router = team.add("a").router()
    ray.get([router.call("key", "who", "key") for _ in range(10)])
    target = router._follower.routes.targets["a"]
    wait_until(lambda: not target.calls)


def test_a_call_that_runs_holds_the_hand_off_up(team, tmp_path):
    gate = str(tmp_path / "gate")
    router = team.add("a", max_concurrency=4).router()
    references = {key: router.call(key, "gated", key, gate) for key in KEYS[:3]}
    team.add("b", max_concurrency=4)
    wait_until(lambda: router.members() == ["a", "b"])
    results = []
    free = next(key for key in KEYS if router.owner(key) == "b")
    waiting = threading.Thread(target=lambda: results.append(asyncio.run(router.acall(free, "who", free))[0]))
    waiting.start()
    if any(router.owner(key) == "b" for key in references):
        waiting.join(0.3)
        assert results == []
    open(gate, "w").close()
    waiting.join(LIMIT)
    assert results == ["b"]
    assert ray.get(list(references.values()), timeout=LIMIT) == ["a"] * 3


def test_the_refusal_of_a_call_within_a_call_is_not_retried(team):
    router = team.add("a", "b").router()
    key = KEYS[0]
    (other,) = team.others(key, router)
    with pytest.raises(errors.NotOwner):
        router.get(router.call(key, "ask_another", other, key))
    assert ray.get(team.workers[router.owner(key)].called.remote()) == 1


def test_a_group_that_is_not_exclusive_is_routed_as_well(team):
    router = team.add("a", "b", cls=Shared).router()
    for key in KEYS[:6]:
        (other,) = team.others(key, router)
        assert router.get(other.who.remote(key))[0] == router.owner(key)


def test_routers_outlive_their_coordinator(hasty_team):
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
    assert team.deployment.call("get_actors", team.group, told["upto"])["actors"] == {}
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
def test_what_a_router_is_not_made_of_is_named(options):
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


def test_a_stopped_router_routes_no_more(team):
    router = team.add("a").router()
    sessions = team.deployment.call("status")["sessions"]
    router.stop()
    wait_until(lambda: team.deployment.call("status")["sessions"] < sessions)
    wait_until(lambda: router.members() == [])
    with pytest.raises(errors.NotStarted):
        router.call("key", "who", "key")
    router.start()
    assert ray.get(router.call("key", "who", "key"))[0] == "a"


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
def test_what_map_does_not_take_is_named(team, name, value):
    router = team.add("a").router()
    with pytest.raises(errors.InvalidArgument, match=name):
        router.map("each", **{"items": KEYS, name: value})
