"""With any one rule broken, the simulation fails."""

from __future__ import annotations

import random

import pytest
from mutants import MUTANTS

from partition_actor.settings import Settings
from partition_actor.testing import SimulatedCluster, Violation
from partition_actor.testing.cluster import FAULTS, PLANNED
from partition_actor.testing.conditions import Conditions, draw
from partition_actor.testing.simulation import run

SEEDS = 600
GROWING = Settings(
    ttl=1.0,
    hold=0.2,
    max_heartbeats_per_second=5.0,
    max_members=10,
    vnodes=3,
    publish_window=0.0,
    node_proof_interval=0.1,
)
TWO_PARTITION_ACTORS = ("partition actor cut off", "join", "restart", "weight change", "leave", "cut", "bare caller")

FOCUS = {
    "no_margin": ("pause", "cut", "join"),
    "bare_caller_without_lease": ("bare caller", "forget", "join"),
    "bare_caller_answered_without_proof": TWO_PARTITION_ACTORS,
    "next_process_answered_at_once": ("bare caller", "join"),
    "death_of_the_next_process_frees_the_former": ("bare caller", "crash", "join"),
    "leases_ended_without_proof": ("partition actor cut off", "pause", "cut"),
    "recovery_ended_without_proof": ("partition actor cut off", "partition actor crash"),
    "incarnation_ignored": TWO_PARTITION_ACTORS,
    "later_incarnation_exceeded": TWO_PARTITION_ACTORS,
    "views_of_the_past_not_learnt": ("partition actor crash", "join", "crash"),
}
"""Mutants that only a rare combination of faults reveals, and these faults."""

ENDS = ("partition actor shutdown", "partition actor crash", "join", "restart", "weight change")
FOCUS |= dict.fromkeys(
    (
        "ended_before_the_wait_is_over",
        "lease_granted_while_ending",
        "let_go_before_callbacks_have_returned",
        "withdrawn_lease_goes_on",
    ),
    ENDS,
)
FOCUS |= {
    "bare_caller_told_of_a_shorter_ttl": ("settings change", "bare caller", "join"),
    "former_ttl_forgotten_by_a_restart": ("bare caller", "join", "pause"),
    "ttl_grown_before_the_record": ("join",),
}
DRAINS = dict.fromkeys(
    (
        "drained_by_its_node_released_at_once",
        "member_stays_on_a_draining_node",
        "drain_is_for_ever",
        "those_that_wait_are_not_asked_again",
        "those_that_are_replaced_stay_for_ever",
    ),
    (*PLANNED, "join", "restart"),
)
FOCUS |= DRAINS
FOCUS |= dict.fromkeys(
    (
        "one_that_has_handed_over_goes_on",
        "leases_not_handed_over",
        "acknowledgements_not_handed_over",
        "earlier_rings_not_handed_over",
    ),
    ("partition actor replaced", "join", "restart", "weight change", "pause"),
)
FOCUS["former_settled_after_a_hand_over"] = ()
FOCUS["told_ttl_not_recorded_after_a_hand_over"] = ("bare caller", "join", "pause")
FOCUS["answers_not_handed_over"] = ("partition actor replaced", "bare caller", "join")
SLOTS = dict.fromkeys(
    (
        "slot_granted_during_recovery",
        "slot_used_after_the_lease",
        "slot_free_before_callbacks_have_returned",
        "slot_free_at_stop",
        "slot_kept_without_its_group",
        "slot_stated_without_its_number",
        "number_given_that_somebody_has",
        "numbers_given_above_a_hole",
        "slot_lost_for_ever",
    ),
    ("partition actor crash", "partition actor replaced", "cut", "stop", "leave", "restart", "drain"),
)
FOCUS |= SLOTS
FLEETS = dict.fromkeys(
    (
        "worker_ended_before_it_has_handed_over",
        "two_workers_in_a_slot",
        "scaled_below_the_least",
        "update_of_all_at_once",
    ),
    ("crash", "pause", "partition actor crash"),
)
FOCUS |= FLEETS
LONGER = ("recovery_wait_of_the_shortest_lease", "longer_lease_before_the_record", "longer_lease_without_a_later_proof")
FOCUS |= dict.fromkeys(
    (*LONGER, "former_settled_before_the_wait"),
    ("partition actor crash", "partition actor cut off", "join", "bare caller", "crash"),
)
"""Mutants of what is told of the longest lease, for a group that begins with one member and whose leases grow fast."""

