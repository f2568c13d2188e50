"""The production state machines under simulated faults; `make simulate` runs many more seeds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from partition_actor.core import handoff, membership
from partition_actor.core.group import Group
from partition_actor.core.handoff import Handoff
from partition_actor.core.membership import Membership
from partition_actor.testing import FakeClock, SimulatedCluster, Violation, simulate, simulate_many
from partition_actor.testing.__main__ import main
from partition_actor.testing.cluster import FAULTS, PLANNED
from partition_actor.testing.conditions import Conditions
from partition_actor.testing.workers import keys_of

NO_FAULTS = Conditions(
    loss=0.0,
    duplication=0.0,
    delay=0.005,
    slow=0.0,
    holds=True,
    any_route=False,
    quick_gcs=False,
    slow_callbacks=0.0,
    fault_rate=0.0,
    faults=frozenset(),
    groups=(("keys", True),),
)
EVERY_KEY = (1 << len(keys_of("keys"))) - 1


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_fifty_seeds_hold(first):
    outcome = simulate_many(range(first, first + 50), steps=1000)
    assert outcome.violations == []
    assert outcome.seeds == 50
    assert outcome.steps >= 50_000


def test_seeds_hold_whatever_the_size_of_a_step(monkeypatch):
    for module, name, size in ((membership, "STEP", 1), (membership, "TOLD_AT_ONCE", 1), (handoff, "KEPT", 1)):
        monkeypatch.setattr(module, name, size)
    for seed in range(50):
        simulate(seed, steps=1000)


def test_the_shortcut_for_signs_of_life_has_the_same_effect_as_the_full_path(monkeypatch):
    taken = []
    renew = Membership.renew

    def counted(self, now, request):
        taken.append(renew(self, now, request))
        return taken[-1]

    def story(seed, shortcut):
        monkeypatch.setattr(Membership, "renew", shortcut)
        cluster = SimulatedCluster(seed, trace=True)
        cluster.run(800)
        return cluster.explain("so far").splitlines()

    for seed in range(30):
        assert story(seed, counted) == story(seed, lambda self, now, request: None)
    assert len([session for session in taken if session is not None]) > 100


def test_every_kind_of_fault_happens():
    outcome = simulate_many(range(60), steps=500)
    messages = {"lost message", "duplicated message", "late message"}
    assert set(FAULTS) | set(PLANNED) | messages | {"slow callback", "raising callback"} <= set(outcome.faults)


def test_a_seed_decides_everything_whatever_the_hash_seed():
    code = (
        "from partition_actor.testing import SimulatedCluster\n"
        "cluster = SimulatedCluster(12, trace=True); cluster.run(1500); print(cluster.explain('so far'))"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(traces) == 1
    assert len(traces.pop()) > 1000


def first_violation(seeds):
    for seed in seeds:
        try:
            simulate(seed)
        except Violation as violation:
            return seed, str(violation)
    raise AssertionError(f"none of {seeds} fails")


def test_a_violation_shows_a_trace_and_how_to_rerun_it(monkeypatch, capsys):
    monkeypatch.setattr(Handoff, "blockers", lambda self, key: ())
    seed, text = first_violation(range(20))
    assert text.startswith(f"seed {seed}, step ")
    assert "both work on " in text
    assert "on_request" in text
    assert text.endswith(f"python -m partition_actor.testing --seed {seed} --steps 1000 --trace")
    assert main(["--seed", str(seed), "--steps", "1000", "--trace"]) == 1
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == text.splitlines()[0]
    assert main(["--seeds", f"{seed}..{seed + 1}"]) == 1
    assert "1 failed" in capsys.readouterr().out


def test_the_command_prints_seeds_steps_faults_and_wall_time(capsys):
    assert main(["--seeds", "0..20", "--steps", "200", "--processes", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("20 seeds, ")
    assert "s of wall time; 0 failed" in shown
    assert "partition actor crash" in shown


def test_a_cluster_that_never_settles_is_a_violation(monkeypatch):
    monkeypatch.setattr(Group, "ack", lambda self, key, epoch: None)
    cluster = SimulatedCluster(1, conditions=NO_FAULTS, members=3)
    with pytest.raises(Violation, match=r"holds View|nobody works on"):
        cluster.settle()


def test_users_cause_faults_themselves():
    cluster = SimulatedCluster(7, conditions=NO_FAULTS, members=3)
    cluster.run_for(1.0)
    first, second, third = cluster.workers
    assert first.working_on() | second.working_on() | third.working_on() == EVERY_KEY
    cluster.pause(first, seconds=30.0)
    cluster.run_for(2 * cluster.settings.max_ttl)
    assert second.working_on() | third.working_on() == EVERY_KEY
    cluster.wake(first)
    cluster.settle()
    assert first.working_on()
    first.has_death_watch = True
    cluster.kill(first)
    cluster.run_for(0.3)
    assert second.working_on() | third.working_on() == EVERY_KEY


def test_a_fake_clock_moves_only_when_told_to():
    clock = FakeClock(offset=5.0, rate=2.0)
    assert clock.now() == 5.0
    assert clock.advance(1.5) == 8.0
    follower = FakeClock(rate=0.5, of=clock)
    assert follower.now() == 4.0
    for refusing, seconds in ((clock, -1.0), (follower, 1.0), (clock, float("nan"))):
        with pytest.raises(ValueError, match="seconds: got"):
            refusing.advance(seconds)
