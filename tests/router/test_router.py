"""Calls to the owner of a key on a real cluster: where they go, and how they end when the group changes."""

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import ray
from deployments import LIMIT, wait_until
from teams import KEYS, AsyncWorker, Peer, Worker

from partition_actor import Router, errors, owned_by
from partition_actor.member.background import background_loop
from partition_actor.member.session import Session
from partition_actor.router import routing_table

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


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


def test_a_router_starts_while_the_executor_of_the_loop_is_busy(team):
    team.add("a")
    busy = threading.Event()

    async def start_and_call():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        loop.run_in_executor(None, busy.wait, LIMIT)
        try:
            async with Router(team.group, team.deployment.name, team.deployment.namespace) as router:
                return await router.acall("key", "who", "key")
        finally:
            busy.set()

    assert asyncio.run(asyncio.wait_for(start_and_call(), LIMIT / 2))[0] == "a"


def test_members_call_each_other(team):
    router = team.add("a", "b", cls=Peer).router()
    answers = ray.get([worker.ask_all.remote(KEYS) for worker in team.workers.values()], timeout=LIMIT)
    assert answers == [{key: router.owner(key) for key in KEYS}] * 2


def task_that_calls(name, namespace, group, key):
    """A Ray task that is no member and calls the owner of a key."""
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


class Timed(Worker):
    """Says when its calls ran, by the clock that all processes of a machine share."""

    @owned_by("items", each=True, key=lambda item: item["key"])
    def ship(self, items):
        start = time.monotonic()
        time.sleep(0.005)
        return start, time.monotonic()


def test_map_in_chunks_with_a_key_and_few_in_flight(team):
    router = team.add("a", "b", cls=Timed).router()
    orders = [{"key": key, "number": number} for number, key in enumerate(KEYS)]
    results = list(router.map("ship", orders, key=lambda order: order["key"], in_flight=1, chunk=3))
    assert max(len(items) for items, _ in results) == 3
    assert sorted(order["number"] for items, _ in results for order in items) == list(range(len(KEYS)))
    spans = sorted(span for _, span in results)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert list(router.map("ship", [])) == []


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
    """Make a router that gets no more views, and a function that passes the missed ones on."""

    def make(team):
        held, is_behind = [], False

        class HeldBack(Session):
            def __init__(self, *args):
                *others, on_changes = args
                super().__init__(*others, lambda changes: held.append(changes) if is_behind else on_changes(changes))
                self.take = on_changes

        made = []
        with monkeypatch.context() as patch:
            patch.setattr(routing_table, "Session", lambda *args: made.append(HeldBack(*args)) or made[0])
            router = team.router()
        is_behind = True

        def release():
            nonlocal is_behind
            is_behind = False
            for changes in held:
                made[0].take(changes)

        return router, lambda: background_loop().call_soon_threadsafe(release)

    return make


def test_a_router_that_is_behind_is_told_so_and_catches_up(team, behind):
    router, release = behind(team.add("a", "b"))
    before = {key: router.owner(key) for key in KEYS}
    team.add("c")
    current = team.router()
    wait_until(lambda: "c" in current.members())
    moved = next(key for key in KEYS if current.owner(key) == "c")
    wait_until(lambda: has_no_handoff(team))
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


def has_no_handoff(team):
    members = team.deployment.call("status", team.group)["members"]
    return not any(member["waits_for"] for member in members)


def test_map_groups_items_again_whose_owner_changed(team, behind):
    router, release = behind(team.add("a"))
    team.add("b")
    wait_until(lambda: has_no_handoff(team))
    answers = router.map("each", KEYS, chunk=15)
    threading.Timer(0.2, release).start()
    results = list(answers)
    assert {member for _, (member, _) in results} == {"a", "b"}
    assert sorted(key for keys, _ in results for key in keys) == sorted(KEYS)
