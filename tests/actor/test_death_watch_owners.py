"""The death watch on tasks and drivers, and what the kernel of its own node tells it, with fakes in place of Ray."""

import asyncio

import pytest
from death_watch_fakes import KEY, NODE, FakeActor, Ray, killed, life, run, settle
from ray.exceptions import OwnerDiedError

from partition_actor.processes import ProcessIdentity


def owner(reference, process="process"):
    """A task or a driver."""
    return ProcessIdentity(None, NODE, "", "worker", process, [reference])


def test_the_kernel_of_the_partition_actors_own_node_is_believed_at_once():
    async def scenario():
        ray, owned = Ray(alive=[], here=True), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        await settle()
        assert ray.dead == []
        ray.kernel.set_result(True)
        await settle()
        assert ray.dead == [KEY]
        assert len(ray.watch) == 0

    run(scenario)


def test_what_ray_fails_to_tell_the_kernel_still_does(caplog):
    async def scenario():
        ray, owned = Ray(here=True), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        await settle()
        owned.set_exception(ValueError("the reference is of another cluster"))
        await settle()
        assert KEY in ray.watch
        ray.kernel.set_result(True)
        await settle()
        assert ray.dead == [KEY]

    run(scenario)
    assert "its lease decides" not in caplog.text


def test_the_end_of_an_actors_process_is_not_the_actors_as_ray_may_start_it_anew():
    async def scenario():
        ray, actor = Ray(here=True), FakeActor()
        ray.watch.watch(KEY, life(actor))
        ray.kernel.set_result(True)
        await settle()
        assert (ray.ending, ray.dead) == ([], [])
        assert KEY in ray.watch

    run(scenario)


def test_an_owner_that_died_is_dead_when_its_kernel_says_so():
    async def scenario():
        ray, owned = Ray(), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        await settle()
        owned.set_exception(OwnerDiedError("id", None, ""))
        await settle()
        assert (ray.ending, ray.dead) == ([], [])
        ray.process.set_result(True)
        await settle()
        assert (ray.ending, ray.dead) == ([], [KEY])

    run(scenario)


@pytest.mark.parametrize("alive", [[], [NODE]])
def test_an_owner_that_is_out_of_sight_or_runs_on_keeps_its_keys(alive, caplog):
    async def scenario():
        ray, owned = Ray(alive=alive), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        await settle()
        owned.set_exception(OwnerDiedError("id", None, ""))
        ray.process.set_result(False)
        await settle()
        assert (ray.ending, ray.dead) == ([], [])
        assert len(ray.watch) == 0

    run(scenario)
    assert "its lease decides" in caplog.text


def test_the_end_of_what_an_owner_waits_for_is_not_its_own():
    async def scenario():
        ray, owned = Ray(), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        ray.watch.watch(("another", "session-2"), ProcessIdentity(None, NODE, "", "worker", "process", None))
        await settle()
        owned.set_exception(killed())
        await settle()
        assert ray.dead == []
        assert len(ray.watch) == 0

    run(scenario)


@pytest.mark.parametrize(("here", "kind"), [(True, "process"), (False, "connection")])
def test_how_the_death_of_a_process_without_an_actor_would_be_learnt(here, kind):
    async def scenario():
        ray, owned = Ray(here=here), asyncio.get_running_loop().create_future()
        ray.watch.watch(KEY, owner(owned))
        await settle()
        assert ray.watch.kind(KEY) == kind
        ray.kernel.done() or ray.kernel.set_result(True)
        ray.process.set_result(True)
        owned.done() or owned.set_exception(OwnerDiedError("id", None, ""))
        await settle()
        assert "the kernel of its node says" in ray.witnesses[0]

    run(scenario)
