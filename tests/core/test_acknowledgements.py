"""When a member says that it has let go of keys which others wait for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest
from machines import PLAIN, World, beat

from partition_actor.core.member import MemberState
from partition_actor.member import connection as connection_module
from partition_actor.member.connection import TELLING, Connection
from partition_actor.member.link import Link


def awaited_of(world, names, newcomer):
    members = [world.member(name) for name in names]
    beat(*members, *members)
    other = world.member(newcomer)
    other.beat(1)
    for member in members:
        member.adopts = False
        member.beat(1)
    return {member.id: member.member_state.view("g").awaited for member in [*members, other]}


def test_a_member_is_told_of_how_many_others_wait_to_hear():
    awaited = awaited_of(World(), "abcdef", "new")
    lose_keys = [name for name, count in awaited.items() if count]
    assert awaited["new"] == 0
    assert len(lose_keys) > 1
    assert {awaited[name] for name in lose_keys} == {len(lose_keys)}


class Recorder:
    def __init__(self):
        self.pauses = []

    def send_in(self, seconds):
        self.pauses.append(seconds)


class Loop:
    @staticmethod
    def call_soon_threadsafe(call, *args):
        call(*args)


@pytest.mark.parametrize(("senders", "pause"), [(1, 0.0), (21, 20 * TELLING), (10_000, PLAIN.hold / 4)])
def test_who_is_awaited_alone_answers_at_once_and_many_leave_the_coordinator_time(monkeypatch, senders, pause):
    settings = type(PLAIN)(**{**PLAIN.to_dict(), "publish_window": PLAIN.hold / 4})
    line = Connection("a", "coordinator", "", settings, lambda changes: None)
    line._member_state = MemberState("a", "s", settings)
    line._link = recorder = Recorder()
    monkeypatch.setattr(connection_module, "background_loop", Loop)
    line.send_in_turn(senders)
    assert recorder.pauses == [pytest.approx(pause)]


class Silent:
    """A partition actor that does not answer."""

    def __init__(self):
        self.sync = self

    def remote(self, request):
        return self

    def future(self):
        return concurrent.futures.Future()


def test_a_turn_that_is_waited_for_is_over_with_the_next_request():
    async def run():
        link = Link(MemberState("a", "s", PLAIN), threading.RLock(), "coordinator", "", None, lambda changes: None)
        link._handle = Silent()
        link.send_in(3600.0)
        turn = link._timer
        link.send_in(3600.0)
        assert link._timer is turn
        asyncio.get_running_loop().call_soon(link.send_now)  # a request of its own, overtaken at once
        await link._exchange()
        assert turn.cancelled()
        assert link._timer is None
        link.send_in(0.0)
        assert link._wake.is_set()

    asyncio.run(run())
