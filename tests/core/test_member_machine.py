"""Random replies to the member's state machine, by hypothesis: late, repeated, from any partition actor."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from machines import KEYS, PLAIN

from partition_actor.core.member import MemberState
from partition_actor.core.views import difference

MEMBERS = st.dictionaries(st.sampled_from(["me", "b", "c"]), st.integers(1, 2), min_size=1)
ENTRIES = st.one_of(
    st.none(),
    st.just({"state": "out"}),
    st.just({"state": "superseded"}),
    st.builds(
        lambda incarnation, counter, rev, members, laggards: {
            "view": {
                "epoch": (incarnation, counter),
                "rev": rev,
                "exclusive": True,
                "mine": "me" in members,
                "base": None,
                "changed": members,
                "laggards": [{"member": name, "epochs": [(0, at)]} for at, name in enumerate(laggards)],
                "rings": [
                    {"epoch": (0, at), "whole": False, "members": difference(ring, members)}
                    for at, ring in enumerate(laggards.values())
                ],
            }
        },
        st.integers(1, 3),
        st.integers(1, 6),
        st.integers(0, 2),
        MEMBERS,
        st.dictionaries(st.sampled_from(["b", "c"]), MEMBERS, max_size=1),
    ),
)


def reply_to(own, entry):
    """What a partition actor says of the group in answer to the latest request."""
    return {
        "seq": own.request(50.0)["seq"],
        "incarnation": 1,
        "lease": 10.0,
        "exclusive_lease": 10.0,
        "interval": 2.0,
        "resync": False,
        "views": False,
        "groups": {"g": entry},
    }


@pytest.mark.parametrize("end", ["out", "superseded", "missing", "taken"])
def test_a_group_that_is_over_takes_no_view_any_more(end):
    own = MemberState("me", "s", PLAIN)
    own.join("g", exclusive=True)
    view = {
        "epoch": (1, 1),
        "rev": 0,
        "exclusive": True,
        "mine": True,
        "base": None,
        "changed": {"me": 1},
        "laggards": [],
        "rings": [],
    }
    own.receive(reply_to(own, {"view": {**view, "epoch": (1, 2)}}))
    own.receive(reply_to(own, {"state": end}))
    assert own.receive(reply_to(own, {"view": view})) == []
    assert (own.groups["g"].state, own.view("g")) == (end, None)


class Replies(RuleBasedStateMachine):
    """One member, one group, and replies as the network likes."""

    def __init__(self):
        super().__init__()
        self.now = 50.0
        self.own = MemberState("me", "s", PLAIN)
        self.own.join("g", exclusive=True)
        self.sent = {}
        self.heard = False
        self.epoch = (0, 0)
        self.incarnation = 0

    @rule(seconds=st.sampled_from([0.0, 0.5, 4.0, 12.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def send(self):
        request = self.own.request(self.now)
        assert request["seq"] > max(self.sent, default=0)
        self.sent[request["seq"]] = self.now
        self.heard = False

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(0, 2), incarnation=st.integers(1, 3), term=st.sampled_from([0.0, 10.0]), entry=ENTRIES)
    def reply(self, back, incarnation, term, entry):
        seq = max(self.sent) - back
        before = self.own.exclusive_until
        changes = self.own.receive(
            {
                "seq": seq,
                "incarnation": incarnation,
                "lease": term,
                "exclusive_lease": term,
                "interval": 2.0,
                "resync": False,
                "views": False,
                "groups": {} if entry is None else {"g": entry},
            }
        )
        counts = back == 0 and not self.heard and incarnation >= self.incarnation
        assert (changes is not None) == counts
        if not counts:
            assert self.own.exclusive_until == before
            return
        self.heard, self.incarnation = True, incarnation
        if term:
            assert self.own.exclusive_until == max(before, self.sent[seq] + term)

    @rule(incarnation=st.integers(1, 3), counter=st.integers(1, 6))
    def adopt(self, incarnation, counter):
        held = self.own.groups["g"]
        waits = self.own.acknowledge("g", (incarnation, counter))
        if held.view is None:
            assert not waits
        else:
            assert held.acked <= held.view.epoch

    @rule()
    def leave(self):
        self.own.leave("g")

    @rule(weight=st.integers(1, 2))
    def join(self, weight):
        if self.own.groups["g"].state != "superseded":
            self.own.join("g", weight, exclusive=True)

    @invariant()
    def epochs_only_grow(self):
        view = self.own.view("g")
        if self.own.groups["g"].state == "out":
            self.epoch = (0, 0)
        if view is not None:
            assert view.epoch >= self.epoch
            self.epoch = view.epoch

    @invariant()
    def views_go_from_the_one_acknowledged_to_the_one_held(self):
        held = self.own.groups["g"]
        epochs = [view.epoch for view in held.views]
        assert epochs == sorted(set(epochs))
        assert held.acked is None if not epochs else held.acked <= epochs[-1]

    @invariant()
    def it_acts_by_its_lease_and_its_view_alone(self):
        mine = self.own.subset(self.now, "g", KEYS)
        assert mine == [key for key in KEYS if self.own.may_act(self.now, "g", key)]
        if self.now >= self.own.exclusive_until or self.own.view("g") is None:
            assert mine == []
            assert self.own.token(self.now, "g") == 0
        if mine:
            assert self.own.groups["g"].state == "member"
            assert self.own.token(self.now, "g") > 0


Replies.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestReplies = Replies.TestCase
