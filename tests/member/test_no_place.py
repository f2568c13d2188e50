"""A join that ends without a place says so to its caller, and for how long."""

import pickle
import warnings

import pytest
from machines import PLAIN, World
from sessions import FakeTransport

from partition_actor import PartitionCoordinator, Settings
from partition_actor.errors import GroupModeConflict, NoPlaceYet
from partition_actor.member.wakeups import Wakeups

BRIEF = Settings(**{**PLAIN.to_dict(), "call_timeout": 0.05})


@pytest.fixture
def world():
    return World(BRIEF)


def started(world):
    coordinator = PartitionCoordinator("a", FakeTransport(world), settings=BRIEF)
    coordinator.start()
    return coordinator


def test_a_join_during_recovery_warns_with_the_seconds_that_are_left(world):
    world.restart()
    world.wait(4.0)
    coordinator = started(world)
    with pytest.warns(
        NoPlaceYet, match=r"'a' has not been admitted to group 'g' .* admits nobody for another 7\.0 s"
    ) as told:
        coordinator.join_group("g", exclusive=True)
    assert (told[0].message.group, told[0].message.seconds) == ("g", pytest.approx(PLAIN.max_ttl * 1.1 - 4.0))
    assert told[0].filename == __file__
    copy = pickle.loads(pickle.dumps(told[0].message))
    assert (str(copy), copy.group, copy.seconds) == (str(told[0].message), "g", told[0].message.seconds)


def test_a_subset_without_a_place_warns_too_and_comes_when_the_wait_is_over(world):
    world.restart()
    coordinator = started(world)
    with pytest.warns(NoPlaceYet):
        assert coordinator.extract_my_subset("g", ["x"]) == []
    world.wait(PLAIN.max_ttl * 1.1)
    coordinator.heartbeat()
    assert coordinator.extract_my_subset("g", ["x"]) == ["x"]


def test_nobody_knows_for_how_long_while_the_partition_actor_is_away():
    coordinator = PartitionCoordinator("a", FakeTransport(), settings=BRIEF)
    coordinator.start()
    with pytest.warns(NoPlaceYet, match="has not been admitted to group 'g' yet, and keeps trying$") as told:
        coordinator.join_group("g")
    assert told[0].message.seconds is None


def test_a_join_that_is_admitted_warns_of_nothing(world):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started(world).join_group("g")


class _OnlyWhenWaitedFor(Wakeups):
    """Replies come only while somebody waits for them."""

    def wait(self, done, seconds):
        if not done():
            self.transport.beat()
        return done()


@pytest.fixture
def on_draining_node(world):
    """A member that knows that its node is draining."""
    wakeups = _OnlyWhenWaitedFor()
    transport = wakeups.transport = FakeTransport(world, wakeups)
    transport.prompt = False
    coordinator = PartitionCoordinator("a", transport, settings=BRIEF)
    coordinator.start()
    transport.beat(1)
    world.driver.locate(("a", "life.1"), "node-1", 7)
    world.driver.draining(world.now, {"node-1": None})
    transport.beat()
    assert coordinator._session.member_state.node_drains
    return coordinator


def test_a_join_on_a_draining_node_waits_for_an_answer_to_it(world, on_draining_node):
    world.member("b", exclusive=False).beat()
    with pytest.raises(GroupModeConflict):
        on_draining_node.join_group("g", exclusive=True)
    with pytest.warns(NoPlaceYet, match="its node is draining"):
        on_draining_node.join_group("h")


def test_a_join_does_not_go_by_a_drain_that_is_over(world, on_draining_node):
    world.driver.draining(world.now, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_draining_node.join_group("g")
