"""What the partition actor records of each change, and why."""

from __future__ import annotations

import pytest
from machines import PLAIN, World, beat

from partition_actor.core.events import AT_ONCE, Cause, Events
from partition_actor.core.messages import leader_name, lock_name
from partition_actor.settings import Settings

LEFT = Cause("left", ("it went",))


def told(world, what=None, group=None):
    """The events, oldest first: of one kind, or all."""
    events = world.membership.events.read(0, group)["events"]
    return [event for event in events if what in (None, event["what"])]


def the_one(world, what):
    (event,) = told(world, what)
    return event


def members_by_events(world, group):
    """The sessions of a group's members, by what began and what ended."""
    members = set()
    for event in told(world, group=group):
        key = (event["member"], event["session"])
        if event["what"] in ("joined", "rejoined"):
            members.add(key)
        elif event["what"] in ("left", "expired", "died", "drained", "forgotten", "superseded", "ending"):
            members.discard(key)
    return members


def published(world, group="g"):
    return set(world.membership.groups[group].sessions.items())


# -- the ring of events ----------------------------------------------------------------------------------------------


@pytest.fixture
def small():
    """A ring that keeps three, with five events recorded."""
    events = Events(1, kept=3)
    for number in range(5):
        events.record(float(number), LEFT, (f"m{number}", "s"), "even" if number % 2 == 0 else "odd")
    return events


def test_the_cursor_gives_each_event_once(small):
    first = small.read(limit=2)
    assert [event["member"] for event in first["events"]] == ["m2", "m3"]
    assert first["more"]
    second = small.read(first["next"], limit=2)
    assert [event["member"] for event in second["events"]] == ["m4"]
    assert (second["missed"], second["more"], second["next"]) == (0, False, small.next)
    assert small.read(second["next"]) == {"events": [], "next": small.next, "missed": 0, "more": False}


def test_the_cursor_tells_how_many_are_kept_no_more(small):
    assert small.read()["missed"] == 2
    assert small.read(small.next - 4)["missed"] == 1
    assert small.read(small.next - 3)["missed"] == 0


def test_a_cursor_of_another_partition_actor_begins_at_the_oldest_and_says_that_nobody_knows(small):
    for since in (1, small.next + 1, Events(2).next):
        answer = small.read(since)
        assert answer["missed"] == -1
        assert len(answer["events"]) == 3


def test_a_cursor_of_a_former_partition_actor_is_known_as_such():
    former, latter = Events(1000), Events(1001)
    former.record(0.0, LEFT)
    latter.record(0.0, LEFT)
    assert latter.read(former.next)["missed"] == -1


def test_one_group_is_told_of_and_the_cursor_passes_over_the_others(small):
    answer = small.read(group="even", limit=1)
    assert [event["member"] for event in answer["events"]] == ["m2"]
    assert answer["more"]
    assert [event["member"] for event in small.read(answer["next"], "even")["events"]] == ["m4"]
    assert small.read(group="odd")["next"] == small.next


def test_one_answer_is_bounded():
    events = Events(1)
    for _ in range(AT_ONCE + 1):
        events.record(0.0, LEFT)
    answer = events.read()
    assert len(answer["events"]) == AT_ONCE
    assert len(events.read(answer["next"])["events"]) == 1


def test_times_are_told_as_unix_times(small):
    assert [event["time"] for event in small.read(zero=1000.0)["events"]] == [1002.0, 1003.0, 1004.0]


# -- members -----------------------------------------------------------------------------------------------------------


def test_who_joins_is_told_with_the_epoch_that_shows_it():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    assert [(event["member"], event["session"]) for event in told(world, "joined")] == [a.key, b.key]
    assert told(world, "joined")[1]["epoch"] == world.membership.groups["g"].epoch
    assert members_by_events(world, "g") == published(world)


def test_where_a_member_runs_is_told_as_soon_as_it_is_known():
    world = World()
    a = world.member("a")
    a.beat()
    assert the_one(world, "joined")["node"] is None
    world.driver.locate(a.key, "node", 7)
    assert (the_one(world, "joined")["node"], the_one(world, "joined")["pid"]) == ("node", 7)
    world.driver.died(world.now, a.key)
    assert (the_one(world, "died")["node"], the_one(world, "died")["pid"]) == ("node", 7)


def test_a_silent_member_expires_with_the_age_of_its_last_heartbeat():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    last = world.now
    while ("a", a.key[1]) in published(world):
        world.wait(1.0)
        b.beat()
    expired = the_one(world, "expired")
    assert expired["member"] == "a"
    assert expired["seconds"] == pytest.approx(expired["time"] - last)
    assert expired["why"] == f"no heartbeat for {expired['seconds']:.1f} s"
    assert members_by_events(world, "g") == published(world)


