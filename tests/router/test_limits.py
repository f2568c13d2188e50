"""How many calls are under way at an owner, and which methods can be called."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from deployments import LIMIT, wait_until
from teams import KEYS, Worker

from partition_actor import errors

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Many(Worker):
    """Its methods give several results, none, or one at a time; and it counts how many calls run at once."""

    def __init__(self, *args):
        super().__init__(*args)
        self.lock, self.running, self.most = threading.Lock(), 0, 0

    def work(self, seconds):
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        threading.Event().wait(seconds)
        with self.lock:
            self.running -= 1

    def slow(self, items):
        self.work(0.1)

    def count_items(self, items):
        return len(items)

    def most_at_once(self):
        return self.most

    @ray.method(num_returns=2)
    def two(self, key):
        return self.my_id, key

    @ray.method(num_returns=0)
    def none(self):
        pass

    def stream(self, number):
        for each in range(number):  # noqa: UP028 - Ray steps by send(), which a range does not take
            yield each


def test_no_more_calls_are_under_way_than_allowed_by_threads(team):
    router = team.add("a", cls=Many, max_concurrency=32).router(max_calls=2)
    ready = threading.Barrier(24)

    def call(_):
        ready.wait(LIMIT)
        for _ in range(3):
            router.get(router.call("key", "work", 0.005))

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(call, range(24)))
    assert ray.get(team.workers["a"].most_at_once.remote(), timeout=LIMIT) <= 2


def test_no_more_calls_are_under_way_than_allowed_by_tasks(team):
    router = team.add("a", cls=Many, max_concurrency=32).router(max_calls=2)

    async def many():
        await asyncio.gather(*(router.acall("key", "work", 0.005) for _ in range(40)))

    asyncio.run(many())
    assert ray.get(team.workers["a"].most_at_once.remote(), timeout=LIMIT) <= 2


def knows_its_owner(router):
    """Whether a router with a short timeout has received the handle of the only worker."""
    try:
        return bool(router.actor("key"))
    except errors.NoOwner:
        return False


def test_map_waits_at_a_full_owner_as_long_as_the_timeout_says(team, tmp_path):
    gate = tmp_path / "gate"
    team.add("a", max_concurrency=8)
    hasty, impatient = team.router(max_calls=2, when_full="raise"), team.router(max_calls=2, timeout=0.1)
    for router in (hasty, impatient):
        wait_until(lambda router=router: knows_its_owner(router))
        references = [router.call("key", "gated", "key", str(gate)) for _ in range(2)]
        with pytest.raises(errors.TooManyCalls, match="2 are allowed"):
            list(router.map("each", KEYS))
        ((items, error),) = router.map("each", KEYS, return_exceptions=True)
        assert sorted(items) == sorted(KEYS)
        assert isinstance(error, errors.TooManyCalls)
    gate.touch()
    ray.get(references, timeout=LIMIT)


@pytest.mark.parametrize("options", [{"when_full": "raise"}, {"timeout": 0.05}])
def test_map_waits_for_calls_of_its_own(team, options):
    router = team.add("a", cls=Many, max_concurrency=8).router(max_calls=2, **options)
    wait_until(lambda: knows_its_owner(router))
    assert len(list(router.map("slow", KEYS, chunk=10, key=str))) == 4
    assert ray.get(team.workers["a"].most_at_once.remote(), timeout=LIMIT) <= 2


class Unsendable:
    def __init__(self, key):
        self.key = key

    def __reduce__(self):
        raise TypeError("not to be sent")


def test_an_item_that_cannot_be_serialised_fails_its_own_batch(team):
    router = team.add("a", "b", cls=Many).router()
    items = [*KEYS, bad := Unsendable(KEYS[0])]
    results = list(
        router.map("count_items", items, key=lambda item: getattr(item, "key", item), chunk=5, return_exceptions=True)
    )
    (failed,) = [(sent, result) for sent, result in results if isinstance(result, Exception)]
    assert bad in failed[0]
    assert isinstance(failed[1], TypeError)
    assert sum(len(sent) for sent, _ in results) == len(items)
    with pytest.raises(TypeError, match="not to be sent"):
        list(router.map("count_items", items, key=lambda item: getattr(item, "key", item)))


def test_several_results(team):
    router = team.add("a", "b", cls=Many).router(max_calls=3)
    for _ in range(3):
        for key in KEYS[:4]:
            references = router.call(key, "two", key)
            assert [router.get(reference) for reference in references] == [router.owner(key), key]
            assert asyncio.run(router.acall(key, "two", key)) == [router.owner(key), key]


def test_a_streaming_generator_is_called_and_counted(team):
    router = team.add("a", cls=Many).router(max_calls=1)
    for _ in range(3):
        assert [ray.get(reference) for reference in router.call("key", "stream", 3)] == [0, 1, 2]
    with pytest.raises(errors.InvalidArgument, match="streaming"):
        asyncio.run(router.acall("key", "stream", 3))
    with pytest.raises(errors.InvalidArgument, match="streaming"):
        list(router.map("stream", KEYS))
    assert router.get(router.call("key", "pid"))


def test_a_method_without_a_result_is_refused_and_the_router_goes_on(team):
    router = team.add("a", cls=Many).router(max_calls=1)
    for call in (
        lambda: router.call("key", "none"),
        lambda: asyncio.run(router.acall("key", "none")),
        lambda: list(router.map("none", KEYS)),
    ):
        with pytest.raises(errors.InvalidArgument, match="num_returns=0"):
            call()
    team.add("b")
    wait_until(lambda: router.members() == ["a", "b"])
    assert [router.get(router.call(key, "pid")) for key in KEYS[:4]]
