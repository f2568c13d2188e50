"""`owned_by`: which calls may run, and that a hand-off waits for those that run."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from types import SimpleNamespace

import pytest
from machines import KEYS, World, beat

from partition_actor import PartitionCoordinator, Ring, owned_by
from partition_actor.errors import InvalidArgument, NotOwner
from partition_actor.member import guard
from partition_actor.member.guard import Guard

LIMIT = 30.0


class Process:
    """A process with one member: its state machine stands for the session, and it notes what listens for keys."""

    def __init__(self, member):
        self.lock = threading.RLock()
        self.member_state = member.member_state
        self.was_started = True
        self.added = []
        self.is_local = False
        self.guard = Guard(self, self)
        self.guard.enter()

    def view(self, group):
        return self.member_state.view(group)

    def add_listener(self, running):
        self.added.append(running)


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(guard.clock, "now", lambda: made.now)
    monkeypatch.setattr(guard, "_guards", {})
    return made


@pytest.fixture
def two(world):
    """Two members of an exclusive group. The first one is this process's."""
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    return a, b, Process(a)


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
    a, b, _ = two
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


def test_the_key_may_be_a_default(two):
    a, b, _ = two

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
    a, b, _ = two
    mine, theirs = a.works_on[0], b.works_on[0]

    class Many:
        @owned_by("key")
        def work(self, *rest, key=mine):
            return key

    assert Many().work(theirs, theirs) == mine
    with pytest.raises(NotOwner):
        Many().work(mine, mine, key=theirs)


def test_a_refusal_says_by_which_view_and_brings_the_call_back(two):
    a, b, _ = two
    theirs = b.works_on[0]
    with pytest.raises(NotOwner, match=f"may not work on '{theirs}' of group 'g'") as caught:
        Worker().one("extra", key=theirs)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.epoch == a.member_state.view("g").epoch
    assert error.call == (theirs, "one", ("extra",), {"key": theirs})


def test_nothing_runs_once_the_lease_is_over(two, world):
    a, _, _ = two
    mine = a.works_on[0]
    world.wait(11.0)
    with pytest.raises(NotOwner):
        Worker().one(1, mine)


def test_a_gained_key_waits_for_its_last_holder(world):
    a = world.member("a")
    a.beat()
    process_of_a = Process(a)
    b = world.member("b")
    b.beat()
    newcomer = Process(b)
    process_of_a.guard.leave()  # from here on this is the process of b
    view = b.member_state.view("g")
    theirs = [key for key in KEYS if view.ring(b.world.settings).owner(key) == "b"]
    with pytest.raises(NotOwner):
        Worker().one(1, theirs[0])
    beat(a, b)
    assert Worker().one(1, theirs[0]) == (1, theirs[0])
    assert newcomer.added


def test_without_a_member_nothing_runs(world):
    with pytest.raises(NotOwner, match="no member") as caught:
        Worker().one(1, "key")
    assert caught.value.epoch is None
    with pytest.raises(NotOwner):
        Worker().elsewhere("key")


def test_the_group_must_be_named_where_there_are_several(two, world):
    a, _, _ = two
    a.member_state.join("h")
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
    a = world.member("a")
    a.beat()
    process, slow = Process(a), Slow()
    slow.begin(kept)
    slow.begin(lost)
    a.adopts = False
    world.member("b").beat(1)
    a.beat(1)
    assert kept in a.works_on
    assert lost not in a.works_on
    (running,) = process.added
    yield SimpleNamespace(running=running, slow=slow, kept=kept, lost=lost)
    for event in slow.go_on.values():
        event.set()


def test_a_hand_off_waits_for_the_calls_on_lost_keys_and_for_no_others(losing, monkeypatch):
    monkeypatch.setattr(guard, "LEASE_CHECK_INTERVAL", 3600.0)  # only the end of a call ends the wait
    handing_off = threading.Thread(target=losing.running.tell_lost)
    handing_off.start()
    handing_off.join(0.1)
    assert handing_off.is_alive()
    losing.slow.end(losing.lost)
    handing_off.join(LIMIT)
    assert not handing_off.is_alive()
    assert losing.running.is_listening  # the call on the key that is kept still runs
    losing.slow.end(losing.kept)
    assert not losing.running.is_listening


def test_a_hand_off_waits_no_longer_than_the_lease(losing, world, monkeypatch):
    monkeypatch.setattr(guard, "LEASE_CHECK_INTERVAL", 0.01)
    handing_off = threading.Thread(target=losing.running.tell_lost)
    handing_off.start()
    world.clock.advance(11.0)
    handing_off.join(LIMIT)
    assert not handing_off.is_alive()
    losing.slow.end(losing.lost)
    losing.slow.end(losing.kept)


def test_a_call_that_runs_the_callbacks_itself_does_not_wait_for_itself(two):
    a, _, process = two

    class Eager:
        @owned_by("key")
        def work(self, key):
            a.member_state.leave("g")
            a.adopts = False
            a.beat()
            process.added[0].tell_lost()
            return a.works_on

    assert Eager().work(a.works_on[0]) == []


def test_groups_that_are_not_exclusive_wait_for_no_call(world):
    a = world.member("a", exclusive=False)
    a.beat()
    process = Process(a)
    assert Worker().one(1, "key") == (1, "key")
    assert process.added == []


def test_a_refusal_within_a_call_that_runs_is_not_its_own(two):
    a, b, _ = two
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
