"""The death watch with fakes in place of Ray: what it concludes from what it is told."""

import asyncio

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, OwnerDiedError

from partition_actor.deathwatch import CONNECTION_BROKE, DeathWatch, Life

KEY = ("member", "session")
NODE = "node-1"


class FakeActor:
    """An actor's handle; the call that the watch makes ends when `life` does."""

    def __init__(self):
        self.life = asyncio.get_running_loop().create_future()
        self.calls = []
        self.__ray_call__ = self

    def remote(self, function, argument):
        self.calls.append((function, argument))
        return self.life


class Ray:
    """What the watch asks about nodes and processes, and what it says of members."""

    def __init__(self, alive=(NODE,), failure=None, here=False):
        self.alive, self.failure, self.ending, self.dead, self.asked = set(alive), failure, [], [], 0
        self.cancelled = []
        self.process = asyncio.get_running_loop().create_future()
        self.kernel = asyncio.get_running_loop().create_future()
        if not here:
            self.kernel.set_result(False)
        self.watch = DeathWatch(
            "never",
            self.ending.append,
            self.dead.append,
            self.nodes,
            self.process_ended,
            self.process_here,
            self.cancelled.append,
        )

    async def process_ended(self, life):
        assert life.node == NODE
        return await self.process

    async def process_here(self, life):
        return await self.kernel

    async def nodes(self):
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.alive


def life(handle, actor="actor", worker="worker"):
    return Life(handle, NODE, actor, worker, "process")


def died(why):
    """What Ray raises for a dead actor."""
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message=f"The actor is dead because {why}"))


def killed():
    return died(f"its worker process has died. Worker exit detail: Worker {CONNECTION_BROKE} code 2. End of file.")


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario):
    return asyncio.run(scenario())


def test_a_dead_process_on_a_living_node_is_told_once():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        assert ray.dead == []
        assert KEY in ray.watch
        actor.life.set_exception(killed())
        await settle()
        assert ray.dead == [KEY]
        assert ray.ending == []
        assert KEY not in ray.watch
        assert len(ray.watch) == 0

    run(scenario)


def test_a_process_that_ends_in_an_orderly_way_is_dead_when_its_kernel_says_so():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(died("all references to the actor were removed."))
        await settle()
        assert (ray.ending, ray.dead) == ([KEY], [])
        assert KEY in ray.watch
        ray.process.set_result(True)
        await settle()
        assert (ray.ending, ray.dead) == ([KEY], [KEY])
        assert len(ray.watch) == 0

    run(scenario)


@pytest.mark.parametrize("answer", [False, RuntimeError("no worker could be started there")])
def test_when_nobody_can_tell_whether_it_runs_the_lease_decides(answer, caplog):
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(died("exit_actor() is called."))
        await settle()
        ray.process.set_result(answer) if answer is False else ray.process.set_exception(answer)
        await settle()
        assert ray.dead == []
        assert len(ray.watch) == 0

    run(scenario)
    assert "its lease decides" in caplog.text


def test_a_session_that_is_over_before_its_process_is_followed_no_more():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(died("exit_actor() is called."))
        await settle()
        ray.watch.forget(KEY)
        await settle()
        assert ray.process.cancelled()
        assert ray.dead == []

    run(scenario)


def test_the_watched_actor_is_sent_nothing_but_a_call_that_waits_for_its_argument():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        ray.watch.watch(KEY, life(actor))
        await settle()
        ((function, argument),) = actor.calls
        assert argument == "never"
        assert function(object(), None) is None

    run(scenario)


def test_a_process_on_a_lost_node_may_run_on_so_nothing_is_said(caplog):
    async def scenario():
        ray, actor = Ray(alive=["another"]), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(killed())
        await settle()
        assert ray.dead == []
        assert ray.asked == 1

    run(scenario)
    assert "its lease decides" in caplog.text


