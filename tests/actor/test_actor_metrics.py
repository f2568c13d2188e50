"""What the partition actor records of its events and its state, and that it lets others have their turn."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest
from deployments import LIMIT
from fleet_statuses import fleet, worker
from machines import PLAIN, World, beat

from partition_actor import Settings
from partition_actor.actor import actor_metrics
from partition_actor.actor.actor_metrics import OTHERS, ActorMetrics
from partition_actor.actor.fleets import Fleets
from partition_actor.actor.load import Load
from partition_actor.core.events import KEPT, Cause
from partition_actor.core.messages import leader_name, lock_name


class FakeRecorder:
    """Keeps what is recorded, by name and tags."""

    def __init__(self):
        self.works = True
        self.gauges, self.counters, self.observed = {}, Counter(), defaultdict(list)

    def begin(self):
        pass

    def set(self, name, value, **tags):
        self.gauges[(name, *tags.values())] = value

    def add(self, name, value, **tags):
        self.counters[(name, *tags.values())] += value

    def observe(self, name, value, **tags):
        self.observed[(name, *tags.values())].append(value)


class Measured(World):
    """A partition actor whose metrics the test has recorded when it likes."""

    def __init__(self):
        super().__init__()
        self.recorded, self.load = FakeRecorder(), Load()
        self.fleets = Fleets()
        self.metrics = ActorMetrics(self.membership, self.load, {"held": None}, self.fleets, self.recorded)

    def record(self):
        """Record; returns the gauges."""
        for _ in self.metrics.steps(self.now):
            pass
        return self.recorded.gauges


@pytest.fixture
def world():
    return Measured()


def test_changes_are_counted_by_what_happened_and_each_only_once(world):
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    world.record()
    world.driver.died(world.now, b.key, seconds=0.25)
    beat(a)
    for _ in range(2):
        world.record()
    counted = world.recorded.counters
    assert counted["changes", "", "started"] == 1
    assert counted["changes", "g", "joined"] == 2
    assert counted["changes", "g", "died"] == 1
    assert world.recorded.observed["failover_detection_seconds", "g", "died"] == [0.25]


def test_an_epoch_of_several_changes_is_counted_once(world):
    members = [world.member(each) for each in "abc"]
    beat(*members)
    world.record()
    before, counter = world.recorded.counters["epochs", "g"], world.membership.groups["g"].epoch[1]
    for each in members[1:]:
        world.membership.died(world.now, each.key)
    beat(members[0])
    world.record()
    assert world.recorded.counters["epochs", "g"] - before == world.membership.groups["g"].epoch[1] - counter


def test_the_hand_off_that_is_under_way_is_the_longest_lag_and_then_it_is_observed(world):
    a = world.member("a")
    beat(a)
    a.adopts = False
    b = world.member("b")
    beat(a, b)
    world.clock.advance(1.5)
    assert world.record()["longest_lag_seconds", "g"] == pytest.approx(1.5)
    a.adopts = True
    a.member_state.acknowledge("g", a.member_state.view("g").epoch)
    beat(a, b)
    assert world.record()["longest_lag_seconds", "g"] == 0.0
    assert world.recorded.observed["handoff_seconds", "g"] == [pytest.approx(1.5)]


def test_a_group_that_is_gone_has_no_members(world):
    world.member("a").beat()
    assert world.record()["members", "g"] == 1
    world.driver.make_group(world.now, "h")
    world.record()
    assert world.call("delete_group", "h")
    gauges = world.record()
    assert ("longest_lag_seconds", "g") not in gauges
    assert (gauges["members", "h"], gauges["members", "g"], gauges["groups",]) == (0, 1, 1)


def test_groups_beyond_a_thousand_are_recorded_together(world, monkeypatch):
    monkeypatch.setattr(actor_metrics, "NAMED", 2)
    for group in "ghij":
        beat(world.member("a", group))
    gauges = world.record()
    assert {tags[0]: value for (name, *tags), value in gauges.items() if name == "members"} == {
        "g": 1,
        "h": 1,
        OTHERS: 2,
    }
    assert world.recorded.counters["changes", OTHERS, "joined"] == 2
    world.driver.died(world.now, ("a", world.membership.groups["g"].sessions["a"]))
    world.wait(10 * PLAIN.ttl)
    world.record()
    assert gauges["members", "g"] == 0


def test_who_waits_for_a_lock_is_counted_with_its_time_and_candidates_for_a_lead_are_not(world):
    holder, waiter = world.member("a"), world.member("b")
    for member in (holder, waiter):
        member.member_state.locks.add(lock_name("door"), shared=False, waits=True)
        member.member_state.locks.add(leader_name("g"), shared=False, waits=True)
        member.beat()
    world.record()
    world.clock.advance(3.0)
    gauges = world.record()
    assert (gauges["lock_waiters",], gauges["lock_wait_seconds",]) == (1, pytest.approx(3.0))


def test_changes_that_were_forgotten_before_they_were_counted_are_missed(world):
    world.record()
    for _ in range(KEPT + 7):
        world.membership.events.record(world.now, Cause("settings"))
    world.record()
    assert world.recorded.counters["changes", "", "missed"] == 7
    assert world.recorded.counters["changes", "", "settings"] == KEPT


def test_the_state_and_the_load_are_recorded(world):
    world.member("a").beat()
    world.load.heartbeat(0.0, None)
    gauges = world.record()
    assert world.recorded.counters["heartbeats",] == 1
    assert gauges["sessions",] == 1
    assert gauges["max_members",] == PLAIN.max_members
    assert (gauges["held_calls",], gauges["recovering",]) == (1, 0)


def test_others_have_their_turn_while_many_groups_are_recorded(world, monkeypatch):
    for number in range(200):
        world.driver.make_group(world.now, f"group-{number}")
    monkeypatch.setattr(actor_metrics, "recording_interval", lambda: 0.0)
    monkeypatch.setattr(actor_metrics, "SLICE", 0.0)
    turns = []

    async def others():
        while ("sessions",) not in world.recorded.gauges:
            turns.append(len(world.recorded.gauges))
            await asyncio.sleep(0)

    async def scenario():
        recording = asyncio.create_task(world.metrics.keep_recording())
        await asyncio.wait_for(others(), LIMIT)
        recording.cancel()

    asyncio.run(scenario())
    assert len(set(turns)) > 100


def test_the_setting_turns_recording_off_and_on(world, monkeypatch):
    monkeypatch.setattr(actor_metrics, "recording_interval", lambda: 0.0)
    world.membership.settings = Settings(**{**PLAIN.to_dict(), "metrics": False})

    async def turns(number):
        for _ in range(number):
            await asyncio.sleep(0)
        return dict(world.recorded.gauges)

    async def scenario():
        recording = asyncio.create_task(world.metrics.keep_recording())
        without = await turns(100)
        world.membership.settings = PLAIN
        with_metrics = await turns(100)
        recording.cancel()
        return without, with_metrics

    without, with_metrics = asyncio.run(scenario())
    assert not without
    assert with_metrics


def test_a_fleet_is_recorded_until_it_is_forgotten(world):
    workers = [worker(0, load=3.0), worker(1, load=5.0), worker(2, phase="starting")]
    world.fleets.note(world.now, fleet("f", "g", workers, ready=False, updating=True, restarts=2))
    gauges = world.record()
    assert {name: value for (name, *tags), value in gauges.items() if tags == ["g", "f"]} == {
        "fleet_size": 3,
        "fleet_serving": 2,
        "fleet_ready": 0,
        "fleet_updating": 1,
        "fleet_update_failed": 0,
        "fleet_load": 4.0,
    }
    world.fleets.note(world.now, fleet("f", "g", 3, restarts=3, update_failed="it cannot come up"))
    for _ in range(2):
        world.record()
    assert world.recorded.counters["fleet_restarts", "g", "f"] == 1  # those before it was first told of do not count
    assert (gauges["fleet_ready", "g", "f"], gauges["fleet_update_failed", "g", "f"]) == (1, 1)
    world.fleets.note(world.now, fleet("f", "g", over=True))
    gauges.clear()
    assert ("fleet_size", "g", "f") not in world.record()
