"""Runs with several agents, without a cluster: how batches are serialised, and when faults are due."""

import io
from signal import SIGCONT, SIGKILL, SIGSTOP
from types import SimpleNamespace

import pytest
from rich.console import Console

from jobs.pipelines import run
from jobs.pipelines.agent import pack, unpack
from jobs.pipelines.display import Display
from jobs.pipelines.shard import Batch


def test_a_batch_survives_packing(sample):
    samples = [sample(1, 1, metadata={"a": [1, {"b": None}]}), sample(0.1, 2)]
    batch = Batch("in", 5, 90, True, 1.5, [5, 40], samples)
    assert unpack(pack(batch)) == batch
    assert type(unpack(pack(batch)).samples[0]) is type(batch.samples[0])
    empty = batch._replace(positions=[], samples=[])
    assert unpack(pack(empty)) == empty


@pytest.fixture
def faults(monkeypatch):
    """The faults of a run with four agents, and what they did, to which process; its clock is moved by hand."""
    config = SimpleNamespace(kill=1, stop=2)
    agents = SimpleNamespace(serving={f"agent-{slot}": 100 + slot for slot in range(4)})
    made = run._Faults(SimpleNamespace(config=config), agents, Display(Console(file=io.StringIO())))
    made.serving, made.clock, made.did = agents.serving, [100.0], []
    monkeypatch.setattr(run, "send_signal", lambda pid, number: made.did.append((pid, number)))
    monkeypatch.setattr(run.time, "monotonic", lambda: made.clock[0])
    return made


def test_agents_are_killed_then_stopped_and_resumed_when_others_own_their_keys(faults):
    faults.look(0.1)
    assert faults.did == []
    faults.look(0.3)
    assert faults.did == [(100, SIGKILL)]
    faults.look(0.5)
    assert faults.did[1:] == [(101, SIGSTOP), (102, SIGSTOP)], "not the one that was just killed"
    assert faults.pending
    faults.clock[0] += 60
    faults.look(0.6)
    assert len(faults.did) == 3, "they are still in the group"
    faults.serving.update({"agent-1": 201, "agent-2": 202})
    faults.look(0.7)
    assert len(faults.did) == 3, "the others get time to begin"
    faults.clock[0] += 1
    faults.look(0.7)
    assert sorted(faults.did[3:]) == [(101, SIGCONT), (102, SIGCONT)]
    assert not faults.pending
    faults.look(0.9)
    assert len(faults.did) == 5
    told = [told.split(" ")[0] for told in faults.told]
    assert (told[:3], sorted(told[3:])) == (["agent-0", "agent-1", "agent-2"], ["agent-1", "agent-2"])


def test_agents_that_are_stopped_when_the_run_ends_continue(faults):
    faults.look(0.3)
    faults.look(0.5)
    faults.resume_all()
    assert faults.did[3:] == [(101, SIGCONT), (102, SIGCONT)]
    assert not faults.pending


def test_faults_that_the_run_was_too_short_for_are_reported(faults):
    faults.look(0.3)
    faults.close()
    assert faults.told[1:] == ["2 agents were to be stopped, but the run ended first"]


def test_a_run_that_is_done_at_once_still_has_its_faults(faults):
    faults.look(1.0)
    faults.look(1.0)
    assert [number for _, number in faults.did] == [SIGKILL, SIGSTOP, SIGSTOP]