def test_a_death_names_who_said_so():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    world.driver.died(world.now, a.key, "", ("the kernel says so, {} ms later", 4), 0.004)
    died = the_one(world, "died")
    assert (died["member"], died["why"], died["seconds"]) == ("a", "the kernel says so, 4 ms later", 0.004)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_process_that_is_ending_is_told_and_then_dead(exclusive):
    world = World()
    a, b = world.member("a", exclusive=exclusive), world.member("b", exclusive=exclusive)
    beat(a, b)
    world.driver.ending(world.now, a.key)
    assert the_one(world, "ending")["member"] == "a"
    assert published(world) == {b.key} == members_by_events(world, "g")
    world.driver.died(world.now, a.key)
    assert the_one(world, "died")["member"] == "a"


def test_one_that_is_dead_before_the_next_epoch_has_died():
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    a, b = world.member("a"), world.member("b")
    for _ in range(3):
        beat(a, b)
        world.wait(2.0)
    c = world.member("c")
    c.beat()
    world.driver.ending(world.now, a.key)
    world.driver.died(world.now, a.key)
    world.wait(2.0)
    assert the_one(world, "died")["epoch"] == world.membership.groups["g"].epoch
    assert told(world, "ending") == []


def test_one_that_stops_has_left():
    world = World()
    a = world.member("a")
    a.beat()
    world.driver.close(world.now, a.key)
    assert the_one(world, "left")["member"] == "a"


def test_one_that_leaves_has_left():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    a.member_state.leave("g")
    beat(a, b)
    assert the_one(world, "left")["member"] == "a"
    assert members_by_events(world, "g") == published(world) == {b.key}


