"""`owned_by`: which calls may run, and that a hand-off waits for those that run."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import threading
from types import SimpleNamespace

import pytest
from deployments import wait_until
from machines import KEYS, World, beat
from sessions import FakeTransport

from partition_actor import PartitionCoordinator, Ring, owned_by
from partition_actor.errors import InvalidArgument, NotOwner
from partition_actor.member import guard

LIMIT = 30.0


class Process(FakeTransport):
    """What has a member: a process, of which the test's own is one at a time."""

    def __init__(self, world, member_id, exclusive=True):
        super().__init__(world)
        self.coordinator = PartitionCoordinator(member_id, self, settings=world.settings)
        self.coordinator.start()
        self.coordinator.join_group("g", exclusive=exclusive)

    @property
    def works_on(self):
        return self.coordinator.extract_my_subset("g", KEYS)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(guard, "_guards", {})
    return World()


@pytest.fixture
def two(world):
    """Two members of an exclusive group. The first one is this process's."""
    a, b = Process(world, "a"), world.member("b")
    beat(a, b)
    assert a.works_on
    assert b.works_on
    return a, b


class Worker:
    group = "g"

    @owned_by("key")
    def one(self, extra, key="key-0"):
        """Its own words."""
        return extra, key

    @owned_by("keys", group="g", each=True)
    def many(self, keys):
        return list(keys)

    @owned_by("order", group=lambda self: self.group, key=lambda order: order["key"])
    async def other(self, *, order):
        return order

    @owned_by("key", group="h")
    def elsewhere(self, key):
        return key

    @owned_by("key", group="g")
    def outer(self, key, inner):
        return self.many([inner])


def test_a_call_runs_where_its_key_is_owned(two):
    a, b = two
    mine, theirs = a.works_on[0], b.works_on[0]
    worker = Worker()
    assert worker.one(1, mine) == worker.one(1, key=mine) == (1, mine)
    assert worker.many(a.works_on) == a.works_on
    assert asyncio.run(worker.other(order={"key": mine})) == {"key": mine}
    for call in (
        lambda: worker.one(1, theirs),
        lambda: worker.one(1, key=theirs),
        lambda: worker.many([mine, theirs]),
        lambda: asyncio.run(worker.other(order={"key": theirs})),
    ):
        with pytest.raises(NotOwner):
            call()


def test_a_method_gets_the_items_of_an_iterator_that_the_check_has_read(two):
    a, _ = two
    assert Worker().many(iter(a.works_on)) == a.works_on
    assert Worker().many(keys=(key for key in a.works_on)) == a.works_on
    assert Worker().many({}) == []
    with pytest.raises(NotOwner) as caught:
        Worker().many(iter(KEYS))
    assert caught.value.call == (KEYS[0], "many", (KEYS,), {})


def test_a_keyword_of_the_same_name_is_not_the_key(two):
    a, b = two

    class PositionalOnly:
        @owned_by("key")
        def work(self, key, /, **more):
            return key, more

    assert PositionalOnly().work(a.works_on[0], key=b.works_on[0]) == (a.works_on[0], {"key": b.works_on[0]})


def test_a_key_is_asked_for_its_text_once_and_by_a_thread_that_holds_nothing_up(losing):
    lock, asked = losing.a.coordinator._session.lock, []

    def take():
        asked.append(lock.acquire(timeout=LIMIT) and lock.release() is None)

    class Key:
        def __str__(self):
            other = threading.Thread(target=take)
            other.start()
            other.join(LIMIT)
            return losing.kept

    assert Worker().one(1, Key())
    assert asked == [True]


def test_what_a_method_returns_is_not_awaited_unless_it_is_a_coroutine(two):
    """Such as a Ray ``ObjectRef``, which can be awaited too."""
    a, _ = two

    class Reference:
        def __await__(self):
            return iter(())

    class Calls:
        @owned_by("key")
        def work(self, key):
            return reference

    reference = Reference()
    assert Calls().work(a.works_on[0]) is reference


