"""What a member keeps of the rings of its group's epochs: by measure, and by how often a ring is made."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

import partition_actor.ring.ring as ring_module
from partition_actor import Settings
from partition_actor.core.member import MemberState
from partition_actor.ring import Arcs, Ring
from partition_actor.ring.byte_cache import ByteCache

KEYS = [f"key-{number}" for number in range(100)]
SETTINGS = Settings()
CHANGES = 40


class Told:
    """A member of an exclusive group that is told of one change after another: at each another member leaves.

    `laggard` never acknowledges, and `acknowledges` says whether this member does.
    """

    def __init__(self, members: int, weight: int, laggard: str | None = None, acknowledges: bool = True) -> None:
        self.member_state = MemberState("me", "session", SETTINGS)
        self.member_state.join("g", exclusive=True)
        self._members = {"me": weight, "laggard": weight, **{f"worker-{n}": weight for n in range(1, members - 1)}}
        self._laggard, self._acknowledges = laggard, acknowledges
        self._history: dict[tuple[int, int], dict[str, int]] = {}

    def change(self, look_up: bool = True) -> None:
        """Take in the next view, and look every key up."""
        own, epoch = self.member_state, (1, len(self._history) + 1)
        self._members = dict(self._members)
        self._members.pop(f"worker-{epoch[1]}")
        self._members[f"newcomer-{epoch[1]}"] = self._members["me"]
        told = list(self._history) if self._laggard else []
        view = {
            "epoch": epoch,
            "rev": 0,
            "exclusive": True,
            "mine": True,
            "base": None,
            "changed": self._members,
            "laggards": [{"member": self._laggard, "epochs": told}] if told else [],
            "rings": [{"epoch": at, "whole": True, "members": self._history[at]} for at in told],
        }
        reply = {"incarnation": 1, "lease": 90.0, "exclusive_lease": 90.0, "interval": 2.0}
        request = own.request(float(epoch[1]))
        own.receive({**reply, "seq": request["seq"], "resync": False, "views": False, "groups": {"g": {"view": view}}})
        self._history[epoch] = self._members
        if look_up:
            self.look_up()
        if self._acknowledges:
            own.acknowledge("g", epoch)

    def look_up(self) -> list[str]:
        """The keys that this member may work on."""
        return [key for key in KEYS if self.member_state.may_act(1.0, "g", key)]


@pytest.mark.parametrize("acknowledges", [True, False])
def test_forty_changes_among_200_members_of_weight_64_leave_at_most_64_mb(acknowledges):
    told = Told(200, 64, acknowledges=acknowledges)
    told.change()
    gc.collect()
    tracemalloc.start()  # the first ring takes seconds to make, and longer when each allocation is counted
    try:
        for _ in range(CHANGES):
            told.change()
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    view = told.member_state.view("g")
    assert kept <= (64 << 20) + view.ring(SETTINGS).nbytes


def test_the_rings_of_epochs_that_a_laggard_may_act_on_are_not_made_at_each_look_up(monkeypatch):
    told = Told(100, 1, laggard="laggard")
    made = []
    plain = Ring._fields_after
    monkeypatch.setattr(Ring, "_fields_after", lambda *args: made.append(args) or plain(*args))
    for _ in range(CHANGES):
        told.change()
    view = told.member_state.view("g")
    assert len(view.rings) == CHANGES - 1
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Arcs, "minus", None)
        mine = told.look_up()
    assert made == []
    withheld = [Ring(members) for members in view.rings.values()]
    ring = Ring(view.members)
    assert mine == [
        key for key in KEYS if ring.owner(key) == "me" and all(old.owner(key) != "laggard" for old in withheld)
    ]


def test_a_ring_is_made_from_the_former_one_however_many_groups_have_large_rings(monkeypatch):
    made = []
    plain = ring_module.virtual_nodes
    monkeypatch.setattr(ring_module, "_rings", ByteCache(0))
    monkeypatch.setattr(ring_module, "virtual_nodes", lambda member, *rest: made.append(member) or plain(member, *rest))
    groups = [Told(20, weight) for weight in (1, 2, 3)]
    for told in groups:
        told.change()
    made.clear()
    for told in groups:
        told.change(look_up=False)
    for told in groups:
        told.change()
    assert sorted(made) == ["newcomer-2"] * 3 + ["newcomer-3"] * 3


def test_a_view_looks_its_share_up_again_after_another_has_taken_its_place():
    told = Told(5, 1, acknowledges=False)
    told.change()
    former = told.member_state.view("g")
    before = [former.ring(SETTINGS).owner(key) for key in KEYS]
    told.change()
    assert told.member_state.view("g") is not former
    assert [former.ring(SETTINGS).owner(key) for key in KEYS] == before
