"""Callers that have only the handle and hand themselves over: their death, their restarts, and the Router's calls."""

import asyncio
import os
import signal
from types import SimpleNamespace

import pytest
import ray
from death_watch_fakes import NODE, FakeActor, Ray, killed, run, settle
from deployments import LIMIT, wait_until
from members import HandedOver

from partition_actor import Router
from partition_actor.actor import bare_callers
from partition_actor.actor.actor_table import ActorProcess
from partition_actor.actor.bare_callers import BareCallers
from partition_actor.actor.member_handles import MemberHandles
from partition_actor.errors import InvalidArgument

ITEMS = [f"item-{number}" for number in range(200)]
KEY = ("member", "")


def kill(worker):
    os.kill(ray.get(worker.pid.remote(), timeout=LIMIT), signal.SIGKILL)


def ask(worker, method, **arguments):
    return ray.get(worker.ask.remote(method, **arguments), timeout=LIMIT)


@pytest.mark.parametrize("named", [False, True])
def test_the_share_of_a_killed_worker_goes_to_the_others_long_before_its_lease_ends(steady, group, spawn, named):
    killed, other = (spawn(HandedOver, steady.handle, name, named) for name in ("a", "b"))
    assert ask(killed, "get_subset", group=group, items=ITEMS) == ITEMS
    assert ask(other, "get_subset", group=group, items=ITEMS) != ITEMS
    kill(killed)
    wait_until(lambda: steady.members(group) == ["b"])
    assert ask(other, "get_subset", group=group, items=ITEMS) == ITEMS


@pytest.mark.parametrize("method", ["join", "heartbeat"])
def test_a_worker_hands_itself_over_with_any_call(steady, group, spawn, method):
    worker = spawn(HandedOver, steady.handle, "a")
    steady.call("join", group, "a")
    ask(worker, method, **({"group": group} if method == "join" else {}))
    kill(worker)
    wait_until(lambda: steady.members(group) == [])


@pytest.mark.parametrize("named", [False, True])
def test_a_restarted_worker_keeps_its_place(steady, group, spawn, named):
    restarted = spawn(HandedOver, steady.handle, "a", named, max_restarts=-1, max_task_retries=-1)
    other = spawn(HandedOver, steady.handle, "b")
    ask(other, "join", group=group, exclusive=True)
    ask(restarted, "get_subset", group=group, items=ITEMS)
    rest = ask(other, "get_subset", group=group, items=ITEMS)
    mine = wait_until(lambda: ask(restarted, "get_subset", group=group, items=ITEMS))
    assert sorted(mine + rest) == sorted(ITEMS)
    for _ in range(2):
        kill(restarted)
        wait_until(lambda: ask(restarted, "get_subset", group=group, items=ITEMS) == mine)
        assert ask(other, "get_subset", group=group, items=ITEMS) == rest
    ray.kill(restarted)
    wait_until(lambda: steady.members(group) == ["b"])


def test_a_worker_on_another_node_is_known_as_well(steady, group, spawn, another_node):
    restarted, ended = (
        spawn(
            HandedOver, steady.handle, name, resources={another_node: 0.1}, max_restarts=restarts, max_task_retries=-1
        )
        for name, restarts in (("a", -1), ("b", 0))
    )
    ask(restarted, "join", group=group, exclusive=True)
    ask(ended, "join", group=group)
    mine = ask(restarted, "get_subset", group=group, items=ITEMS)
    kill(restarted)
    assert ask(restarted, "get_subset", group=group, items=ITEMS) == mine
    ray.kill(ended)
    wait_until(lambda: steady.members(group) == ["a"])


def test_a_router_calls_a_worker_that_handed_itself_over(steady, group, spawn):
    worker = spawn(HandedOver, steady.handle, "a")
    ask(worker, "get_subset", group=group, items=ITEMS)
    with Router(group, steady.name, steady.namespace) as router:
        assert ray.get(router.call("key", "pid"), timeout=LIMIT) == ray.get(worker.pid.remote())


def test_a_reply_that_comes_when_its_lease_is_over_is_empty(hasty, group, spawn):
    """The second actor calls under the id and session of the first, which may work until its reply is over."""
    first, second = (spawn(HandedOver, hasty.handle, "a") for _ in range(2))
    ask(second, "join", group=group, exclusive=True)

    def comes_late():
        ask(first, "get_subset", group=group, items=ITEMS)
        return ask(second, "get_subset", group=group, items=ITEMS) == []

    wait_until(comes_late)
    wait_until(lambda: ask(second, "get_subset", group=group, items=ITEMS) == ITEMS)


def test_an_actor_that_ray_has_given_up_is_refused(steady, group, spawn):
    worker = spawn(HandedOver, steady.handle, "a")
    kill(worker)

    def refused():
        try:
            steady.call("get_subset", group, "c", ITEMS, actor=worker)
        except InvalidArgument as error:
            return "actor: got Actor(" in str(error) and "expected an actor that Ray has not given up" in str(error)
        return False

    wait_until(refused)
    with pytest.raises(InvalidArgument, match=r"actor: got Actor\(PartitionActor.*expected the handle of the actor"):
        steady.call("get_subset", group, "c", ITEMS, actor=steady.handle)


