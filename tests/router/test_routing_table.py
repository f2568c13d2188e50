"""What a router knows of its group: views as they come, the handles that belong to them, and who is woken."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

from partition_actor import Ring, Settings
from partition_actor.core.member import Change
from partition_actor.core.views import View
from partition_actor.errors import GroupNotFound, PartitionActorUnavailable
from partition_actor.router import routing_table as routes
from partition_actor.router.routing_table import GroupFollower, RoutingTable

LIMIT = 30.0


def handle(actor):
    return SimpleNamespace(_actor_id=actor)


class Coordinator:
    """Stands for the connection: answers `get_actors` from a list, the last answer again and again."""

    def __init__(self):
        self.active = True
        self.member_state = SimpleNamespace(settings=Settings())
        self.asked = []
        self.answers = []
        self.meanwhile = None
        """What happens while the first question is under way."""

    def tells(self, actors=(), upto=0, complete=True):
        told = {member: handle(f"actor of {member}") for member in actors}
        self.answers.append({"actors": told, "upto": upto, "complete": complete})

    async def ask(self, method, group, since):
        assert (method, group) == ("get_actors", "g")
        self.asked.append(since)
        if self.meanwhile is not None:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def follower(monkeypatch):
    monkeypatch.setattr(routes, "ASK_AGAIN", (0.001, 0.002))
    made = GroupFollower("g", "name", "namespace", Settings(), 10)
    made._connection = Coordinator()
    return made


def take(follower, number, members):
    """Let a view arrive, and wait until its handles have."""
    view = None if members is None else View((1, number), 0, True, dict.fromkeys(members, 1), False)

    async def arrive():
        follower._on_changes([Change("other", None, None, "watching"), Change("g", None, view, "watching")])
        if not follower._asking.done():
            await asyncio.wait_for(follower._asking, LIMIT)

    asyncio.run(arrive())
    return follower.routes


def test_a_view_brings_the_handles_of_its_members(follower):
    follower._connection.tells("ab", upto=7)
    known = take(follower, 1, "ab")
    assert known.epoch == (1, 1)
    assert known.complete
    assert sorted(known.targets) == ["a", "b"]
    assert known.targets["a"].handle._actor_id == "actor of a"
    assert known.owner("key") in ("a", "b")


def test_only_new_handles_are_asked_for_and_old_members_are_dropped(follower):
    coordinator = follower._connection
    coordinator.tells("ab", upto=7)
    before = take(follower, 1, "ab").targets
    coordinator.answers = []
    coordinator.tells("c", upto=9)
    known = take(follower, 2, "bc")
    assert coordinator.asked == [-1, 7]
    assert sorted(known.targets) == ["b", "c"]
    assert known.targets["b"] is before["b"]


def test_a_handle_that_came_before_its_view_is_asked_for_again(follower):
    coordinator = follower._connection
    coordinator.tells("abc", upto=9)
    take(follower, 1, "ab")
    coordinator.answers = []
    coordinator.tells("", upto=9)
    coordinator.tells("abc", upto=9)
    known = take(follower, 2, "abc")
    assert coordinator.asked == [-1, 9, -1]
    assert sorted(known.targets) == ["a", "b", "c"]
    assert known.complete


def test_members_that_are_no_actors_are_known_as_such_after_one_question_for_all(follower):
    coordinator = follower._connection
    coordinator.tells("a", upto=3)
    assert take(follower, 1, "ab").complete
    assert coordinator.asked == [-1]
    take(follower, 2, "abc")
    assert coordinator.asked == [-1, 3, -1]


def test_a_coordinator_that_recovers_or_does_not_answer_is_asked_again(follower):
    coordinator = follower._connection
    coordinator.tells("a", upto=3, complete=False)
    coordinator.answers += [PartitionActorUnavailable("away"), asyncio.TimeoutError(), GroupNotFound("not yet")]
    coordinator.tells("ab", upto=4)
    known = take(follower, 1, "ab")
    assert known.complete
    assert sorted(known.targets) == ["a", "b"]
    assert len(coordinator.asked) == 5


def test_what_was_asked_for_another_view_says_nothing_of_this_one(follower):
    coordinator = follower._connection
    coordinator.tells("a", upto=3)
    coordinator.meanwhile = lambda: follower._show(RoutingTable((1, 2), Ring(["a", "b"])))
    coordinator.tells("ab", upto=4)
    known = take(follower, 1, "a")
    assert known.epoch == (1, 2)
    assert known.complete
    assert sorted(known.targets) == ["a", "b"]
    assert len(coordinator.asked) == 2


def test_a_group_that_is_gone_is_asked_about_no_more(follower):
    follower._connection.tells("a", upto=3)
    take(follower, 1, "a")
    assert take(follower, 2, None) == follower.routes
    assert follower.routes.epoch is None
    assert follower.routes.owner("key") is None
    assert follower._connection.asked == [-1]


def test_the_calls_of_an_actor_stay_its_own_when_it_registers_again(follower):
    coordinator = follower._connection
    coordinator.tells("a", upto=3)
    before = take(follower, 1, "a").targets["a"]
    before.lost = True
    coordinator.answers = []
    coordinator.tells("a", upto=4)
    after = take(follower, 2, "a").targets["a"]
    assert after is not before
    assert after.calls is before.calls
    assert not after.lost
    coordinator.answers = [{"actors": {"a": handle("another actor")}, "upto": 5, "complete": True}]
    assert take(follower, 3, "a").targets["a"].calls is not before.calls


def test_threads_and_tasks_are_woken_by_other_routes(follower):
    seen, woken = follower.routes, []

    def wait():
        follower.wait(seen, LIMIT)
        woken.append("thread")

    async def await_change():
        await follower.await_change(seen, LIMIT)
        woken.append("task")

    threads = [threading.Thread(target=wait), threading.Thread(target=lambda: asyncio.run(await_change()))]
    for thread in threads:
        thread.start()
    while not follower._waiting:
        pass
    follower._show(RoutingTable())
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(woken) == ["task", "thread"]
    follower.wait(seen, LIMIT)
    asyncio.run(follower.await_change(seen, LIMIT))
    assert not follower._waiting


def test_nobody_waits_for_longer_than_was_said(follower):
    follower.wait(follower.routes, 0.01)
    asyncio.run(follower.await_change(follower.routes, 0.01))
    assert not follower._waiting
