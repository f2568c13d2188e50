"""Who waits for whom: the ranges of rule 4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import KEYS, PLAIN, World, beat

import partition_actor.ring.ring as ring_module
from partition_actor.core.handoff import KEPT, Handoff, Participant
from partition_actor.core.views import applied, ring_for
from partition_actor.ring.byte_cache import ByteCache

A, B, C = ("a", "s"), ("b", "s"), ("c", "s")
TWO, THREE = {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}
OCCUPANTS = {"a": "s", "b": "s", "c": "s"}


def handoff_of(*epochs):
    handoff = Handoff(PLAIN)
    seats = {}
    for counter, members in enumerate(epochs, start=1):
        for name in members:
            seats.setdefault((name, "s"), Participant(1, acked=(1, counter), first=(1, counter)))
        handoff.publish((1, counter), members, OCCUPANTS, seats, now=float(counter))
    return handoff, seats


@pytest.mark.parametrize(
    ("acked", "first", "last", "claimed"),
    [
        (None, (1, 1), None, []),
        ((1, 1), (1, 1), None, [1, 2, 3]),
        ((1, 2), (1, 1), None, [2, 3]),
        ((1, 4), (1, 1), None, []),
        ((1, 1), (1, 3), None, [3]),
        ((1, 1), (1, 1), (1, 3), [1, 2]),
        ((1, 1), None, None, []),
    ],
)
def test_a_laggard_claims_what_it_may_act_on_since_it_acknowledged(acked, first, last, claimed):
    epochs = [{"a": weight, "b": 1} for weight in (1, 2, 3, 4)]
    handoff, _ = handoff_of(*epochs)
    seat = Participant(1, acked=acked, first=first, last=last)
    assert handoff.claims(A, seat) == [(1, counter) for counter in claimed]


def test_only_those_wait_who_own_what_a_laggard_claims():
    handoff, _ = handoff_of(TWO, THREE)
    old, new = ring_for(TWO, PLAIN), ring_for(THREE, PLAIN)
    losers = {old.owner(key) for key in range(1000) if old.owner(key) != new.owner(key)}
    assert {name for name, _ in handoff.blockers(C)} == losers
    assert list(handoff.blockers(A)) == list(handoff.blockers(B)) == []


def test_an_acknowledgement_tells_those_who_waited_and_nobody_else():
    handoff, seats = handoff_of(TWO, THREE)
    assert list(handoff.blockers(C)) == [A]
    seats[A].acked = seats[B].acked = (1, 2)
    assert set(handoff.release(A, seats[A])) == {C}
    assert not handoff.release(B, seats[B])
    assert list(handoff.blockers(C)) == []


def test_a_laggard_that_is_gone_blocks_nobody():
    handoff, _ = handoff_of(TWO, THREE)
    assert list(handoff.blockers(C)) == [A]
    assert [set(handoff.release(key)) for key in (A, A, B)] == [{C}, set(), set()]
    assert list(handoff.blockers(C)) == []


def test_a_session_waits_for_the_one_whose_id_it_took():
    handoff = Handoff(PLAIN)
    old = Participant(1, acked=(1, 1), first=(1, 1), last=(1, 2))
    new = Participant(1, acked=(1, 2), first=(1, 2))
    seats = {("a", "old"): old, ("a", "new"): new}
    handoff.publish((1, 1), {"a": 1}, {"a": "old"}, {("a", "old"): old}, 0.0)
    handoff.publish((1, 2), {"a": 1}, {"a": "new"}, seats, 1.0)
    assert list(handoff.blockers(("a", "new"))) == [("a", "old")]


@pytest.mark.parametrize(("acked", "since"), [(None, None), ((1, 1), 2.0), ((1, 2), 3.0), ((1, 3), None)])
def test_lagging_counts_from_the_first_epoch_not_acknowledged(acked, since):
    handoff, _ = handoff_of(TWO, THREE, TWO)
    assert handoff.lagging_since(Participant(1, acked=acked)) == since


def test_epochs_that_nobody_can_act_on_are_forgotten():
    handoff, seats = handoff_of(TWO, THREE, TWO, THREE)
    for seat in seats.values():
        seat.acked = (1, 3)
    handoff.trim(seats.values())
    assert handoff.claims(A, Participant(1, acked=(1, 1), first=(1, 1))) == [(1, 3)]


def test_moved_keys_pause_until_the_loser_is_through_and_the_others_never():
    world = World()
    first, second = world.member("a"), world.member("b")
    beat(first, second)
    before = {first: set(first.works_on), second: set(second.works_on)}
    first.adopts = second.adopts = False
    third = world.member("c")
    for member in (third, first, second):
        member.beat()
    assert third.works_on == []
    for member in (first, second):
        assert set(member.works_on) <= before[member]
    assert len(first.works_on) + len(second.works_on) < len(KEYS)
    first.adopts = second.adopts = True
    for member in (first, second):
        member.member_state.acknowledge("g", member.member_state.view("g").epoch)
    beat(first, second, third)
    assert sorted(first.works_on + second.works_on + third.works_on) == sorted(KEYS)
    assert third.works_on


def test_a_hand_off_that_takes_too_long_ends_with_the_lease_of_the_old_owner():
    world = World()
    slow = world.member("a")
    slow.beat()
    slow.adopts = False
    other = world.member("b")
    beat(slow, other)
    waits_for = set(KEYS) - set(slow.works_on)
    assert other.works_on == []
    seconds = 0.0
    while not other.works_on:
        assert seconds < PLAIN.handoff_timeout + PLAIN.ttl * 1.1 + 3.0
        world.wait(0.5)
        seconds += 0.5
        slow.beat(1)
        other.beat(1)
    assert seconds > PLAIN.handoff_timeout
    assert waits_for <= set(other.works_on)


class InTwoGroups:
    """Member a owns all keys of g and h, and holds up the hand-off of g to b."""

    def __init__(self):
        self.world = World()
        self.a, self.b = self.world.member("a"), self.world.member("b")
        self.a.member_state.join("h", exclusive=True)
        self.a.beat()
        self.a.adopts = False
        beat(self.a, self.b)
        self.waited_for = set(KEYS) - set(self.works_on("g"))
        """The keys of b."""

    def works_on(self, group):
        return self.a.member_state.subset(self.world.now, group, KEYS)

    def beat_until(self, condition, limit=PLAIN.handoff_timeout + PLAIN.ttl * 1.1 + 3.0, **wait):
        end = self.world.now + limit
        while not condition():
            assert self.world.now < end
            self.world.wait(0.5, **wait)
            self.a.beat(1)
            assert self.works_on("h") == KEYS
            self.b.beat(1)


def test_who_holds_up_one_group_loses_its_keys_there_alone():
    both = InTwoGroups()
    both.beat_until(lambda: not both.works_on("g"))
    assert both.b.works_on == []  # the partition actor waits a little longer: clocks differ
    both.beat_until(lambda: set(both.b.works_on) == both.waited_for)
    a = both.a.member_state
    both.a.adopts = True
    both.a.beat()
    a.acknowledge("g", a.view("g").epoch)
    beat(both.a, both.b)
    assert sorted(both.works_on("g") + both.b.works_on) == sorted(KEYS)
    assert both.works_on("g")
    assert both.works_on("h") == KEYS


def test_who_lets_go_late_works_on_at_once_in_that_group():
    both = InTwoGroups()
    kept = both.works_on("g")
    both.beat_until(lambda: not both.works_on("g"))
    a = both.a.member_state
    a.acknowledge("g", a.view("g").epoch)
    assert both.a.beat(1)["groups"] == {}  # told, although there is no news
    assert both.works_on("g") == kept
    assert not both.world.driver.membership.sessions[both.a.key].fenced


def test_a_group_with_a_laggard_gives_its_keys_to_nobody_without_a_proof():
    both = InTwoGroups()
    both.beat_until(lambda: not both.works_on("g"))
    proven = both.world.membership._proof
    both.world.membership.proven_since = lambda at: proven >= at
    both.world.wait(PLAIN.ttl * 2)
    both.a.beat(1)
    both.b.beat(1)
    assert both.b.works_on == []
    del both.world.membership.proven_since
    both.beat_until(lambda: set(both.b.works_on) == both.waited_for)


def test_a_reply_without_a_lease_lifts_no_fence():
    both = InTwoGroups()
    both.beat_until(lambda: not both.works_on("g"))
    both.world.restart()
    reply = both.a.beat(1)
    assert (reply["exclusive_lease"], reply.get("fenced")) == (0.0, None)
    assert both.works_on("g") == []
    report = both.a.member_state.request(both.world.now)["groups"]
    assert (report["g"].get("lapsed"), report["h"].get("lapsed")) == (True, None)


def test_metadata_live_on_when_a_member_comes_back_to_a_group():
    both = InTwoGroups()
    both.a.member_state.join("g", metadata=b"about a")
    both.beat_until(lambda: set(both.b.works_on) == both.waited_for)
    both.a.beat()
    assert both.world.membership.groups["g"].participants[both.a.key].metadata == b"about a"


def test_a_laggard_costs_the_same_however_many_epochs_it_lags(monkeypatch):
    made, plain = [], ring_module.virtual_nodes
    monkeypatch.setattr(ring_module, "_rings", ByteCache(0))
    monkeypatch.setattr(ring_module, "virtual_nodes", lambda member, *rest: made.append(member) or plain(member, *rest))
    handoff, laggard = Handoff(PLAIN), Participant(1, acked=(1, 1), first=(1, 1))
    key = ("lag", "s")
    for counter in range(1, 40):
        made.clear()
        members = {"lag": 1, **{f"m{number}": 1 for number in range(counter, counter + 30)}}
        handoff.publish((1, counter), members, dict.fromkeys(members, "s"), {key: laggard}, now=float(counter))
        handoff.blockers(key)
        assert len(handoff.claims(key, laggard)) <= KEPT + 1
    assert len(made) <= 50 * (KEPT + 2)
    assert handoff.lagging_since(laggard) == 2.0


@given(st.data())
def test_the_ring_of_older_epochs_withholds_all_that_a_laggard_had(data):
    ids = [f"m{number}" for number in range(6)]
    some = st.dictionaries(st.sampled_from(ids), st.integers(1, 3), max_size=6)
    epochs = [
        {**members, "lag": weight}
        for members, weight in data.draw(st.lists(st.tuples(some, st.integers(1, 3)), min_size=KEPT + 2, max_size=12))
    ]
    key, laggard = ("lag", "s"), Participant(1, acked=(1, 1), first=(1, 1))
    handoff = Handoff(PLAIN)
    for counter, members in enumerate(epochs, start=1):
        handoff.publish((1, counter), members, dict.fromkeys(members, "s"), {key: laggard}, now=0.0)
    label = handoff.claims(key, laggard)[0]
    told, published = handoff.ring_at(label), epochs[-1]
    joined = told["members"] if told["whole"] else applied(told["members"], published)
    withheld = ring_for(joined, PLAIN)
    for members in epochs[: -KEPT - 1]:
        ring = ring_for(members, PLAIN)
        assert all(withheld.owner(number) == "lag" for number in range(200) if ring.owner(number) == "lag")
    laggard.acked = (1, len(epochs) - 1)
    handoff.release(key, laggard)
    assert handoff.claims(key, laggard) == [laggard.acked]
