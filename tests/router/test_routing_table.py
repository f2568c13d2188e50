"""What a router knows of its group: views as they arrive, the handles that belong to them, and who is woken."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from partition_actor import Settings
from partition_actor.core.member import Change, MemberState
from partition_actor.core.views import View
from partition_actor.errors import GroupFull, GroupNotFound, PartitionActorUnavailable
from partition_actor.router import routing_table
from partition_actor.router.routing_table import GroupFollower

LIMIT = 30.0


def handle(actor):
    return SimpleNamespace(_actor_id=actor)


def view(number, members):
    return None if members is None else View((1, number), 0, True, dict.fromkeys(members, 1), False)


class FakeSession:
    """A session whose views the test tells, and which answers `get_actors` from a list, with the last answer for good.

    `on_start` is what happens before the first request is answered.
    """

    def __init__(self, member_id, actor, namespace, settings, on_changes):
        self.active = False
        self.lock = threading.RLock()
        self.member_state = MemberState(member_id, "session", settings)
        self.failure = None
        self.on_start = lambda: None
        self.closed = False
        self.asked = []
        self.is_asked = False
        self.answers = []
        self.meanwhile = None
        """What happens while the first question is under way."""
        self._on_changes = on_changes

    def start(self):
        self.active = True

    def stop(self):
        self.active = False

    def close_session(self):
        self.closed = True

    def forget_failure(self):
        self.failure = None

    def send_now(self):
        self.on_start()

    def wait(self, done):
        return done()

    def tell(self, *changes):
        """Take in a reply with these changes: (group, number of the epoch, members)."""
        self._on_changes([Change(group, None, view(number, members), "watching") for group, number, members in changes])

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


class Followed:
    """A follower and its session."""

    def __init__(self, monkeypatch):
        made = []
        monkeypatch.setattr(routing_table, "FETCH_PAUSES", (0.001, 0.002))
        monkeypatch.setattr(routing_table, "Session", lambda *args: made.append(FakeSession(*args)) or made[0])
        self.follower = GroupFollower("g", "name", "namespace", Settings(), 10)
        (self.session,) = made

    def take(self, number, members):
        """Let a view arrive, and wait until nothing is fetched any more; the table then."""

        async def arrive():
            self.session.tell(("other", 99, "xyz"), ("g", number, members))
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
    followed.session.answer("ab", upto=7)
    table = followed.take(1, "ab")
    assert table.epoch == (1, 1)
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert table.actors["a"].handle._actor_id == "actor of a"
    assert {table.owner(key) for key in range(100)} == {"a", "b"}


def test_only_new_handles_are_fetched_and_former_members_are_dropped(followed):
    session = followed.session
    session.answer("ab", upto=7)
    before = followed.take(1, "ab").actors
    session.answers = []
    session.answer("c", upto=9)
    table = followed.take(2, "bc")
    assert session.asked == [-1, 7]
    assert sorted(table.actors) == ["b", "c"]
    assert table.actors["b"] is before["b"]


def test_a_handle_that_came_before_its_view_is_fetched_again(followed):
    session = followed.session
    session.answer("abc", upto=9)
    followed.take(1, "ab")
    session.answers = []
    session.answer("", upto=9)
    session.answer("abc", upto=9)
    table = followed.take(2, "abc")
    assert session.asked == [-1, 9, -1]
    assert sorted(table.actors) == ["a", "b", "c"]
    assert table.complete


def test_members_that_are_no_actors_are_known_as_such_after_one_question_for_all(followed):
    followed.session.answer("a", upto=3)
    assert followed.take(1, "ab").complete
    assert followed.session.asked == [-1]
    assert followed.take(2, "abc").complete
    assert followed.session.asked == [-1, 3, -1]


def test_a_partition_actor_that_recovers_or_does_not_answer_is_asked_again(followed):
    session = followed.session
    session.answer("a", upto=3, complete=False)
    session.answers += [PartitionActorUnavailable("away"), asyncio.TimeoutError(), GroupNotFound("not yet")]
    session.answer("ab", upto=4)
    table = followed.take(1, "ab")
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert session.asked == [-1, 3, 3, 3, 3]


def test_handles_fetched_for_an_older_view_do_not_complete_the_table(followed):
    session = followed.session
    session.answer("a", upto=3)
    session.meanwhile = lambda: session.tell(("g", 2, "ab"))
    session.answer("b", upto=4)
    table = followed.take(1, "a")
    assert table.epoch == (1, 2)
    assert table.complete
    assert sorted(table.actors) == ["a", "b"]
    assert len(session.asked) == 2


def test_no_handles_are_fetched_of_a_group_that_is_gone(followed):
    followed.session.answer("a", upto=3)
    followed.take(1, "a")
    table = followed.take(2, None)
    assert table.epoch is None
    assert table.owner("key") is None
    assert not table.actors
    assert followed.session.asked == [-1]


def test_an_actor_that_registers_again_keeps_its_calls_and_another_does_not(followed):
    session = followed.session
    session.answer("a", upto=3)
    before = followed.take(1, "a").actors["a"]
    before.dead = True
    session.answers = []
    session.answer("a", upto=4)
    after = followed.take(2, "a").actors["a"]
    assert after is not before
    assert after.calls is before.calls
    assert not after.dead
    session.answers = [{"actors": {"a": handle("another actor")}, "upto": 5, "complete": True}]
    assert followed.take(3, "a").actors["a"].calls is not before.calls


def test_a_ready_actor_is_the_owners_if_it_lives_and_takes_another_call(followed):
    assert followed.follower.table.ready_actor("key") is None
    followed.session.answer("a", upto=3)
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
        threading.Thread(target=followed.session.tell, args=[("g", 0, None)]).start()
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
    followed.session.answer("ab", upto=3)
    followed.take(1, "ab")

    async def leave_and_return():
        followed.session.tell(("g", 2, "a"))
        followed.session.tell(("g", 3, "ab"))
        return followed.follower.table

    assert sorted(asyncio.run(leave_and_return()).actors) == ["a"]


def test_a_start_that_is_refused_raises_and_leaves_no_session(monkeypatch):
    made = Followed(monkeypatch)
    made.session.on_start = lambda: setattr(made.session, "failure", GroupFull("full"))
    with pytest.raises(GroupFull):
        made.follower.start()
    assert not made.follower.is_active
    assert made.session.closed


def test_a_refusal_after_the_first_view_does_not_matter(monkeypatch):
    made = Followed(monkeypatch)

    def on_start():
        made.session.failure = GroupFull("full")
        made.session.member_state.groups["g"].views.append(view(1, "a"))

    made.session.on_start = on_start
    made.follower.start()
    assert made.follower.is_active