# -- with fakes in place of Ray ---------------------------------------------------------------------------------------


class ManyCalls(FakeActor):
    """One that is called again after a watch has ended."""

    def remote(self, function, argument):
        return asyncio.shield(super().remote(function, argument))


class Table:
    """Ray's actor table, and the callers that are looked up in it."""

    def __init__(self, monkeypatch, **ray_says):
        context = SimpleNamespace(current_actor=self.actor("own"), get_node_id=lambda: "another node")
        monkeypatch.setattr(bare_callers.ray, "get_runtime_context", lambda: context)
        self.ray, self.handles, self.replaced = Ray(**ray_says), MemberHandles(1), []
        self.found = None
        self.callers = BareCallers(
            self.ray.watch, self.handles, lambda *ended: self.replaced.append(ended), 0.05, self.look_up
        )
        self.looks = 0

    def actor(self, name):
        made = ManyCalls()
        made._actor_id = SimpleNamespace(hex=lambda: name)
        return made

    async def look_up(self, actor):
        self.looks += 1
        return self.found

    def runs(self, worker, restarts=0, restartable=True, node=NODE):
        self.found = ActorProcess(worker, node, 7, restarts, restartable, False)

    async def call(self, actor, key=KEY):
        caller = await self.callers.identify(key, actor)
        self.callers.adopt(key, caller)
        await settle()
        return caller


def test_the_first_process_of_an_actor_is_known(monkeypatch):
    async def scenario():
        table = Table(monkeypatch)
        actor = table.actor("a")
        assert (await table.callers.identify(KEY, None)).actor is None
        table.runs("w0", restartable=False)
        assert (await table.call(actor)).process == "w0"
        assert (await table.call(actor)).process == (await table.call(None)).process == "w0"
        assert table.looks == 1  # Ray starts no other process of it
        actor.life.set_exception(killed())
        await settle()
        assert table.ray.dead == [KEY]

    run(scenario)


def test_the_next_process_is_known_once_the_former_one_is_dead(monkeypatch):
    async def scenario():
        table = Table(monkeypatch)
        actor = table.actor("a")
        table.runs("w0")
        await table.call(actor)
        table.runs("w1", 1)
        assert (await table.call(actor)).process.startswith("unknown")
        assert table.replaced == []
        table.ray.process.set_result(True)
        await settle()
        assert table.replaced == [(KEY, "w0")]
        assert (await table.call(None)).process == "w1"
        assert KEY in table.ray.watch
        assert table.ray.dead == []

    run(scenario)


def test_a_former_process_that_ends_soon_is_waited_for(monkeypatch):
    async def scenario():
        table = Table(monkeypatch)
        actor = table.actor("a")
        table.runs("w0")
        await table.call(actor)
        table.runs("w1", 1)
        asyncio.get_running_loop().call_later(0.01, table.ray.process.set_result, True)
        assert (await table.call(actor)).process == "w1"
        assert table.replaced == [(KEY, "w0")]

    run(scenario)


@pytest.mark.parametrize(
    "restarts",
    [
        pytest.param((0, 1), id="its node is lost"),
        pytest.param((0, 2), id="one came between"),
        pytest.param((3,), id="unseen"),
    ],
)
def test_a_process_whose_predecessors_may_run_is_another_one_at_each_call(monkeypatch, restarts):
    async def scenario():
        table = Table(monkeypatch, alive=() if restarts == (0, 1) else (NODE,))
        table.ray.process.set_result(True)
        actor = table.actor("a")
        for number in restarts:
            table.runs(f"w{number}", number)
            await table.call(actor)
        first, second = (await table.call(actor)).process, (await table.call(actor)).process
        assert first != second
        assert all(process.startswith("unknown") for process in (first, second))
        assert table.replaced == []
        assert KEY not in table.ray.watch  # it could take the death of one process for that of another

    run(scenario)


def test_a_process_is_unknown_while_the_gcs_does_not_tell(monkeypatch):
    async def scenario():
        table = Table(monkeypatch)
        actor = table.actor("a")
        assert (await table.call(actor)).process.startswith("unknown")
        table.runs("w0", restartable=False)
        assert (await table.call(actor)).process == "w0"

    run(scenario)


def test_a_session_that_is_the_worker_id_needs_no_predecessor_to_be_dead(monkeypatch):
    async def scenario():
        table = Table(monkeypatch, alive=())
        actor = table.actor("a")
        table.runs("w5", 5)
        for _ in range(2):
            assert (await table.call(actor, ("member", "w5"))).process == ""
        assert ("member", "w5") in table.ray.watch
        assert table.looks == 1
        await table.call(actor, ("member", "a name of its own"))
        assert ("member", "a name of its own") not in table.ray.watch

    run(scenario)


def test_a_session_that_is_over_is_forgotten(monkeypatch):
    async def scenario():
        table = Table(monkeypatch)
        table.runs("w0")
        await table.call(table.actor("a"))
        table.callers.forget(KEY)
        assert KEY not in table.callers
        assert (await table.callers.identify(KEY, None)).actor is None

    run(scenario)