def test_when_the_node_cannot_be_asked_about_nothing_is_said(caplog):
    async def scenario():
        ray, actor = Ray(failure=RuntimeError("the GCS is away")), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(killed())
        await settle()
        assert ray.dead == []
        assert KEY not in ray.watch

    run(scenario)
    assert "its lease decides" in caplog.text


@pytest.mark.parametrize("error", [ActorUnavailableError("away", None), ValueError("the handle is of another cluster")])
def test_an_error_that_does_not_prove_death_ends_the_watch_and_says_nothing(error, caplog):
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_exception(error)
        await settle()
        assert ray.dead == []
        assert ray.asked == 0
        assert KEY not in ray.watch

    run(scenario)
    assert "cannot watch member 'member' any more" in caplog.text


def test_a_call_that_returns_is_no_death():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        actor.life.set_result(None)
        await settle()
        assert ray.dead == []
        assert ray.asked == 0

    run(scenario)


def test_a_watch_that_is_given_up_withdraws_its_call():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        ray.watch.forget(KEY)
        await settle()
        assert ray.cancelled == [actor.life]
        assert ray.dead == []
        assert len(ray.watch) == 0

    run(scenario)


def test_a_watch_that_is_given_up_says_nothing_and_a_new_one_may_follow():
    async def scenario():
        ray, first, second = Ray(), FakeActor(), FakeActor()
        ray.watch.watch(KEY, life(first))
        await settle()
        ray.watch.forget(KEY)
        ray.watch.forget(KEY)
        ray.watch.watch(KEY, life(second))
        await settle()
        assert KEY in ray.watch
        second.life.set_exception(killed())
        await settle()
        assert ray.dead == [KEY]

    run(scenario)


def test_sessions_are_watched_apart():
    async def scenario():
        ray, actors = Ray(), [FakeActor() for _ in range(3)]
        for n, actor in enumerate(actors):
            ray.watch.watch(("member", f"session-{n}"), life(actor, actor=f"actor-{n}"))
        await settle()
        assert len(ray.watch) == 3
        actors[1].life.set_exception(killed())
        await settle()
        assert ray.dead == [("member", "session-1")]
        assert len(ray.watch) == 2

    run(scenario)


def test_a_session_of_an_actors_new_process_tells_that_the_former_one_is_ending():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        ray.watch.watch(("another", "session-2"), life(FakeActor(), worker="worker-2"))
        await settle()
        assert ray.ending == []  # the new one has not joined yet: were the former one to leave, its keys would move
        ray.watch.succeed(("another", "session-2"))
        ray.watch.succeed(("another", "session-2"))
        await settle()
        assert ray.ending == [KEY]
        assert ray.dead == []
        ray.process.set_result(True)
        await settle()
        assert ray.dead == [KEY]
        assert KEY not in ray.watch
        assert ("another", "session-2") in ray.watch

    run(scenario)


def test_a_new_process_elsewhere_tells_nothing_when_the_former_ones_node_is_lost(caplog):
    async def scenario():
        ray, actor = Ray(alive=["another"]), FakeActor()
        ray.watch.watch(KEY, life(actor))
        ray.watch.watch(("member", "session-2"), Life(actor, "another", "actor", "worker-2", "process-2"))
        ray.watch.succeed(("member", "session-2"))
        await settle()
        assert ray.dead == []

    run(scenario)
    assert "its lease decides" in caplog.text


def test_two_sessions_of_one_process_live_side_by_side():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        ray.watch.watch(("member", "session-2"), life(actor))
        ray.watch.succeed(("member", "session-2"))
        ray.watch.succeed(("member", "session-3"))
        await settle()
        assert ray.dead == []
        assert len(ray.watch) == 2

    run(scenario)


def owner(reference, process="process"):
    """A task or a driver."""
    return Life(None, NODE, "", "worker", process, [reference])


def test_the_kernel_of_the_coordinators_own_node_is_believed_at_once():
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
        ray.watch.watch(("another", "session-2"), Life(None, NODE, "", "worker", "process", None))
        await settle()
        owned.set_exception(killed())
        await settle()
        assert ray.dead == []
        assert len(ray.watch) == 0

    run(scenario)
