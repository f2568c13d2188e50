"""The partition actor on an event loop without Ray: who is answered when, and what survives a failure."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from partition_actor import clock
from partition_actor.actor import partition_actor as module
from partition_actor.actor.bare_callers import BareCallers
from partition_actor.actor.event_log import EventLog
from partition_actor.actor.member_handles import MemberHandles
from partition_actor.actor.partition_actor import PartitionActor
from partition_actor.core.driver import MembershipDriver
from partition_actor.core.member import MemberState
from partition_actor.core.membership import Membership
from partition_actor.errors import PartitionActorReplaced, PartitionActorUnavailable
from partition_actor.settings import Settings

LIMIT = 20.0
LONG = Settings(ttl=200.0, hold=60.0, handoff_timeout=60.0)
"""No heartbeat ends by itself within the limit."""


class Shell:
    """A partition actor, the GCS that it asks, and members."""

    def __init__(self, settings=LONG, **started):
        self.actor = PartitionActor("name", settings.to_dict())
        self.actor._node = "node"
        self.actor._watch = SimpleNamespace(forget=lambda key: None)
        self.actor._callers = BareCallers(self.actor._watch, MemberHandles(1), lambda *_: None, LIMIT)
        self.actor._driver = MembershipDriver(Membership(settings, 1000, clock.now(), **started))
        self.actor._event_log = EventLog(self.actor._driver.membership.events)
        self.driver, self.settings = self.actor._driver, settings
        self.answers = []
        """What the GCS does, one after another; then it counts the node as alive."""
        self.asked = 0

    async def alive_nodes(self):
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else {"node"}
        if isinstance(answer, Exception):
            raise answer
        return answer

    def member(self, member_id):
        return MemberState(member_id, f"session of {member_id}", self.settings)

    async def exchange(self, member):
        """One heartbeat; returns the reply."""
        reply = await asyncio.wait_for(self.actor.sync(member.request(clock.now())), LIMIT)
        for change in member.receive(reply) or ():
            if change.after is not None:
                member.acknowledge(change.group, change.after.epoch)
        return reply

    async def held(self, member):
        """A heartbeat that is held."""
        task = asyncio.ensure_future(self.actor.sync(member.request(clock.now())))
        await turns()
        assert not task.done()
        return task


async def turns():
    """Let the loop do all that is ready."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition):
    for _ in range(int(LIMIT * 100)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come true in time")


@pytest.fixture
def run(monkeypatch):
    """Run a scenario with a shell on a loop of its own."""

    def run(scenario, settings=LONG, **started):
        async def go():
            shell = Shell(settings, **started)
            monkeypatch.setattr(module, "alive_nodes", shell.alive_nodes)
            await scenario(shell)

        asyncio.run(go())

    return run


async def joined(shell, member, group="g"):
    member.join(group, exclusive=True)
    shell.driver.proof(clock.now(), clock.now())
    while member.view(group) is None:
        await shell.exchange(member)
    return member


def test_a_held_heartbeat_is_answered_with_news(run):
    async def scenario(shell):
        a = await joined(shell, shell.member("a"))
        held = await shell.held(a)
        b = shell.member("b")
        b.join("g", exclusive=True)
        await shell.exchange(b)
        reply = await asyncio.wait_for(held, LIMIT)
        assert reply["groups"]["g"]["view"]["changed"] == {"b": 1}

    run(scenario, first=True)


def test_a_late_request_does_not_answer_the_one_that_is_held(run):
    async def scenario(shell):
        a = await joined(shell, shell.member("a"))
        late = a.request(clock.now())
        held = await shell.held(a)
        assert await shell.actor.sync(late) is None
        await turns()
        assert not held.done()
        held.cancel()

    run(scenario, first=True)


def test_a_later_request_ends_the_one_that_is_held(run):
    async def scenario(shell):
        a = await joined(shell, shell.member("a"))
        first = await shell.held(a)
        second = await shell.held(a)
        assert await asyncio.wait_for(first, LIMIT) is None
        second.cancel()

    run(scenario, first=True)


def test_a_heartbeat_that_lets_a_waiting_call_go_on_is_told_what_that_changes(run):
    """The holder of a lock reports to a partition actor that has restarted, at which somebody waits to break it."""

    async def scenario(shell):
        a = shell.member("a")
        a.join("g", exclusive=False)
        ticket = a.locks.add("l")
        a.request(clock.now())
        a.receive(
            {
                "seq": 1,
                "incarnation": 1000,
                "lease": 100.0,
                "exclusive_lease": 100.0,
                "interval": 60.0,
                "resync": False,
                "views": False,
                "groups": {},
                "locks": {1: 7},
            }
        )
        assert a.holds(clock.now(), ticket)
        a.take_settings(shell.settings)  # it has found another partition actor
        breaking = asyncio.ensure_future(shell.actor.break_lock("l"))
        await turns()
        await shell.exchange(a)
        assert a.locks.state(ticket) == "lost"
        (await shell.held(a)).cancel()
        assert await asyncio.wait_for(breaking, LIMIT) == 1

    run(scenario, restarted=True)


def test_a_cancelled_call_takes_no_further_step(run):
    async def scenario(shell):
        await shell.actor.join("g", "a")
        joining = asyncio.ensure_future(shell.actor.join("g", "b"))
        await turns()
        leaving = asyncio.ensure_future(shell.actor.leave("g", "a"))  # waits until b's join is published
        await turns()
        leaving.cancel()
        assert (await asyncio.wait_for(joining, LIMIT))["members"] == {"a": 1, "b": 1}
        assert await shell.actor.get_members("g") == ["a", "b"]

    run(scenario, Settings(publish_window=1.0), first=True)


def test_a_call_that_fails_takes_no_other_with_it(run, monkeypatch):
    async def scenario(shell):
        def use(self, now, group, key):
            if key[0] == "bad":
                raise RuntimeError("use failed")
            return

        monkeypatch.setattr(Membership, "use", use)
        shell.settings = Settings(publish_window=0.02)
        calls = [asyncio.ensure_future(shell.actor.get_subset("g", name, ["k"])) for name in ("a", "bad", "b")]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), LIMIT)
        assert results[0] == results[2] == []
        assert isinstance(results[1], RuntimeError)

    run(scenario, first=True)