def decorated(function):
    """Another decorator, which hides that a method is async."""
    return functools.wraps(function)(lambda *args: function(*args))


def test_a_hand_off_waits_for_an_async_method_under_another_decorator(two):
    a, b = two
    mine = a.works_on[0]

    class Decorated:
        @owned_by("key")
        @decorated
        async def work(self, key):
            begun.set()
            await go_on.wait()
            return key

    async def scenario():
        working = asyncio.ensure_future(Decorated().work(mine))
        await begun.wait()
        a.coordinator._session.call_timeout = 0.01
        a.coordinator.leave_group("g")
        beat(a, b)
        assert mine not in b.works_on
        go_on.set()
        assert await working == mine
        beat(a, b)
        assert mine in b.works_on

    begun, go_on = asyncio.Event(), asyncio.Event()
    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_call_that_never_ran_holds_nothing_up(two):
    a, b = two
    mine = a.works_on[0]

    class Decorated:
        @owned_by("key")
        @decorated
        async def work(self, key):
            return key

    never = Decorated().work(mine)
    a.coordinator._session.call_timeout = 0.01
    a.coordinator.leave_group("g")
    beat(a, b)
    never.close()
    del never
    beat(a, b)
    assert mine in b.works_on


@pytest.mark.parametrize("group", ["", 3])
def test_a_function_that_gives_no_name_of_a_group_is_told_so(two, group):
    a, _ = two

    class Wrong:
        @owned_by("key", group=lambda self: group)
        def work(self, key):
            return key

    with pytest.raises(InvalidArgument, match="group"):
        Wrong().work(a.works_on[0])


def test_the_key_may_be_a_default(two):
    a, b = two

    class Defaults:
        @owned_by("key")
        def mine(self, key=a.works_on[0]):
            return key

        @owned_by("key")
        def theirs(self, key=b.works_on[0]):
            return key

    assert Defaults().mine() == a.works_on[0]
    with pytest.raises(NotOwner, match=repr(b.works_on[0])):
        Defaults().theirs()


def test_a_keyword_is_not_taken_for_one_of_the_rest(two):
    a, b = two
    mine, theirs = a.works_on[0], b.works_on[0]

    class Many:
        @owned_by("key")
        def work(self, *rest, key=mine):
            return key

    assert Many().work(theirs, theirs) == mine
    with pytest.raises(NotOwner):
        Many().work(mine, mine, key=theirs)


def test_an_iterator_of_keys_is_read_once_and_given_on(two):
    a, b = two
    worker, mine = Worker(), a.works_on
    assert worker.many(iter(mine)) == worker.many(keys=(key for key in mine)) == mine
    with pytest.raises(NotOwner) as caught:
        worker.many(iter([*mine, b.works_on[0]]))
    assert caught.value.call == (mine[0], "many", ([*mine, b.works_on[0]],), {})
    view = dict.fromkeys(mine).keys()  # can be read again, so it is left alone
    assert worker.many(view) == mine


def test_a_positional_key_is_not_taken_for_a_keyword_of_its_name(two):
    a, b = two
    mine, theirs = a.works_on[0], b.works_on[0]

    class Positional:
        @owned_by("key")
        def work(self, key, /, **more):
            return key, more

    assert Positional().work(mine, key=theirs) == (mine, {"key": theirs})
    with pytest.raises(NotOwner):
        Positional().work(theirs, key=mine)
    with pytest.raises(TypeError, match="'key'"):
        Positional().work(key=mine)


def test_a_refusal_says_by_which_view_and_brings_the_call_back(two):
    a, b = two
    theirs = b.works_on[0]
    with pytest.raises(NotOwner, match=f"may not work on '{theirs}' of group 'g'") as caught:
        Worker().one("extra", key=theirs)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.epoch == a.coordinator.epoch("g")
    assert error.call == (theirs, "one", ("extra",), {"key": theirs})


def test_nothing_runs_once_the_lease_is_over(two, world):
    a, _ = two
    mine = a.works_on[0]
    world.wait(11.0)
    with pytest.raises(NotOwner):
        Worker().one(1, mine)


