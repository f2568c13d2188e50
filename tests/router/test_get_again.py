"""`get` on one reference again: a call is retried once for all who ask, and what is remembered of it is bounded."""

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray
from deployments import LIMIT, wait_until
from teams import KEYS, Worker

from partition_actor import errors, owned_by
from partition_actor.router import sent_calls

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Slow(Worker):
    @owned_by("key")
    def count(self, key, *rest, seconds=0.0, raises=False):
        self.calls += 1
        time.sleep(seconds)
        if raises:
            raise ValueError(self.calls)
        return self.my_id, self.calls

    @owned_by("key")
    def size(self, key, array):
        return self.my_id, array.nbytes


def runs(team):
    return sum(ray.get([worker.called.remote() for worker in team.workers.values()], timeout=LIMIT))


@pytest.fixture
def refused(team):
    """A router, and a function that makes a call which its worker refuses."""
    router = team.add("a", "b", cls=Slow).router()
    (other,) = team.others(KEYS[0], router)
    return router, lambda *args, **kwargs: other.count.remote(KEYS[0], *args, **kwargs)


def test_a_call_that_was_refused_is_retried_once_whoever_asks(team, refused):
    router, call = refused
    reference = call()
    answers = [router.get(reference) for _ in range(3)]
    reference = call(seconds=0.2)
    with ThreadPoolExecutor(8) as threads:
        answers += threads.map(lambda _: router.get(reference), range(8))
    assert answers == [(router.owner(KEYS[0]), 1)] * 3 + [(router.owner(KEYS[0]), 2)] * 8
    assert runs(team) == 2


def test_each_get_that_is_out_of_time_leaves_the_try_to_the_next(team, refused):
    router, call = refused
    reference = call(seconds=0.5)

    def answer():
        try:
            return router.get(reference, timeout=0.05)
        except ray.exceptions.GetTimeoutError:
            return None

    assert wait_until(answer)[1] == 1
    assert runs(team) == 1


def test_the_error_of_a_retried_call_is_the_same_for_all(team, refused):
    router, call = refused
    reference = call(raises=True)
    for _ in range(3):
        with pytest.raises(ValueError, match="1"):
            router.get(reference)
    assert runs(team) == 1


def test_another_router_of_the_process_does_not_retry_it_again(team, refused):
    router, call = refused
    another, reference = team.router(), call()
    assert router.get(reference) == another.get(reference) == router.get(reference)
    assert runs(team) == 1


def test_a_call_that_had_no_owner_does_not_run_later(team):
    router = team.add("a", cls=Slow).router(timeout=0.2)
    reference = team.workers["a"].count.remote(KEYS[0])
    assert ray.get(reference, timeout=LIMIT)
    team.workers["a"].stop.remote()
    wait_until(lambda: router.members() == [])
    reference = team.workers["a"].count.remote(KEYS[0])
    with pytest.raises(errors.NoOwner):
        router.get(reference)
    team.add("b", cls=Slow)
    wait_until(lambda: router.members() == ["b"])
    with pytest.raises(errors.NoOwner):
        router.get(reference)
    assert runs(team) == 1


def test_a_refusal_does_not_bring_large_arguments_back(team):
    router = team.add("a", cls=Slow).router()
    array = np.zeros(300_000)
    team.workers["a"].stop.remote()
    wait_until(lambda: router.members() == [])
    with pytest.raises(errors.NotOwner) as caught:
        ray.get(team.workers["a"].size.remote("key", array))
    assert caught.value.cause.call is None
    assert caught.value.cause.task is not None


def test_a_refused_call_with_large_arguments_is_retried(team):
    router = team.add("a", "b", cls=Slow).router()
    key, array = KEYS[0], np.zeros(300_000)
    owner = router.owner(key)
    team.workers[owner].stop.remote()
    reference = router.call(key, "size", key, array)
    (other,) = [member for member in "ab" if member != owner]
    assert router.get(reference) == (other, array.nbytes)


class Argument:
    """Large, and counted."""

    alive = 0

    def __init__(self):
        self.data = np.zeros(2**20)
        type(self).alive += 1

    def __del__(self):
        type(self).alive -= 1


def test_arguments_are_remembered_up_to_a_bound_until_the_result_is_taken(team):
    router = team.add("a", cls=Slow).router(repeatable=["count"])
    Argument.alive = 0
    references = [router.call("key", "count", "key", Argument()) for _ in range(30)]
    ray.wait(references, num_returns=30, timeout=LIMIT)
    gc.collect()
    assert 4 <= Argument.alive <= sent_calls.MAX_BYTES // 2**23
    for reference in references:
        router.get(reference)
    gc.collect()
    assert Argument.alive == 0


def test_arguments_are_forgotten_when_nobody_can_ask_for_the_result(team):
    router = team.add("a", cls=Slow).router(repeatable=["count"])
    Argument.alive = 0
    references = [router.call("key", "count", "key", Argument()) for _ in range(4)]
    ray.wait(references, num_returns=4, timeout=LIMIT)
    assert Argument.alive == 4
    del references
    wait_until(lambda: gc.collect() >= 0 and Argument.alive == 0)


def test_the_arguments_of_a_retried_call_are_forgotten_with_its_result(team, refused):
    router, _ = refused
    owner = router.owner(KEYS[0])
    team.workers[owner].stop.remote()
    Argument.alive = 0
    reference = router.call(KEYS[0], "count", KEYS[0], Argument())
    assert router.get(reference)[0] != owner
    gc.collect()
    assert Argument.alive == 0
    assert router.get(reference)[0] != owner
