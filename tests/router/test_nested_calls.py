"""Guarded methods that other methods of the worker call: only the refusal of the call itself is retried."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from deployments import LIMIT
from ray.runtime_context import RuntimeContext
from teams import KEYS, AsyncWorker, Worker

from partition_actor import errors, owned_by

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Outer(Worker):
    """Its methods have run when the guarded method that they call is refused."""

    def plain(self, inner):
        self.calls += 1
        return self.who(inner)

    def in_a_thread(self, inner):
        self.calls += 1
        with ThreadPoolExecutor() as threads:
            return threads.submit(self.who, inner).result()

    @owned_by("key")
    def guarded(self, key, inner):
        self.calls += 1
        return self.guarded(inner, inner)


class AsyncOuter(AsyncWorker):
    async def plain(self, inner):
        self.calls += 1
        return await self.who(inner)

    async def in_a_task(self, inner):
        self.calls += 1
        return await asyncio.create_task(self.who(inner))

    @owned_by("key")
    async def guarded(self, key, inner):
        self.calls += 1
        return await asyncio.gather(self.guarded(inner, inner))


class Override(Worker):
    """Overrides a guarded method without `owned_by`: its own code has run."""

    def who(self, key, *rest, **more):
        self.calls += 1
        return super().who(key, *rest, **more)


class AsyncOverride(AsyncWorker):
    async def who(self, key):
        self.calls += 1
        return await super().who(key)


def ways(router):
    """Two ways to make a call and to get its result."""
    return (
        lambda *call: router.get(router.call(*call)),
        lambda *call: asyncio.run(router.acall(*call)),
    )


@pytest.mark.parametrize(
    ("cls", "options", "methods"),
    [
        (Outer, {}, ["plain", "in_a_thread"]),
        (Outer, {"max_concurrency": 4}, ["plain", "in_a_thread"]),
        (AsyncOuter, {}, ["plain", "in_a_task"]),
    ],
    ids=["sync", "threaded", "async"],
)
def test_a_method_that_has_run_is_not_repeated(team, cls, options, methods):
    router = team.add("a", "b", cls=cls, **options).router()
    mine = KEYS[0]
    owner = router.owner(mine)
    theirs = next(key for key in KEYS if router.owner(key) != owner)
    calls = [(mine, method, theirs) for method in methods] + [(mine, "guarded", mine, theirs)]
    for call in calls:
        for way in ways(router):
            with pytest.raises(errors.NotOwner):
                way(*call)
    assert ray.get(team.workers[owner].called.remote(), timeout=LIMIT) == 2 * len(calls)
    (other,) = team.others(mine, router)
    assert ray.get(other.called.remote(), timeout=LIMIT) == 0


@pytest.mark.parametrize("cls", [Override, AsyncOverride])
def test_an_override_without_owned_by_has_run(team, cls):
    router = team.add("a", "b", cls=cls).router()
    (other,) = team.others(KEYS[0], router)
    with pytest.raises(errors.NotOwner):
        router.get(other.who.remote(KEYS[0]))
    assert ray.get(other.called.remote(), timeout=LIMIT) == 1


class Inherits(Worker):
    """Its entry is the method of the base."""


class GuardedOverride(Worker):
    @owned_by("key")
    def who(self, key, *rest, **more):
        return super().who(key, *rest, **more)


class Alias(Worker):
    who = owned_by("key")(lambda self, key: (self.my_id, key, (), {}))


@pytest.mark.parametrize("cls", [Inherits, GuardedOverride, Alias, AsyncWorker])
@pytest.mark.parametrize("options", [{}, {"max_concurrency": 4}], ids=["one at a time", "many"])
def test_a_refused_entry_is_sent_to_the_owner(team, cls, options):
    if cls is AsyncWorker and not hasattr(RuntimeContext, "get_task_name"):
        pytest.skip("this Ray does not tell which method it has called: NotOwner is raised, as doctor says")
    router = team.add("a", "b", cls=cls, **options).router()
    key = KEYS[0]
    (other,) = team.others(key, router)
    answer = router.get(other.who.remote(key))
    assert (answer if cls is AsyncWorker else answer[0]) == router.owner(key)


def test_the_refusal_of_another_method_is_no_refusal_of_this_one(team):
    """By its name Ray's task is another method than the one that refused."""
    router = team.add("a", "b", cls=Outer).router()
    (other,) = team.others(KEYS[0], router)
    with pytest.raises(errors.NotOwner):
        router.get(other.plain.remote(KEYS[0]))
    assert ray.get(other.called.remote(), timeout=LIMIT) == 1