def test_a_gained_key_waits_for_its_last_holder(world, monkeypatch):
    former = Process(world, "a")
    former.prompt = False
    monkeypatch.setattr(guard, "_guards", {})  # from here on this is the process of the newcomer
    newcomer = Process(world, "b")
    theirs = [key for key in KEYS if newcomer.coordinator.owner("g", key) == "b"]
    with pytest.raises(NotOwner):
        Worker().one(1, theirs[0])
    beat(former, newcomer)
    assert Worker().one(1, theirs[0]) == (1, theirs[0])


def test_without_a_member_nothing_runs(world):
    with pytest.raises(NotOwner, match="no member") as caught:
        Worker().one(1, "key")
    assert caught.value.epoch is None
    with pytest.raises(NotOwner):
        Worker().elsewhere("key")


def test_the_group_must_be_named_where_there_are_several(two, world):
    a, _ = two
    a.prompt, a.coordinator._session.call_timeout = False, 0.01
    a.coordinator.join_group("h", exclusive=True)  # which is not answered
    with pytest.raises(InvalidArgument, match=r"\['g', 'h'\]"):
        Worker().one(1, "key")
    with pytest.raises(NotOwner):
        Worker().elsewhere("key")


def test_in_the_single_instance_mode_every_method_runs(world):
    with PartitionCoordinator("local", actor=None):
        assert Worker().one(1, "key") == (1, "key")
        assert Worker().elsewhere("key") == "key"
    with pytest.raises(NotOwner):
        Worker().elsewhere("key")


def test_a_member_decides_although_the_process_has_another_in_the_single_instance_mode(two):
    a, b = two
    with PartitionCoordinator("local", actor=None):
        assert Worker().one(1, a.works_on[0])
        with pytest.raises(NotOwner):
            Worker().one(1, b.works_on[0])


class Slow:
    """Calls on keys, each in a thread of its own, that return when they are told to."""

    def __init__(self):
        self.go_on = {}
        self.threads = {}

    def begin(self, key):
        begun, self.go_on[key] = threading.Event(), threading.Event()
        self.threads[key] = threading.Thread(target=self.work, args=(key, begun))
        self.threads[key].start()
        assert begun.wait(LIMIT)

    def end(self, key):
        self.go_on[key].set()
        self.threads[key].join(LIMIT)
        assert not self.threads[key].is_alive()

    @owned_by("key")
    def work(self, key, begun):
        begun.set()
        self.go_on[key].wait(LIMIT)


@pytest.fixture
def losing(world):
    """A member with a slow call on a key that it keeps and another on one that it loses to a newcomer."""
    both = Ring(["a", "b"], vnodes=world.settings.vnodes)
    kept, lost = (both.subset(member, KEYS)[0] for member in ("a", "b"))
    a, slow = Process(world, "a"), Slow()
    slow.begin(kept)
    slow.begin(lost)
    b = world.member("b")
    beat(b, a)
    assert kept in a.works_on
    assert lost not in a.works_on
    yield SimpleNamespace(a=a, b=b, slow=slow, kept=kept, lost=lost)
    for event in slow.go_on.values():
        event.set()


def test_a_hand_off_waits_for_the_calls_on_lost_keys_and_for_no_others(losing):
    a, b, slow = losing.a, losing.b, losing.slow
    beat(a, b)
    assert b.works_on == []
    slow.end(losing.lost)
    beat(a, b)  # the call on the key that is kept still runs
    assert losing.lost in b.works_on
    slow.end(losing.kept)


def test_a_hand_off_waits_no_longer_than_the_lease(losing, world):
    a, b, slow = losing.a, losing.b, losing.slow
    for _ in range(16):  # `handoff_timeout` and a lease
        assert losing.lost not in a.works_on
        world.wait(1.0)
        beat(a, b)
    assert losing.lost in b.works_on
    slow.end(losing.lost)
    slow.end(losing.kept)