LOCK_FOCUS = {
    "lock_granted_without_proof": (("partition actor cut off",), 2.0, 0.0),
    "lock_freed_without_proof": (("partition actor cut off",), 1.0, 0.0),
    "lease_before_holds_are_known": (("partition actor crash",), 0.8, 0.2),
    "lock_changes_without_their_base": (("partition actor crash",), 0.8, 0.0),
    "locks_not_handed_over": (("partition actor replaced",), 2.0, 0.0),
}
"""The same for locks, with no exclusive group: the faults, how many per second, and the fraction of messages lost."""

FENCE_FOCUS = {
    "fenced_ended_without_proof": ("partition actor cut off", "weight change", "join"),
    "fence_lifted_without_a_lease": ("partition actor crash", "weight change", "join"),
    "lapse_in_one_group_not_told": ("partition actor crash", "weight change"),
}
"""The same for members of two exclusive groups whose callbacks often outlast the lease."""

MEMBER_FOCUS = (
    "leaving_session_acknowledges_at_once",
    "closed_before_callbacks_have_returned",
    "closed_before_calls_have_returned",
)
"""Mutants that only a member reveals that is often stopped, in a bad network, while callbacks and calls run."""


def conditions(seed: int, mutant: str) -> Conditions:
    drawn = draw(random.Random(seed), tuple(FAULTS))
    if mutant in FOCUS:
        drawn.faults = frozenset(FOCUS[mutant])
        drawn.fault_rate, drawn.loss, drawn.holds = 3.0, 0.0, True
        drawn.groups = (("keys", True), ("more", True))
        drawn.quick_gcs, drawn.slow_callbacks = True, 0.5 if mutant.startswith(("let_go", "drained")) else 0.0
        drawn.any_route = "partition actor cut off" in drawn.faults and seed % 2 == 0
    drawn.stays = mutant == "those_that_are_replaced_stay_for_ever"
    drawn.fleet = drawn.slots = mutant in FLEETS
    if mutant in SLOTS:
        drawn.slots, drawn.slow_callbacks, drawn.locks = True, 0.4, 0
        drawn.groups = (("keys", True), ("shared", False))
    if mutant in LONGER:
        drawn.faults, drawn.fault_rate = frozenset(("partition actor cut off", "join", "crash")), 6.0
        if mutant == "longer_lease_without_a_later_proof":
            drawn.faults, drawn.loss, drawn.duplication, drawn.slow = frozenset(("join",)), 0.0, 0.0, 0.0
        drawn.groups, drawn.locks = (("keys", True),), 0
        drawn.slow_to_find, drawn.any_route = True, False
    if mutant in FENCE_FOCUS:
        drawn.faults, drawn.fault_rate, drawn.loss = frozenset(FENCE_FOCUS[mutant]), 3.0, 0.0
        drawn.groups, drawn.locks = (("keys", True), ("more", True)), 0
        drawn.holds, drawn.quick_gcs, drawn.slow_callbacks = True, True, 0.9
        drawn.any_route = "partition actor cut off" in drawn.faults and seed % 2 == 0
    if mutant == "lapsed_lease_brought_back":
        drawn.faults, drawn.fault_rate, drawn.loss = frozenset(("pause", "partition actor crash")), 1.0, 0.0
        drawn.groups, drawn.locks, drawn.slow_callbacks = (("keys", True),), 0, 0.0
        drawn.holds, drawn.quick_gcs = True, True
    if mutant == "laggards_own_weight_joined_wrongly":
        drawn.faults, drawn.fault_rate, drawn.loss = frozenset(("weight change",)), 6.0, 0.0
        drawn.groups, drawn.locks, drawn.slow_callbacks = (("keys", True),), 0, 0.6
        drawn.holds = True
    if mutant in LOCK_FOCUS:
        faults, drawn.fault_rate, drawn.loss = LOCK_FOCUS[mutant]
        drawn.faults, drawn.groups, drawn.locks = frozenset(faults), (("shared", False),), 1
        drawn.holds, drawn.quick_gcs, drawn.any_route = True, True, False
        drawn.slow = drawn.duplication = 0.0
    if mutant in MEMBER_FOCUS:
        drawn.faults, drawn.fault_rate = frozenset(("stop", "cut", "join", "restart")), 3.0
        drawn.groups, drawn.slow_callbacks, drawn.loss = (("keys", True),), 0.6, 0.0
        drawn.acts = 30.0
    return drawn


