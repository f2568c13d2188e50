"""Random calls to the partition actor's state machine, by hypothesis: what it always keeps to, whatever it is told."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from machines import PLAIN, World

from partition_actor.core.events import Where
from partition_actor.errors import PartitionError

NAMES = st.sampled_from(["a", "b", "c"])
GROUPS = st.sampled_from(["g", "h"])
SESSIONS = st.integers(0, 4)


class Calls(RuleBasedStateMachine):
    """Members with state machines of their own, bare callers and operators, and time that goes by."""

    @initialize(first=st.booleans(), restarted=st.booleans())
    def start(self, first, restarted):
        self.world = World()
        self.members = []
        self.epochs = {}
        if not first:
            self.world.restart(restarted=restarted)

    @rule(name=NAMES, exclusive=st.booleans(), weight=st.integers(1, 3))
    def a_process_starts(self, name, exclusive, weight):
        if len(self.members) < 6:
            group = "g" if exclusive else "h"
            self.members.append(self.world.member(name, group, f"node-{name}", exclusive=exclusive, weight=weight))

    @rule(group=GROUPS)
    def a_watcher_starts(self, group):
        if len(self.members) < 6:
            self.members.append(self.world.watcher("w", group=group))

    @precondition(lambda self: self.members)
    @rule(which=SESSIONS, group=GROUPS)
    def watch(self, which, group):
        self.members[which % len(self.members)].member_state.watch(group)

    @precondition(lambda self: self.members)
    @rule(which=SESSIONS, beats=st.integers(1, 3), adopts=st.booleans())
    def beat(self, which, beats, adopts):
        member = self.members[which % len(self.members)]
        member.adopts = adopts
        member.beat(beats)

    @precondition(lambda self: self.members)
    @rule(which=SESSIONS)
    def lose_the_reply(self, which):
        self.members[which % len(self.members)].send()

    @precondition(lambda self: self.members)
    @rule(which=SESSIONS, group=GROUPS)
    def leave(self, which, group):
        self.members[which % len(self.members)].member_state.leave(group)

    @precondition(lambda self: self.members)
    @rule(which=SESSIONS)
    def die(self, which):
        member = self.members.pop(which % len(self.members))
        self.world.membership.died(self.world.now, member.key)

    @precondition(lambda self: self.world.membership.may_hand_over)
    @rule(proven=st.booleans())
    def replace(self, proven):
        """The next partition actor knows what the former one did, and nobody works on other keys."""
        works_on = [member.works_on for member in self.members]
        former = self.world.replace(proven=False)  # a proof ends the sessions whose leases are over
        before, after = (each.state(self.world.now) for each in (former.membership, self.world.membership))
        lefts = []
        for state in (before, after):
            del state["incarnation"], state["events"], state["former"]
            lefts.append([session.pop("left") for session in state["sessions"]])
        for was, left in zip(*lefts, strict=True):
            assert was == left or was <= left <= was + PLAIN.ttl / 8
        assert before == after
        assert [member.works_on for member in self.members] == works_on
        if proven:
            self.world.driver.proof(self.world.now, self.world.now)

    @rule(name=NAMES, group=GROUPS, call=st.sampled_from(["join", "use", "leave", "drain", "forget", "heartbeat"]))
    def call(self, name, group, call):
        membership, now, key = self.world.membership, self.world.now, (name, "")
        try:
            if call == "join":
                membership.join(now, group, key, 1, None, None, Where(f"node-{name}"))
            elif call == "heartbeat":
                membership.heartbeat(now, key)
            elif call in ("use", "leave"):
                getattr(membership, call)(now, group, key)
            else:
                getattr(membership, call)(now, group, name)
        except PartitionError as error:
            assert group in str(error)  # noqa: PT017

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 11.5]), proven=st.booleans())
    def wait(self, seconds, proven):
        self.world.wait(seconds, proven=proven)

    @rule(nodes=st.sets(NAMES), dead=st.sets(NAMES))
    def nodes_drain(self, nodes, dead):
        draining = {f"node-{name}": None for name in sorted(nodes)}
        self.world.driver.draining(self.world.now, draining, {f"node-{name}" for name in dead - nodes})

    @rule(seconds=st.sampled_from([3.0, 30.0]))
    def the_coordinator_is_stopped(self, seconds):
        self.world.clock.advance(seconds)

    @rule()
    def the_coordinator_restarts(self):
        self.world.restart()

    @invariant()
    def no_key_has_two_owners(self):
        acting = [member.works_on for member in getattr(self, "members", ()) if member.group == "g"]
        assert len(set().union(*acting)) == sum(map(len, acting))

    @invariant()
    def published_epochs_only_grow(self):
        for name, group in self._groups():
            if group.epoch is not None:
                assert group.epoch >= self.epochs.get(name, group.epoch)
                self.epochs[name] = group.epoch

    @invariant()
    def books_are_kept(self):
        membership = self.world.membership
        for name, group in self._groups():
            for key in group.participants.keys() | group.joiners.keys():
                assert name in membership.sessions[key].groups
            for member, (weight, session) in group.next_ring.items():
                assert group.participants[member, session].weight == weight
            for key in group.participants:
                assert set(group.waits_for(key)) <= {other for other, _ in group.participants}
            assert not any(member == "w" for member, _ in group.participants.keys() | group.joiners.keys())
            assert set(membership.watchers.of(name)) <= membership.sessions.keys()
        for key in membership.sessions:
            assert key in membership._leases or key in membership._overdue
        assert membership.deadline() <= self.world.now + PLAIN.hold / 2

    def _groups(self):
        return sorted(self.world.membership.groups.items()) if hasattr(self, "world") else ()


Calls.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCalls = Calls.TestCase
