"""Random wishes for locks, by hypothesis: who holds one never holds it beside another, whatever happens."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machines import World

NAMES = st.sampled_from(["x", "y"])
WHO = st.integers(0, 3)


class Wishes(RuleBasedStateMachine):
    """Members that take and release locks, lose messages, lapse and die, and a partition actor that restarts."""

    @initialize(exclusive=st.booleans())
    def start(self, exclusive):
        self.world = World()
        self.members = [self.world.member(name, exclusive=exclusive) for name in "abcd"]
        self.tokens = {}

    @rule(who=WHO, name=NAMES, shared=st.booleans(), waits=st.booleans())
    def want(self, who, name, shared, waits):
        self.members[who].member_state.locks.add(name, shared=shared, waits=waits)

    @rule(who=WHO, which=st.integers(0, 3))
    def drop(self, who, which):
        locks = self.members[who].member_state.locks
        tickets = sorted(locks.stated())
        if tickets:
            locks.drop(tickets[which % len(tickets)])

    @rule(who=WHO, beats=st.integers(1, 3))
    def beat(self, who, beats):
        self.members[who].beat(beats)

    @rule(who=WHO)
    def lose_the_reply(self, who):
        self.members[who].send()

    @rule(who=WHO, seconds=st.sampled_from([0.5, 12.0]))
    def the_request_is_late(self, who, seconds):
        request = self.members[who].member_state.request(self.world.now)
        self.world.wait(seconds)
        self.world.driver.request(self.world.now, request)
        self.members[who].fetch(request)

    @rule(who=WHO)
    def die_and_come_back(self, who):
        old = self.members[who]
        self.world.membership.died(self.world.now, old.key)
        self.members[who] = self.world.member(old.id, exclusive=False, group="h")

    @rule(name=NAMES)
    def break_(self, name):
        self.world.membership.break_lock(self.world.now, name)

    @rule(seconds=st.sampled_from([0.1, 4.0, 10.5, 11.5]), proven=st.booleans())
    def wait(self, seconds, proven):
        self.world.wait(seconds, proven=proven)

    @rule(restarted=st.booleans())
    def the_coordinator_restarts(self, restarted):
        self.world.restart(restarted=restarted)

    @invariant()
    def nobody_holds_beside_who_holds_alone(self):
        for name in "xy":
            held = self._held(name)
            assert len(held) < 2 or all(claim.shared for _, claim in held)
            for who, claim in held:
                assert self.tokens.setdefault((name, claim.token), who) == who
                assert claim.shared or claim.token == max(token for lock, token in self.tokens if lock == name)

    @invariant()
    def books_are_kept(self):
        if not hasattr(self, "world"):
            return
        membership = self.world.membership
        table = membership.locks
        listed = [claim for lock in table.locks.values() for claim in lock.holders + lock.waiters]
        claims = [claim for known in table._claims.values() for claim in known.values()]
        assert sorted(map(id, listed)) == sorted(id(claim) for claim in claims if claim.verdict is None)
        assert set(table.due) <= set(table.locks)
        assert all(lock.holders or lock.waiters for lock in table.locks.values())
        assert {claim.key for claim in claims} | table.unverified <= set(membership.sessions)
        if not table.due and not membership.locks_unknown:
            assert all(lock.holders for lock in table.locks.values())

    def _held(self, name):
        members = getattr(self, "members", ())
        return [
            ((member.key, ticket), claim)
            for member in members
            for ticket, claim in member.member_state.locks_held(self.world.now).items()
            if claim.name == name
        ]


Wishes.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWishes = Wishes.TestCase