@pytest.mark.parametrize("what", ["drain", "forget"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_what_an_operator_does_is_told(what, exclusive):
    world = World()
    a, b = world.member("a", exclusive=exclusive), world.member("b", exclusive=exclusive)
    beat(a, b)
    getattr(world.membership, what)(world.now, "g", "a")
    assert the_one(world, {"drain": "drained", "forget": "forgotten"}[what])["member"] == "a"
    assert members_by_events(world, "g") == published(world) == {b.key}


def test_a_forgotten_member_of_an_exclusive_group_expires_when_its_lease_does():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    world.membership.forget(world.now, "g", "a")
    a.adopts = False
    while not told(world, "expired"):
        world.wait(1.0)
        b.beat()
    assert "operator" in the_one(world, "expired")["why"]


def test_a_session_that_takes_an_id_over_is_named():
    world = World()
    old = world.member("a")
    old.beat()
    new = world.member("a")
    beat(new)
    superseded = the_one(world, "superseded")
    assert superseded["session"] == old.key[1]
    assert new.key[1] in superseded["why"]
    assert members_by_events(world, "g") == published(world) == {new.key}


def test_one_that_comes_back_after_its_lease_has_rejoined():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    while not told(world, "expired"):
        world.wait(1.0)
        b.beat()
    beat(a, b)
    assert the_one(world, "rejoined")["member"] == "a"
    assert members_by_events(world, "g") == published(world) == {a.key, b.key}


def test_another_weight_is_told():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    a.member_state.join("g", weight=3)
    beat(a, b)
    assert the_one(world, "weight")["why"] == "it weighs 3 instead of 1"


def test_one_that_comes_and_goes_before_the_next_epoch_is_no_event():
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    a = world.member("a")
    a.beat()
    world.membership.join(world.now, "g", ("b", ""), 1, None, None)
    world.membership.leave(world.now, "g", ("b", ""))
    world.wait(3.0)
    assert [event["member"] for event in told(world, "joined")] == ["a"]
    assert told(world, "left") == []


def test_one_that_goes_and_comes_back_before_the_next_epoch_has_joined_again():
    world = World(Settings(**{**PLAIN.to_dict(), "publish_window": 1.0}))
    world.member("a").beat()
    world.wait(3.0)
    world.membership.join(world.now, "g", ("b", ""), 1, None, None)
    world.membership.leave(world.now, "g", ("a", world.membership.groups["g"].sessions["a"]))
    world.membership.join(world.now, "g", ("a", world.membership.groups["g"].sessions["a"]), 1, None, None)
    world.wait(3.0)
    assert [event["member"] for event in told(world, "joined")] == ["a", "b", "a"]
    assert members_by_events(world, "g") == published(world)


# -- hand-offs ---------------------------------------------------------------------------------------------------------


def test_a_hand_off_is_over_with_the_last_acknowledgement():
    world = World()
    a, b, c = (world.member(name) for name in "abc")
    beat(a, b)
    before = len(told(world, "handed_over"))
    b.adopts = False
    start = world.now
    beat(c, a)
    epoch = world.membership.groups["g"].epoch
    world.wait(1.0)
    beat(a, b, c)
    assert world.membership.groups["g"].handoff(world.now) == {
        "seconds": world.now - start,
        "held_up_by": ["b"],
        "members": 1,
    }
    b.member_state.acknowledge("g", epoch)
    beat(b)
    assert world.membership.groups["g"].handoff(world.now) is None
    over = told(world, "handed_over")[before:]
    assert [(event["epoch"], event["member"]) for event in over] == [(epoch, "b")]
    assert over[0]["seconds"] == pytest.approx(over[0]["time"] - start)
    assert over[0]["why"] == "it was the last of 2 that held it up, until it acknowledged"


def test_a_hand_off_is_over_when_the_one_that_holds_it_up_is_dead():
    world = World()
    a, b = world.member("a"), world.member("b")
    a.beat()
    a.adopts = False
    beat(b, a)
    world.driver.locate(a.key, "node", 7)
    world.driver.died(world.now, a.key)
    over = told(world, "handed_over")[0]
    assert (over["member"], over["node"]) == ("a", "node")
    assert "until it was out of the group" in over["why"]


def test_a_drained_member_that_acknowledges_ends_the_hand_off():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    world.membership.drain(world.now, "g", "a")
    beat(b, a)
    assert told(world, "handed_over")[-1]["why"] == "it was the last of 2 that held it up, until it acknowledged"
    assert members_by_events(world, "g") == published(world) == {b.key}


def test_one_that_holds_a_hand_off_up_for_too_long_is_fenced():
    world = World()
    a, b = world.member("a"), world.member("b")
    a.beat()
    a.adopts = False
    b.beat()
    while not told(world, "fenced"):
        world.wait(1.0)
        beat(a, b)
    fenced = the_one(world, "fenced")
    assert fenced["member"] == "a"
    assert fenced["seconds"] > PLAIN.handoff_timeout
    assert f"{fenced['seconds']:.1f} s" in fenced["why"]
    while not told(world, "expired"):
        world.wait(1.0)
        beat(a, b)
    assert "hand-off" in the_one(world, "expired")["why"]


# -- locks and leaders -------------------------------------------------------------------------------------------------


def test_a_lock_that_is_granted_and_lost():
    world = World()
    a = world.member("a")
    a.member_state.locks.add(lock_name("l"))
    beat(a)
    granted = the_one(world, "lock_granted")
    assert (granted["member"], granted["lock"], granted["group"]) == ("a", lock_name("l"), None)
    world.driver.died(world.now, a.key, "", ("killed",))
    assert (the_one(world, "lock_lost")["member"], the_one(world, "lock_lost")["why"]) == ("a", "killed")


def test_a_lock_that_is_released_is_not_lost():
    world = World()
    a = world.member("a")
    ticket = a.member_state.locks.add(lock_name("l"))
    beat(a)
    a.member_state.locks.drop(ticket)
    beat(a)
    assert told(world, "lock_lost") == []


def test_a_lock_that_is_broken_is_told_once():
    world = World()
    a = world.member("a")
    a.member_state.locks.add(lock_name("l"))
    beat(a)
    world.membership.break_lock(world.now, lock_name("l"))
    world.membership.break_lock(world.now, lock_name("l"))
    beat(a)
    assert the_one(world, "lock_broken")["member"] == "a"
    assert told(world, "lock_lost") == []


def test_leaders_come_and_go():
    world = World()
    a, b = world.member("a"), world.member("b")
    a.member_state.locks.add(leader_name("g"))
    beat(a)
    b.member_state.locks.add(leader_name("g"))
    beat(b)
    world.driver.died(world.now, a.key)
    world.wait(1.0)
    beat(b)
    assert [(event["group"], event["member"]) for event in told(world, "leader")] == [
        ("g", "a"),
        ("g", None),
        ("g", "b"),
    ]
    assert told(world, "leader")[1]["why"] == "a led: its process is dead"
    assert told(world, "lock_lost") == []


def test_a_leader_whose_hold_is_broken_leads_no_more_when_it_knows():
    world = World()
    a = world.member("a")
    a.member_state.locks.add(leader_name("g"))
    beat(a)
    world.membership.break_lock(world.now, leader_name("g"))
    assert the_one(world, "lock_broken")["lock"] == leader_name("g")
    beat(a)
    assert told(world, "leader")[-1]["why"] == "a led: an operator broke its hold"


# -- the partition actor itself ----------------------------------------------------------------------------------------


def test_a_recovery_is_told_for_each_group_and_as_a_whole():
    world = World()
    members = [world.member(name) for name in "ab"]
    beat(*members)
    world.restart()
    for _ in range(8):
        beat(*members)
        world.wait(2.0)
    beat(*members)
    assert "may have granted" in the_one(world, "started")["why"]
    of_group, whole = sorted(told(world, "recovered"), key=lambda event: event["group"] is None)
    assert of_group["why"] == "2 of its members kept their places"
    assert (of_group["group"], of_group["epoch"]) == ("g", world.membership.groups["g"].epoch)
    assert whole["seconds"] > 0


def test_one_that_dies_while_the_group_recovers_is_told_at_once():
    world = World()
    a, b = world.member("a"), world.member("b")
    beat(a, b)
    world.restart()
    beat(a, b)
    world.driver.died(world.now, a.key)
    assert the_one(world, "died")["member"] == "a"
    assert the_one(world, "died")["epoch"] is None


def test_the_end_is_told_once():
    world = World()
    world.member("a").beat()
    world.driver.end(world.now)
    world.driver.end(world.now)
    assert "1 session" in the_one(world, "ending")["why"]
