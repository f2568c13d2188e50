"""Runs with several agents, without a cluster: how batches are serialised, and when faults are due."""

import io

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


class FakeFleet:
    shards = "g"

    def __init__(self):
        self.did = []
        self.members = {f"agent-{n}": self for n in range(1, 5)}
        self.member_id = "m"

    def kill(self, name):
        self.did.append(("kill", name))
        del self.members[name]

    def halt(self, name):
        self.did.append(("halt", name))

    def resume(self, name):
        self.did.append(("resume", name))


@pytest.fixture
def faults(monkeypatch):
    class Config:
        kill, stop = 1, 2

    class Job:
        config = Config

    present = ["m"]

    class Actor:
        class get_members:  # noqa: N801
            remote = staticmethod(lambda group: list(present))

    clock = [100.0]
    monkeypatch.setattr(run.ray, "get", lambda value: value)
    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    fleet = FakeFleet()
    made = run._Faults(Job, fleet, Actor, Display(Console(file=io.StringIO())))
    made.fleet, made.present, made.clock = fleet, present, clock
    return made


def test_agents_are_killed_then_stopped_and_resumed_when_others_own_their_keys(faults):
    faults.look(0.1)
    assert faults.fleet.did == []
    faults.look(0.3)
    assert faults.fleet.did == [("kill", "agent-1")]
    faults.look(0.5)
    assert faults.fleet.did[1:] == [("halt", "agent-2"), ("halt", "agent-3")]
    assert faults.pending
    faults.clock[0] += 60
    faults.look(0.6)
    assert len(faults.fleet.did) == 3, "they are still in the group"
    faults.present.clear()
    faults.look(0.7)
    assert len(faults.fleet.did) == 3, "the others get time to begin"
    faults.clock[0] += 1
    faults.look(0.7)
    assert faults.fleet.did[3:] == [("resume", "agent-2"), ("resume", "agent-3")]
    assert not faults.pending
    faults.look(0.9)
    assert len(faults.fleet.did) == 5
    assert [told.split(" ")[0] for told in faults.told] == ["agent-1", "agent-2", "agent-3", "agent-2", "agent-3"]


def test_faults_that_the_run_was_too_short_for_are_reported(faults):
    faults.look(0.3)
    faults.close()
    assert faults.told[1:] == ["2 agents were to be stopped, but the run ended first"]


def test_a_run_that_is_done_at_once_still_has_its_faults(faults):
    faults.look(1.0)
    faults.look(1.0)
    assert [what for what, _ in faults.fleet.did] == ["kill", "halt", "halt"]