def test_a_call_that_leaves_or_runs_callbacks_does_not_wait_for_itself(two):
    a, b = two
    mine = a.works_on[0]
    a.coordinator._session.call_timeout = 1000.0

    class Eager:
        @owned_by("key")
        def work(self, key):
            a.coordinator.partition("g", KEYS).on_lost(lambda keys: None)
            a.coordinator.leave_group("g")
            a.coordinator.run_watchers()
            beat(a, b)
            a.coordinator.run_watchers()
            beat(a, b)
            return mine in a.works_on, mine in b.works_on

        @owned_by("key")
        def stop(self, key):
            a.coordinator.stop()
            beat(a, b)
            return mine in b.works_on

    assert Eager().work(mine) == (False, False)
    wait_until(lambda: (beat(a, b), mine in b.works_on)[1])
    a.coordinator.join_group("g")
    wait_until(lambda: (beat(a, b), mine in a.works_on)[1])
    assert Eager().stop(mine) is False
    wait_until(lambda: (beat(a, b), mine in b.works_on)[1])


def test_groups_that_are_not_exclusive_wait_for_no_call(world):
    a, slow = Process(world, "a", exclusive=False), Slow()
    slow.begin(KEYS[0])
    a.coordinator.leave_group("g")
    assert a.works_on == []
    slow.end(KEYS[0])


def test_a_refusal_within_a_call_that_runs_is_not_its_own(two):
    a, b = two
    with pytest.raises(NotOwner, match="group 'g'"):
        Worker().outer(a.works_on[0], inner=b.works_on[0])

    class Caller:
        @owned_by("key")
        def work(self, *rest, key):
            error = NotOwner("of a call that this one made")
            error.task = "its task"
            raise error

    with pytest.raises(NotOwner, match="that this one made") as caught:
        Caller().work(b.works_on[0], key=a.works_on[0])
    assert caught.value.task is None


def test_it_keeps_name_signature_and_kind():
    assert Worker.one.__name__ == "one"
    assert Worker.one.__doc__ == "Its own words."
    assert list(inspect.signature(Worker.one).parameters) == ["self", "extra", "key"]
    assert inspect.iscoroutinefunction(Worker.other)
    assert not inspect.iscoroutinefunction(Worker.one)


def test_a_missing_argument_is_told_as_python_does(two):
    with pytest.raises(TypeError, match="missing 1 required argument: 'keys'"):
        Worker().many()


def _generator(self, key):
    yield key


async def _async_generator(self, key):
    yield key


def _plain(self, key, *rest, **more):
    return key


@pytest.mark.parametrize(
    ("parameter", "group", "method"),
    [
        ("tenant", None, _plain),
        ("self", None, _plain),
        ("rest", None, _plain),
        ("more", None, _plain),
        ("", None, _plain),
        (3, None, _plain),
        ("key", "", _plain),
        ("key", 3, _plain),
        ("key", None, _generator),
        ("key", None, _async_generator),
        ("key", None, "method"),
    ],
)
def test_what_it_cannot_decorate_is_refused(parameter, group, method):
    with pytest.raises(InvalidArgument):
        owned_by(parameter, group)(method)


def test_the_text_of_a_key_is_made_once_and_not_under_the_lock(two):
    a, b = two
    texts = []

    class Key:
        def __str__(self):
            texts.append(a.wakeups.lock._is_owned())
            return a.works_on[0]

    class Guarded:
        @owned_by("key", group="g")
        def hold(self, key):
            beat(a, b, a, b)
            return len(texts)

    assert Guarded().hold(Key()) == 1
    assert texts == [False]


def test_an_async_method_under_another_decorator_is_guarded_until_it_has_returned(two):
    a, _ = two

    def plain(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            return method(*args, **kwargs)

        return call

    class Guarded:
        @owned_by("key", group="g")
        @plain
        async def hold(self, key):
            running.append(bool(a.coordinator._session.driver._calls))
            await asyncio.sleep(0)
            running.append(bool(a.coordinator._session.driver._calls))

    running = []
    asyncio.run(Guarded().hold(a.works_on[0]))
    assert running == [True, True]
    assert not a.coordinator._session.driver._calls
