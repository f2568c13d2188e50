"""The benchmarks' simulated members count what happened."""

import math
import sys
from pathlib import Path

import pytest

from partition_actor.core.driver import MembershipDriver
from partition_actor.core.membership import Membership
from partition_actor.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import _members
import core

SETTINGS = Settings()
HELD = SETTINGS.hold


class Pair:
    """Two members of one group and their partition actor, on one clock."""

    def __init__(self, *, exclusive=False):
        self.now = 0.0
        self.driver = MembershipDriver(Membership(SETTINGS, 1, self.now, first=True))
        self.driver.proof(0.0, 0.0)
        self.tally = _members.Tally()
        self.members = {
            name: _members.Member(name, "group", exclusive=exclusive, settings=SETTINGS) for name in ("a", "b")
        }

    def exchange(self, name, hold=0.0, delay=0.0):
        """One request of a member; the reply is made `hold` seconds later and takes `delay` seconds."""
        request = self.members[name].request(self.now)
        self.driver.request(self.now, request)
        self.now += hold
        self.driver.timer(self.now)
        self.driver.actions(self.now)
        reply = self.driver.reply(self.now, (name, request["session"]), request["seq"])
        self.now += delay
        self.members[name].take(reply, self.now, self.tally)


@pytest.fixture(params=[False, True], ids=["plain", "exclusive"])
def pair(request):
    pair = Pair(exclusive=request.param)
    for _ in range(3):  # join, publish, and in an exclusive group hand over
        for name in pair.members:
            pair.exchange(name, hold=0.1)
    pair.tally = _members.Tally()
    return pair


def test_members_know_of_each_other_and_when_they_were_told(pair):
    assert [member.size for member in pair.members.values()] == [2, 2]
    told = pair.members["a"].told_at
    assert 0.0 < told < pair.now
    pair.exchange("a", hold=0.1)
    assert pair.members["a"].told_at == told


def test_only_a_reply_after_it_was_due_is_late(pair):
    pair.exchange("a", hold=0.95 * HELD)
    pair.exchange("a", hold=HELD, delay=0.25)
    assert pair.tally.heartbeats == 2
    assert pair.tally.lateness == pytest.approx([0.0, 0.25])


def test_news_counts_in_bytes_and_not_as_late(pair):
    before = pair.members["a"].received_bytes
    pair.exchange("a", hold=HELD)
    assert pair.members["a"].received_bytes == before
    pair.tally = _members.Tally()
    pair.driver.died(pair.now, ("b", _members.session_of("b")))
    pair.exchange("a", delay=10 * HELD)
    assert pair.members["a"].received_bytes > before
    assert pair.members["a"].size == 1
    assert pair.tally.lateness == []


def test_a_live_member_that_was_expired_is_counted(pair):
    while ("a", _members.session_of("a")) in pair.driver.membership.sessions:  # it is silent for longer than its lease
        pair.driver.proof(pair.now, pair.now)
        pair.exchange("b", hold=HELD)
    pair.tally = _members.Tally()
    for _ in range(2):  # the first is short, and refers to a request that is forgotten
        pair.exchange("a", hold=0.5)
    assert pair.tally.rejoined == 1


def test_a_reply_that_a_later_request_has_overtaken_is_no_heartbeat(pair):
    pair.members["a"].take(None, pair.now, pair.tally)
    assert pair.tally == _members.Tally()


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (98.5, 99), (99, 99), (99.1, 100), (100, 100)]
)
def test_percentiles_are_values_that_were_measured(percent, expected):
    assert _members.percentile(range(100, 0, -1), percent) == expected


def test_nothing_measured_has_no_percentile():
    assert math.isnan(_members.percentile([], 99))


def test_groups_are_filled_one_after_another():
    assert _members.groups_of(5, 2) == [
        ("member-0", "group-0"),
        ("member-1", "group-0"),
        ("member-2", "group-1"),
        ("member-3", "group-1"),
        ("member-4", "group-2"),
    ]


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_core_alone_serves_idle_heartbeats_and_expires_exactly_the_silent(exclusive):
    crowd = core.Crowd(30, 3, 3, exclusive=exclusive)
    for _ in range(2):
        crowd.round(crowd.members, crowd.driver.membership.interval / 30)
        crowd.expire(4, groups=2)
        crowd.catch_up()
    sessions = crowd.driver.membership.sessions
    assert {member for member, _ in sessions} == {member.member_id for member in crowd.members}
    assert len(sessions) == 22
    assert sum(len(group.members) for group in crowd.driver.membership.groups.values()) == 22
    assert len(crowd.driver.membership.groups["group-2"].members) == 10