QUICK = Settings(node_proof_interval=0.01)


@pytest.mark.parametrize("answer", [RuntimeError("no GCS"), set()], ids=["no answer", "counted as dead"])
def test_after_a_lost_proof_the_next_is_asked_for_one_interval_later(run, monkeypatch, answer):
    async def scenario(shell):
        shell.answers = [answer]
        slept, sleep = [], asyncio.sleep

        async def counted(seconds):
            slept.append((shell.asked, seconds))
            await sleep(seconds)

        monkeypatch.setattr(module.asyncio, "sleep", counted)
        proving = asyncio.ensure_future(shell.actor._keep_proving())
        while not shell.driver.membership.proven_since(0.0):
            await sleep(0.001)
        proving.cancel()
        assert slept == [(1, QUICK.node_proof_interval)]

    run(scenario, QUICK, first=True)


def test_proofs_go_on_when_what_follows_from_one_fails(run, monkeypatch):
    async def scenario(shell):
        proof = MembershipDriver.proof
        failures = [RuntimeError("it failed")]

        def failing(self, *arguments):
            if failures:
                raise failures.pop()
            proof(self, *arguments)

        monkeypatch.setattr(MembershipDriver, "proof", failing)
        proving = asyncio.ensure_future(shell.actor._keep_proving())
        await until(lambda: shell.driver.membership.proven_since(0.0))
        proving.cancel()

    run(scenario, QUICK, first=True)


def test_a_call_that_needs_a_later_proof_does_not_wait_for_the_next_interval(run):
    async def scenario(shell):
        proving = asyncio.ensure_future(shell.actor._keep_proving())
        await joined(shell, shell.member("a"))
        asked = shell.asked
        assert await asyncio.wait_for(shell.actor.get_subset("g", "b", ["k"]), LIMIT) is not None
        assert shell.asked > asked
        proving.cancel()

    run(scenario, Settings(ttl=200.0, hold=60.0, handoff_timeout=60.0, node_proof_interval=90.0), first=True)


class KeptByTheGcs:
    """Records of which the GCS confirms a state when the test says so."""

    are_kept = True

    def __init__(self):
        self.confirmed, self.states = asyncio.Event(), []

    def known(self):
        return None

    async def hand_over(self, form, known, state):
        await self.confirmed.wait()
        self.states.append(state)


def test_nobody_is_told_of_a_hand_over_before_the_gcs_has_the_state(run):
    """Whoever is told ends this process."""

    async def scenario(shell):
        records = shell.actor._records = KeptByTheGcs()
        shell.actor._actor_id = lambda: "actor"
        handing_over = asyncio.ensure_future(shell.actor.hand_over())
        await until(lambda: shell.driver.is_handed_over)
        copying = asyncio.ensure_future(shell.actor.copy_state())
        await turns()
        assert not copying.done()
        records.confirmed.set()
        with pytest.raises(PartitionActorReplaced):
            await asyncio.wait_for(copying, LIMIT)
        await asyncio.wait_for(handing_over, LIMIT)
        assert records.states[0]["next"] == LONG.to_dict()

    run(scenario, first=True)


def test_one_that_the_gcs_counts_dead_hands_nothing_over(run):
    """The one that has its place may be among those that it knows, and a crash of that one would bring this back."""

    async def scenario(shell):
        records = shell.actor._records = KeptByTheGcs()
        records.confirmed.set()
        shell.answers = [set()]
        with pytest.raises(PartitionActorUnavailable, match="nothing was handed over"):
            await shell.actor.hand_over()
        assert not shell.driver.is_handed_over

    run(scenario, first=True)
