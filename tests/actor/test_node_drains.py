"""What becomes of members on a node that Ray drains: with fakes in place of Ray, and on a real second node."""

import asyncio

import pytest
import ray
from deployments import wait_until
from members import Handler

from partition_actor.actor import draining_nodes
from partition_actor.actor.draining_nodes import DrainingNodes
from partition_actor.ray_internals import draining_nodes_asker
from partition_actor.settings import Settings

KEYS = [f"key-{number}" for number in range(40)]


class Ray:
    """What is asked, and what was told because of the answers."""

    def __init__(self):
        self.draining, self.alive = {}, {"a", "b"}
        self.known = set()
        self.occupied = {"a", "b"}
        self.settings = Settings(node_proof_interval=0.01)
        self.told = []

    def tell(self, nodes, dead):
        self.told.append((nodes, set(dead)))
        self.known = nodes.keys() | dead & self.occupied

    def ask(self, seconds):
        if isinstance(self.draining, Exception):
            raise self.draining
        return self.draining

    async def who_is_alive(self):
        return self.alive

    def look(self, times=1):
        for _ in range(times):
            asyncio.run(self.watch.look(self.ask))
        return self.told

    @property
    def watch(self):
        if not hasattr(self, "_watch"):
            self._watch = DrainingNodes(
                self.tell, lambda: self.known, lambda: self.settings, self.ask, self.who_is_alive
            )
        return self._watch


@pytest.fixture
def fake():
    return Ray()


def test_only_changes_are_told(fake):
    assert fake.look(3) == []
    fake.draining = {"a": 0}
    assert fake.look(3) == [({"a": None}, set())]


def test_a_deadline_is_told_in_seconds_from_now(fake):
    fake.draining = {"a": 1}  # a millisecond after 1970
    assert fake.look() == [({"a": 0.0}, set())]
    fake.draining = {"a": 2**60}
    (_, (told, _)) = fake.look()
    assert told["a"] > 1e9


def test_a_drain_that_was_taken_back_is_told_as_such(fake):
    fake.draining = {"a": 0}
    fake.look()
    fake.draining = {}
    assert fake.look(2)[1:] == [({}, set())]


def test_a_node_that_has_ended_is_told_until_it_is_forgotten(fake):
    fake.draining = {"a": 0}
    fake.look()
    fake.draining, fake.alive = {}, {"b"}
    assert fake.look(2)[1:] == [({}, {"a"}), ({}, {"a"})]
    fake.occupied = set()
    fake.look()
    assert len(fake.look(3)) == 4


def test_a_drain_that_a_former_partition_actor_knew_and_that_is_over_is_told(fake):
    fake.known = {"a"}
    assert fake.look(2) == [({}, set())]


def test_the_setting_takes_all_drains_back(fake):
    fake.draining = {"a": 0}
    fake.look()
    fake.settings = Settings(leave_draining_nodes=False)
    assert fake.look(2)[1:] == [({}, set())]
    fake.settings = Settings()
    assert fake.look(2)[2:] == [({"a": None}, set())]


def test_an_error_changes_nothing_and_is_logged_once(fake, caplog):
    caplog.set_level("INFO")
    fake.draining = {"a": 0}
    fake.look()
    fake.draining = RuntimeError("the GCS is away")
    looks = []
    ask = fake.ask
    fake.ask = lambda seconds: looks.append(seconds) or ask(seconds)
    del fake._watch

    async def some_time():
        asking = asyncio.ensure_future(fake.watch.keep_asking())
        while len(looks) < 4:
            await asyncio.sleep(0.01)
        asking.cancel()

    asyncio.run(some_time())
    assert fake.told == [({"a": None}, set())]
    assert caplog.text.count("cannot tell which nodes are draining now: the GCS is away") == 1


def test_a_ray_that_does_not_tell_is_not_asked(caplog, monkeypatch, fake):
    caplog.set_level("INFO")
    monkeypatch.setattr(draining_nodes, "draining_nodes_asker", lambda: None)
    asyncio.run(DrainingNodes(fake.tell, lambda: fake.known, lambda: fake.settings).keep_asking())
    assert "members stay on them until they end" in caplog.text
    assert fake.told == []


def test_this_ray_tells(cluster):
    assert draining_nodes_asker()(5.0) == {}


# -- a real second node ----------------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(steady, group, another_node, spawn):
    """Two workers on the second node, and the node's id; each has keys, and so has a member on the first node."""
    home = steady.member("home")
    home.join_group(group, exclusive=True)
    arguments = [(steady.name, steady.namespace, name, group, KEYS) for name in ("a", "b")]
    workers = [spawn(Handler, *each, resources={another_node: 0.001}) for each in arguments]
    wait_until(lambda: all(ray.get([worker.told.remote() for worker in workers])))
    wait_until(lambda: steady.members(group) == ["a", "b", "home"])
    (node,) = (each["NodeID"] for each in ray.nodes() if another_node in each["Resources"])
    return workers, node, home


def owned_by_calls(calls):
    """The keys that somebody has by what its callbacks were told."""
    mine = set()
    for what, keys in calls:
        assert mine.isdisjoint(keys) if what == "gained" else mine.issuperset(keys)
        mine = mine | set(keys) if what == "gained" else mine - set(keys)
    return mine


def test_all_keys_move_through_callbacks_before_the_node_ends(steady, group, elsewhere, drain_node):
    workers, node, home = elsewhere
    wait_until(lambda: len({*home.extract_my_subset(group, KEYS)}) < len(KEYS))
    had = [ray.get(worker.mine.remote(group, KEYS)) for worker in workers]
    assert all(had)
    drain_node(node)
    wait_until(lambda: steady.members(group) == ["home"])
    wait_until(lambda: home.extract_my_subset(group, KEYS) == KEYS)
    calls = ray.get([worker.told.remote() for worker in workers])  # they still run
    assert [owned_by_calls(each) for each in calls] == [set(), set()]
    told = steady.call("events", 0, group)["events"]
    whys = {event["member"]: event["why"] for event in told if event["what"] == "drained"}
    assert whys.keys() == {"a", "b"}
    assert all(why.startswith("its node is draining, for ") for why in whys.values())
    assert list(steady.call("status")["draining"]) == [node]

    # Newcomers there get no place, and are told why at once.
    (warning,) = ray.get(workers[0].join.remote(f"{group}-new"))
    assert "its node is draining" in warning

    # Without the setting they come back by themselves, and their callbacks are told.
    steady.call("configure", {"leave_draining_nodes": False})
    try:
        wait_until(lambda: steady.members(group) == ["a", "b", "home"])
        wait_until(lambda: [ray.get(worker.mine.remote(group, KEYS)) for worker in workers] == had)
        wait_until(lambda: [sorted(map_calls(worker)) for worker in workers] == had)
        assert steady.call("status")["draining"] == {}
    finally:
        steady.call("configure", {"leave_draining_nodes": True})
    wait_until(lambda: steady.members(group) == ["home"])


def map_calls(worker):
    return owned_by_calls(ray.get(worker.told.remote()))
