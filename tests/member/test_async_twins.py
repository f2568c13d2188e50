"""The twins for asyncio wait for nobody's thread: not for the loop's default executor, and not for each other."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from deployments import LIMIT, wait_until
from sharing import KEYS, SOON, owned, share_out

from partition_actor import PartitionCoordinator, Router

AT_ONCE = 6


class Loop:
    """An event loop in a thread of its own, whose default executor has one worker, as in a container of one core."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self.executor = ThreadPoolExecutor(1)
        self._loop.set_default_executor(self.executor)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine):
        """Its result. Fail if it takes so long that something must be stuck."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, SOON), self._loop).result(LIMIT)

    async def _cancel_all(self):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    def close(self):
        """Cancel whatever is stuck, so that no thread is left to wait for it."""
        for _ in range(2):
            asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result(LIMIT)
        self.executor.shutdown(wait=False, cancel_futures=True)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def busy(loop):
    """The only worker of the loop's default executor is busy until the end of the test."""
    end = threading.Event()
    loop.executor.submit(end.wait, 2 * LIMIT)
    yield loop
    end.set()


@pytest.fixture
def a(steady, group):
    """A member of an exclusive group."""
    made = steady.member("a")
    made.join_group(group, exclusive=True)
    wait_until(lambda: owned(made, group) == KEYS)
    made.run_watchers()
    return made


def groups_of(group):
    return [f"{group}-{number}" for number in range(AT_ONCE)]


async def at_once(call):
    """The results of so many calls at once."""
    return await asyncio.gather(*(call(number) for number in range(AT_ONCE)))


async def locks(a, group):
    lock = a.lock(group)
    assert await lock.aacquire()
    assert await lock.abreak()
    assert not lock.held
    assert await lock.aacquire()
    assert await lock.arelease()


async def groups(a, group):
    names = groups_of(group)
    await at_once(lambda number: a.ajoin_group(names[number]))
    assert [a.members(name) for name in names] == [["a"]] * AT_ONCE
    assert await at_once(lambda number: a.aextract_my_subset(names[number], KEYS)) == [KEYS] * AT_ONCE
    await at_once(lambda number: a.aleave_group(names[number]))
    assert [a.members(name) for name in names] == [[]] * AT_ONCE


async def watchers(a, group):
    seen = []

    async def on_event(event):
        seen.append(len(await a.aextract_my_subset(event.group, KEYS)))

    a.watch_group(group, on_event)
    other = PartitionCoordinator("b", a.where[0], a.where[1])
    await other.astart()
    await other.ajoin_group(group)
    while not seen:
        await at_once(lambda _: a.arun_watchers())
        await asyncio.sleep(0.001)
    await other.astop()


async def elections(a, group):
    a.elect(group)
    while not a.is_leader(group):
        await asyncio.sleep(0.001)
    assert await a.astand_down(group)


async def lives(a, group):
    members = [PartitionCoordinator(f"member-{number}", *a.where) for number in range(AT_ONCE)]
    await at_once(lambda number: members[number].astart())
    await at_once(lambda number: members[number].astart())
    await at_once(lambda number: members[number].ajoin_group(group))
    await at_once(lambda number: members[number].astop())
    assert not any(member.is_active() for member in members)
    async with members[0]:
        assert members[0].is_active()


async def routers(a, group):
    made = [Router(group, *a.where) for _ in range(AT_ONCE)]
    await at_once(lambda number: made[number].astart())
    assert [router.members() for router in made] == [["a"]] * AT_ONCE
    await at_once(lambda number: made[number].astop())
    async with made[0] as router:
        assert router.owner("key") == "a"


TWINS = {made.__name__: made for made in (locks, groups, watchers, elections, lives, routers)}


@pytest.mark.parametrize("twins", TWINS)
def test_twins_do_not_wait_for_the_loops_default_executor(steady, group, busy, a, twins):
    a.where = (steady.name, steady.namespace)
    busy.run(TWINS[twins](a, group))


def test_many_at_once_return_although_the_callbacks_that_they_run_await_others(steady, group, loop, a):
    b = steady.member("b")
    names = groups_of(group)

    async def scenario():
        told, subsets = [], []

        async def on_event(event):
            subsets.append(await a.aextract_my_subset(event.group, KEYS))
            lock = a.lock(event.group)
            async with lock:
                told.append((event.group, event.joined, event.left))

        await at_once(lambda number: a.ajoin_group(names[number], exclusive=bool(number % 2)))
        for name in names:
            a.watch_group(name, on_event)
        for change in (b.ajoin_group, b.aleave_group):
            await at_once(lambda number, change=change: change(names[number]))
            await at_once(lambda _: a.arun_watchers())
            await at_once(lambda number: a.aextract_my_subset(names[number], KEYS))
        while len(told) < 2 * AT_ONCE:
            await at_once(lambda _: a.arun_watchers())
            await asyncio.sleep(0.001)
        return sorted(told), subsets

    told, subsets = loop.run(scenario())
    assert told == sorted((name, *change) for name in names for change in ((("b",), ()), ((), ("b",))))
    assert all(set(subset) <= set(KEYS) for subset in subsets)


def test_an_async_on_lost_awaits_the_twins_of_its_own_group_and_of_another(steady, group, loop, a):
    b = steady.member("b")
    done = threading.Event()

    async def on_lost(_keys):
        await at_once(lambda _: a.arun_watchers())
        await a.aextract_my_subset(group, KEYS)
        await a.ajoin_group(f"{group}-2")
        async with a.lock(group):
            pass
        done.set()

    async def register():
        a.partition(group, KEYS).on_lost(on_lost)

    loop.run(register())
    a.run_watchers()
    b.join_group(group)
    assert done.wait(SOON)
    share_out(group, a, b)
    assert a.members(f"{group}-2") == ["a"]
