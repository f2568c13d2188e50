"""The death watch with fakes in place of Ray: what it concludes from what it is told."""

import pytest
from death_watch_fakes import KEY, FakeActor, Ray, died, killed, life, run, settle
from ray.exceptions import ActorUnavailableError

from partition_actor.processes import ProcessIdentity


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
        ray.watch.watch(("member", "session-2"), ProcessIdentity(actor, "another", "actor", "worker-2", "process-2"))
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


@pytest.mark.parametrize(
    ("error", "word"),
    [(killed(), "closed its connection"), (died("exit_actor() is called."), "Ray has given it up")],
)
def test_a_death_names_its_witness(error, word):
    async def scenario():
        ray, actor = Ray(), FakeActor()
        ray.watch.watch(KEY, life(actor))
        await settle()
        ray.process.set_result(True)
        actor.life.set_exception(error)
        await settle()
        (said,) = ray.witnesses
        assert word in said

    run(scenario)


def test_how_a_death_would_be_learnt_is_told():
    async def scenario():
        ray, actor = Ray(), FakeActor()
        assert ray.watch.kind(KEY) == "lease"
        ray.watch.watch(KEY, life(actor))
        assert ray.watch.kind(KEY) == "actor"
        actor.life.set_result(None)
        await settle()
        assert ray.watch.kind(KEY) == "lease"

    run(scenario)