def cluster(seed: int, mutant: str) -> SimulatedCluster:
    if mutant == "former_settled_after_a_hand_over":
        made = SimulatedCluster(seed, conditions=conditions(seed, mutant), settings=GROWING, members=8)
        replace_and_crash(made)
        return made
    if mutant not in LONGER:
        made = SimulatedCluster(seed, conditions=conditions(seed, mutant))
        if mutant == "ttl_grown_before_the_record":
            configure_while_cut_off(made)
        if mutant == "former_ttl_forgotten_by_a_restart":
            configure_and_crash(made)
        if mutant == "told_ttl_not_recorded_after_a_hand_over":
            configure_replace_and_crash(made)
        return made
    made = SimulatedCluster(seed, conditions=conditions(seed, mutant), settings=GROWING, members=1)
    if mutant == "longer_lease_without_a_later_proof":
        grow_while_cut_off(made)
    return made


def grow_while_cut_off(made: SimulatedCluster) -> None:
    """Members join a partition actor that is cut off from the GCS, which counts it dead and then takes its record."""
    made.run_for(1.0)
    cut_off = made.partition_actors[-1]
    cut_off.cut_off = cut_off.writes_when_cut_off = True
    for name in ("m1", "m2"):
        made.start_worker(name)
    made.run_for(0.05)
    cut_off.counted_alive = False
    made.start_partition_actor()


def configure_while_cut_off(made: SimulatedCluster) -> None:
    """The ttl grows on a partition actor that is cut off from the GCS, which counts it dead."""
    made.run_for(1.0)
    cut_off = made.partition_actors[-1]
    cut_off.cut_off, cut_off.writes_when_cut_off = True, False
    cut_off.configure(made.settings.changed({"ttl": 1.5}))
    made.run_for(0.05)
    cut_off.counted_alive = False
    made.start_partition_actor()


SHORTER = {"ttl": 0.6, "hold": 0.2, "node_proof_interval": 0.1}


def configure_and_crash(made: SimulatedCluster) -> None:
    """The ttl becomes shorter, and then the partition actor crashes."""
    made.partition_actors[-1].configure(made.settings.changed(SHORTER))
    made.run_for(0.1)
    made.kill(made.partition_actors[-1])
    made.start_partition_actor()


def configure_replace_and_crash(made: SimulatedCluster) -> None:
    """The ttl becomes shorter, and the next partition actor crashes once the leases of before are over."""
    made.partition_actors[-1].configure(made.settings.changed(SHORTER))
    made.run_for(0.1)
    FAULTS["partition actor replaced"](made)
    made.run_for(2.5)
    made.kill(made.partition_actors[-1])
    made.start_partition_actor()


def replace_and_crash(made: SimulatedCluster) -> None:
    """One member keeps a lease as long as many members have it; the next partition actor has few, and crashes."""
    made.run_for(4.0)
    for direction in ("in", "out"):
        made.cut(made.workers[0], direction, 20.0)
    for worker in made.workers[2:]:
        made.kill(worker)
        made.report_death(worker, certain=True)
    made.run_for(0.1)
    FAULTS["partition actor replaced"](made)
    made.run_for(2.5)
    made.kill(made.partition_actors[-1])
    made.start_partition_actor()


def first_violation(mutant: str) -> str | None:
    for seed in range(SEEDS):
        try:
            run(cluster(seed, mutant), 1000)
        except Violation as violation:
            return str(violation)
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_simulation_kills(mutant, monkeypatch):
    mutant(monkeypatch)
    assert first_violation(mutant.__name__) is not None


@pytest.mark.parametrize("mutant", [*FOCUS, *FENCE_FOCUS, *LOCK_FOCUS, MEMBER_FOCUS[0]])
def test_unbroken_code_holds_under_the_same_faults(mutant):
    for seed in range(20):
        run(cluster(seed, mutant), 1000)


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 102
    assert {*FOCUS, *FENCE_FOCUS, *LOCK_FOCUS, *MEMBER_FOCUS} <= {mutant.__name__ for mutant in MUTANTS}
