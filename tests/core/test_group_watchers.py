"""Following a group without being a member of it: what watchers are told, and that nobody minds them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import KEYS, PLAIN, World, beat

from partition_actor.core.group import ReportState
from partition_actor.core.group_watchers import GroupWatchers
from partition_actor.core.membership import Membership
from partition_actor.errors import GroupFull
from partition_actor.settings import Settings


def members_seen(watcher):
    view = watcher.member_state.view(watcher.group)
    return None if view is None else dict(view.members)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_watcher_is_told_of_each_change_and_is_no_member(exclusive):
    world = World()
    a, watcher = world.member("a", exclusive=exclusive), world.watcher("w")
    beat(a, watcher)
    assert members_seen(watcher) == {"a": 1}
    b = world.member("b", exclusive=exclusive)
    beat(a, b)
    assert world.membership.has_news(watcher.key)
    watcher.beat()
    assert members_seen(watcher) == {"a": 1, "b": 1}
    assert not world.membership.has_news(watcher.key)
    assert watcher.works_on == []
    assert watcher.member_state.token(world.now, "g") == 0
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)


def test_the_change_wakes_those_who_watch_the_group_and_no_others():
    world = World()
    watcher, other = world.watcher("w"), world.watcher("o", group="h")
    beat(watcher, other)
    for held in (watcher, other):
        held.send()
    world.driver.actions(world.now)
    world.member("a").beat()
    answered = world.driver.actions(world.now).answer
    assert watcher.key in answered
    assert other.key not in answered


def test_a_watcher_makes_no_group_and_waits_until_there_is_one():
    world = World()
    watcher = world.watcher("w")
    watcher.beat()
    assert world.membership.groups == {}
    assert watcher.member_state.groups["g"].unknown
    assert not world.membership.has_news(watcher.key)
    world.member("a").beat()
    watcher.beat()
    assert members_seen(watcher) == {"a": 1}


def test_a_watcher_hears_that_a_group_has_gone():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    a.member_state.leave("g")
    beat(a, watcher)
    assert members_seen(watcher) == {}
    while "g" in world.membership.groups:
        world.wait(2.0)
        watcher.beat()
    watcher.beat()
    assert members_seen(watcher) is None
    assert [change.after for change in watcher.changes[-1:]] == [None]


def test_an_exclusive_group_does_not_wait_for_a_watcher():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    b = world.member("b")
    beat(a, b)
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)
    assert b.member_state.view("g").laggards == ()


def test_a_watcher_counts_among_the_sessions_and_its_lease_ends():
    world = World(Settings(**{**PLAIN.to_dict(), "max_members": 2}))
    watcher, a = world.watcher("w"), world.member("a")
    beat(watcher, a)
    with pytest.raises(GroupFull):
        world.member("b").beat()
    for _ in range(7):
        world.wait(2.0)
        a.beat()
    assert list(world.membership.sessions) == [a.key]
    assert not list(world.membership.watchers.of("g"))
    world.member("b").beat()


def test_a_watcher_that_was_forgotten_goes_on_by_itself():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    for _ in range(7):
        world.wait(2.0)
        a.beat()
    world.member("b").beat()
    watcher.beat()
    assert members_seen(watcher) == {"a": 1, "b": 1}


def test_a_watcher_that_is_done_is_told_nothing_more():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    watcher.member_state.leave("g")
    assert "g" not in watcher.member_state.groups
    watcher.beat()
    assert not list(world.membership.watchers.of("g"))


@pytest.mark.parametrize("exclusive", [True, False])
def test_during_recovery_watchers_keep_their_view_and_new_ones_get_the_latest_reported(exclusive):
    world = World()
    a, old = world.member("a", exclusive=exclusive), world.watcher("w")
    beat(a, old)
    epoch = old.member_state.view("g").epoch
    world.restart()
    new = world.watcher("n")
    new.beat()
    assert members_seen(new) is None
    assert not new.member_state.groups["g"].unknown
    new.send()
    world.driver.actions(world.now)
    beat(a)
    assert new.key in world.driver.actions(world.now).answer
    beat(old, new)
    assert members_seen(old) == members_seen(new) == {"a": 1}
    assert new.member_state.view("g").epoch == epoch
    b = world.member("b", exclusive=exclusive)
    for _ in range(8):
        world.wait(2.0)
        beat(a, b, old, new)
    assert members_seen(old) == members_seen(new) == {"a": 1, "b": 1}
    assert new.member_state.view("g").epoch == b.member_state.view("g").epoch > epoch


def test_a_group_that_nobody_outlived_is_unknown_once_the_recovery_is_over():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    world.restart()
    watcher.beat()
    assert members_seen(watcher) == {"a": 1}
    for _ in range(8):
        world.wait(2.0)
        watcher.beat()
    assert members_seen(watcher) is None
    assert world.membership.groups == {}


def test_the_lease_of_a_member_that_also_watches_is_its_own():
    world = World()
    member = world.member("a")
    b = world.member("b", group="h")
    b.beat()
    member.member_state.watch("h")
    member.beat()
    assert member.works_on == KEYS
    assert member.member_state.view("h").members == {"b": 1}
    for _ in range(4):
        world.wait(4.0)
        beat(b, member)
    assert member.works_on == KEYS
    assert world.membership.groups["h"].members == {"b": 1}


def test_who_watches_may_join_and_who_joined_may_watch():
    world = World()
    a, b = world.member("a"), world.watcher("b")
    beat(a, b)
    b.member_state.join("g", exclusive=True)
    beat(a, b)
    assert sorted(a.works_on + b.works_on) == sorted(KEYS)
    assert b.works_on
    b.member_state.watch("g")
    beat(a, b)
    assert a.works_on == KEYS
    assert b.works_on == []
    assert members_seen(b) == {"a": 1}


def test_a_late_view_does_not_take_a_watcher_back():
    world = World()
    a, watcher = world.member("a"), world.watcher("w")
    beat(a, watcher)
    late = world.membership.groups["g"].view_for_watcher(ReportState(None, 0))
    beat(world.member("b"), a, watcher)
    request = watcher.member_state.request(world.now)
    world.driver.request(world.now, request)
    reply = world.driver.reply(world.now, watcher.key, request["seq"])
    assert watcher.member_state.receive({**reply, "groups": {"g": {"view": late}}}) == []
    assert members_seen(watcher) == {"a": 1, "b": 1}


def test_a_request_of_a_watcher_says_what_it_knows():
    world = World()
    watcher = world.watcher("w")
    reports = []
    for _ in range(2):
        request = watcher.send()
        reports.append(request["groups"]["g"])
        watcher.fetch(request)
    assert [(report["want"], report["have"], report["unknown"]) for report in reports] == [
        ("watch", None, False),
        ("watch", None, True),
    ]


def test_a_watcher_that_lost_its_group_takes_no_earlier_view_and_is_told_none():
    world = World()
    a, watcher = world.member("a", exclusive=False), world.watcher("w")
    beat(a, watcher)
    beat(world.member("b", exclusive=False), watcher)
    epoch = watcher.member_state.view("g").epoch
    world.restart()
    for _ in range(8):
        world.wait(2.0)
        watcher.beat()
    assert watcher.member_state.groups["g"].unknown
    world.restart()
    a.send()  # with the view before the last
    watcher.beat()
    assert members_seen(watcher) is None
    assert not world.membership.has_news(watcher.key)
    for _ in range(8):
        world.wait(2.0)
        beat(a, watcher)
    assert members_seen(watcher) == {"a": 1}
    assert watcher.member_state.view("g").epoch > epoch


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.frozensets(st.sampled_from("ghi"))),
        max_size=30,
    )
)
@settings(deadline=None)
def test_who_watches_what_is_what_each_said_last(calls):
    watchers, said = GroupWatchers(), {}
    for session, groups in calls:
        watchers.watch((session, ""), groups)
        said[session] = groups
        for group in "ghi":
            assert set(watchers.of(group)) == {(each, "") for each, wanted in said.items() if group in wanted}
    for session in said:
        watchers.watch((session, ""), frozenset())
    assert vars(watchers) == vars(GroupWatchers())  # nothing is left behind


def test_a_partition_actor_that_may_not_be_the_first_shows_groups_that_are_not_exclusive_at_once():
    world = World()
    world.membership = Membership(PLAIN, 5, world.now)
    world.driver.proof(world.now, world.now)
    a, watcher = world.member("a", exclusive=False), world.watcher("w")
    beat(a, watcher)
    assert members_seen(watcher) == {"a": 1}
