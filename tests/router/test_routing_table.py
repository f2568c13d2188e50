"""What a router knows of its group: views as they arrive, the handles that belong to them, and who is woken."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
import ray
from deployments import wait_until
from sessions import FakeTransport

from partition_actor import Settings
from partition_actor.errors import GroupFull, GroupNotFound, PartitionActorUnavailable
from partition_actor.member.background import background_loop
from partition_actor.router import routing_table
from partition_actor.router.routing_table import GroupFollower

LIMIT = 30.0


def handle(actor):
    return SimpleNamespace(_actor_id=actor)


def view(number, members):
    """What a reply says of a group; None: there is no such group."""
    if members is None:
        return {"state": "unknown"}
    told = {"epoch": (1, number), "rev": 0, "exclusive": True, "mine": False, "base": None}
    return {"view": {**told, "changed": dict.fromkeys(members, 1), "laggards": [], "rings": []}}


class Followed(FakeTransport):
    """A follower and its session, which is told of views when the test says so.

    It answers `get_actors` from a list, with the last answer for good.
    """

    def __init__(self, monkeypatch, call_timeout=0.001):
        super().__init__()
        self.on_send = lambda: None
        """What happens when a request is to be sent."""
        self.asked = []
        self.is_asked = False
        self.answers = []
        self.meanwhile = None
        """What happens while the first question is under way."""
        monkeypatch.setattr(routing_table, "FETCH_PAUSES", (0.001, 0.002))
        monkeypatch.setattr(routing_table, "RayTransport", lambda *arguments: self)
        self.follower = GroupFollower("g", "name", "namespace", Settings(call_timeout=call_timeout), 10)

    def send(self, member_state, seconds):
        self.on_send()

    def tell(self, *changes):
        """Let a reply arrive that says this: (group, number of the epoch, members)."""
        ((member_state, session),) = self.sessions.items()
        reply = {
            "seq": session.request(member_state)["seq"],
            "incarnation": 1,
            "lease": 0.0,
            "exclusive_lease": 0.0,
            "interval": 2.0,
            "resync": False,
            "views": False,
            "groups": {group: view(number, members) for group, number, members in changes},
        }
        session.receive(member_state, reply)

    def fail(self, failure):
        """Let the partition actor refuse a request."""
        ((member_state, session),) = self.sessions.items()
        session.fail(member_state, failure)

    def answer(self, actors=(), upto=0, complete=True):
        told = {member: handle(f"actor of {member}") for member in actors}
        self.answers.append({"actors": told, "upto": upto, "complete": complete})

    async def ask(self, method, group, since):
        assert (method, group) == ("get_actors", "g")
        assert not self.is_asked, "one question at a time"
        self.is_asked = True
        self.asked.append(since)
        if self.meanwhile is not None:
            self.meanwhile, meanwhile = None, self.meanwhile
            meanwhile()
        await asyncio.sleep(0)
        self.is_asked = False
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def take(self, number, members):
        """Let a view arrive, and wait until nothing is fetched any more; the table then."""

        async def arrive():
            self.tell(("other", 99, "xyz"), ("g", number, members))
            while fetches := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait_for(asyncio.gather(*fetches), LIMIT)

        asyncio.run(arrive())
        return self.follower.table


@pytest.fixture
def followed(monkeypatch):
    """A follower that has been started."""
    made = Followed(monkeypatch)
    made.follower.start()
    return made


def test_a_view_brings_the_handles_of_its_members(followed):
    followed.answer("ab", upto=7)
    table = followed.take(1, "ab")
    assert table.epoch == (1, 1)
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert table.actors["a"].handle._actor_id == "actor of a"
    assert {table.owner(key) for key in range(100)} == {"a", "b"}


def test_only_new_handles_are_fetched_and_former_members_are_dropped(followed):
    followed.answer("ab", upto=7)
    before = followed.take(1, "ab").actors
    followed.answers = []
    followed.answer("c", upto=9)
    table = followed.take(2, "bc")
    assert followed.asked == [-1, 7]
    assert sorted(table.actors) == ["b", "c"]
    assert table.actors["b"] is before["b"]


def test_a_handle_that_came_before_its_view_is_fetched_again(followed):
    followed.answer("abc", upto=9)
    followed.take(1, "ab")
    followed.answers = []
    followed.answer("", upto=9)
    followed.answer("abc", upto=9)
    table = followed.take(2, "abc")
    assert followed.asked == [-1, 9, -1]
    assert sorted(table.actors) == ["a", "b", "c"]
    assert table.complete


def test_members_that_are_no_actors_are_known_as_such_after_one_question_for_all(followed):
    followed.answer("a", upto=3)
    assert followed.take(1, "ab").complete
    assert followed.asked == [-1]
    assert followed.take(2, "abc").complete
    assert followed.asked == [-1, 3, -1]


def test_a_partition_actor_that_recovers_or_does_not_answer_is_asked_again(followed):
    followed.answer("a", upto=3, complete=False)
    followed.answers += [PartitionActorUnavailable("away"), asyncio.TimeoutError(), GroupNotFound("not yet")]
    followed.answer("ab", upto=4)
    table = followed.take(1, "ab")
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert followed.asked == [-1, 3, 3, 3, 3]


def test_handles_fetched_for_an_older_view_do_not_complete_the_table(followed):
    followed.answer("a", upto=3)
    followed.meanwhile = lambda: followed.tell(("g", 2, "ab"))
    followed.answer("b", upto=4)
    table = followed.take(1, "a")
    assert table.epoch == (1, 2)
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert len(followed.asked) == 2


def test_no_handles_are_fetched_of_a_group_that_is_gone(followed):
    followed.answer("a", upto=3)
    followed.take(1, "a")
    table = followed.take(2, None)
    assert table.epoch is None
    assert table.owner("key") is None
    assert not table.actors
    assert followed.asked == [-1]


def test_an_actor_that_registers_again_keeps_its_calls_and_another_does_not(followed):
    followed.answer("a", upto=3)
    before = followed.take(1, "a").actors["a"]
    before.dead = True
    followed.answers = []
    followed.answer("a", upto=4)
    after = followed.take(2, "a").actors["a"]
    assert after is not before
    assert after.calls is before.calls
    assert not after.dead
    followed.answers = [{"actors": {"a": handle("another actor")}, "upto": 5, "complete": True}]
    assert followed.take(3, "a").actors["a"].calls is not before.calls


def test_a_ready_actor_is_the_owners_if_it_lives_and_takes_another_call(followed):
    assert followed.follower.table.ready_actor("key") is None
    followed.answer("a", upto=3)
    table = followed.take(1, "a")
    (actor,) = table.actors.values()
    assert table.ready_actor("key") is actor
    actor.calls.update(dict.fromkeys(range(10)))
    assert table.ready_actor("key") is None
    actor.calls.popitem()
    assert table.ready_actor("key") is actor
    actor.dead = True
    assert table.ready_actor("key") is None


def test_threads_and_tasks_are_woken_by_another_table(followed):
    follower, seen, woken = followed.follower, followed.follower.table, []

    def wait():
        about_to_wait.release()
        follower.wait(seen, LIMIT)
        woken.append("thread")

    async def all_at_once():
        task = asyncio.create_task(follower.await_change(seen, LIMIT))
        await asyncio.sleep(0)  # it waits now
        assert not task.done()
        assert not woken
        threading.Thread(target=followed.tell, args=[("g", 0, None)]).start()
        await task

    about_to_wait = threading.Semaphore(0)
    threads = [threading.Thread(target=wait) for _ in range(20)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for _ in threads:
        about_to_wait.acquire()
    asyncio.run(all_at_once())
    for thread in threads:
        thread.join(LIMIT)
    assert woken == ["thread"] * 20
    follower.wait(seen, LIMIT)
    asyncio.run(follower.await_change(seen, LIMIT))
    assert time.monotonic() - start < LIMIT


def test_nobody_waits_for_longer_than_was_said(followed):
    follower, start = followed.follower, time.monotonic()
    follower.wait(follower.table, 0.01)
    asyncio.run(follower.await_change(follower.table, 0.01))
    assert 0.02 <= time.monotonic() - start < LIMIT


def test_a_member_that_left_is_not_called_by_its_old_handle_when_it_comes_back(followed):
    followed.answer("ab", upto=3)
    followed.take(1, "ab")

    async def leave_and_return():
        followed.tell(("g", 2, "a"))
        followed.tell(("g", 3, "ab"))
        return followed.follower.table

    assert sorted(asyncio.run(leave_and_return()).actors) == ["a"]


def test_a_start_that_is_refused_raises_and_leaves_no_session(monkeypatch):
    made = Followed(monkeypatch, call_timeout=LIMIT)
    made.on_send = lambda: made.fail(GroupFull("full"))
    with pytest.raises(GroupFull):
        made.follower.start()
    assert not made.follower.is_active
    assert made.closed == made.ended == made.opened


def soon(call):
    """Call it on the background loop."""
    background_loop().call_soon_threadsafe(call)


def test_a_refusal_after_the_first_view_does_not_matter(monkeypatch):
    made = Followed(monkeypatch, call_timeout=LIMIT)
    made.answer("a")
    made.on_send = lambda: soon(lambda: (made.tell(("g", 1, "a")), made.fail(GroupFull("full"))))
    made.follower.start()
    assert made.follower.is_active
    assert made.follower.table.epoch == (1, 1)


def test_a_start_returns_when_there_is_no_such_group(monkeypatch):
    made = Followed(monkeypatch, call_timeout=LIMIT)
    made.on_send = lambda: soon(lambda: made.tell(("g", 0, None)))
    made.follower.start()
    assert made.follower.is_active
    assert made.follower.table.epoch is None


def test_a_follower_that_was_stopped_knows_nothing_and_can_start_again(followed):
    followed.answer("ab", upto=7)
    followed.take(1, "ab")
    followed.follower.stop()
    wait_until(lambda: followed.follower.table.epoch is None)
    assert not followed.follower.is_active
    followed.follower.start()
    assert followed.take(1, "ab").complete
    assert followed.asked == [-1, -1]


def test_calls_that_cannot_be_counted_do_not_end_the_connection(followed, monkeypatch):
    followed.answer("a", upto=3)
    table = followed.take(1, "a")
    (actor,) = table.actors.values()
    actor.calls["no reference"] = None
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "wait", lambda *_, **__: (_ for _ in ()).throw(TypeError("no reference")))
    assert set(followed.take(2, "ab").ring.members) == {"a", "b"}
    assert set(followed.take(3, "a").ring.members) == {"a"}


def test_heartbeats_do_not_start_a_ray_that_was_shut_down(followed, monkeypatch):
    """``ray.wait`` would; and the calls have ended with their Ray."""
    asked = []
    monkeypatch.setattr(ray, "wait", lambda *calls, **_: asked.append(calls))
    followed.answer("a", upto=3)
    (actor,) = followed.take(1, "a").actors.values()
    actor.calls.update(dict.fromkeys(range(actor.limit)))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    table = followed.take(2, "a")
    assert asked == []
    assert table.ready_actor("key") is not None
