"""The agents as the driver sees them: when one has died, cannot continue, or does not start."""

from types import SimpleNamespace

import pytest
import town
from ray.exceptions import RayActorError

from jobs.pipelines import agents as room
from jobs.pipelines.agent import Figures
from jobs.pipelines.agents import AgentError, Agents
from partition_actor.errors import FleetNotReady


class FakeFleet:
    """A fleet whose agents are told what they answer; its calls are functions, which ``ray.get`` calls."""

    def __init__(self, *_, size, **__):
        self.answers = {}
        self.rows = {slot: {"slot": slot, "phase": "serving", "restarts": 0, "reason": ""} for slot in range(size)}
        for slot in range(size):
            self.put(slot, 100 + slot)

    def put(self, slot, pid):
        self.rows[slot]["pid"] = pid
        self.answers[slot] = Figures(f"agent-{slot}", pid)

    def start(self):
        pass

    def status(self):
        return {"workers": list(self.rows.values()), "ready": RayActorError not in self.answers.values()}

    def workers(self):
        return {slot: SimpleNamespace(report=self.report(slot)) for slot in self.rows}

    def report(self, slot):
        def answer():
            if self.answers[slot] is RayActorError:
                raise RayActorError
            return self.answers[slot]

        return SimpleNamespace(remote=lambda: answer)

    def stop(self):
        self.rows.clear()


@pytest.fixture
def agents(monkeypatch):
    """Two agents of a fake fleet, ``fleet``, and what the driver has said."""
    monkeypatch.setattr(room, "Fleet", FakeFleet)
    monkeypatch.setattr(room.ray, "wait", lambda calls, **_: (calls, []))
    monkeypatch.setattr(room.ray, "get", lambda call: call())
    monkeypatch.setattr(room.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "a" * 56))
    said = []
    job = SimpleNamespace(config=SimpleNamespace(agents=2, name="name", namespace="namespace"))
    made = Agents(job, said.append)
    made.fleet, made.said = made._fleet, said
    made.start()
    return made


def test_the_figures_of_an_agent_that_died_are_kept(agents):
    agents.fleet.answers[1] = Figures("agent-1", 101, cpu=1.5)
    agents.look()
    agents.fleet.answers[1] = RayActorError
    agents.look()
    agents.fleet.put(1, 201)
    agents.fleet.rows[1].update(restarts=1, reason="it has died")
    agents.look()
    agents.look()
    assert agents.said == ["agent-1 failed: it has died; another takes its place"]
    assert agents.serving == {"agent-0": 100, "agent-1": 201}
    agents.fleet.answers[0] = Figures("agent-0", 100, cpu=0.5)
    agents.stop()
    assert {pid: figures.cpu for pid, figures in agents.figures.items()} == {100: 0.5, 101: 1.5, 201: 0.0}


def test_an_agent_that_dies_before_it_begins_is_left_to_the_fleet(agents):
    agents.fleet.answers[0] = RayActorError
    agents.look()
    assert list(agents.figures) == [101]


def test_an_agent_that_cannot_continue_ends_the_job_and_says_why(agents):
    agents.fleet.answers[1] = Figures("agent-1", 101, failure="OSError: no space")
    with pytest.raises(AgentError, match="agent-1 cannot go on: OSError: no space"):
        agents.look()


def test_an_agent_that_is_not_replaced_in_time_ends_the_job_and_says_why(agents, monkeypatch):
    monkeypatch.setattr(room, "_START_LIMIT", -1.0)
    agents.look()
    agents.fleet.answers[0] = RayActorError
    agents.fleet.rows[0].update(restarts=1, reason="out of memory")
    with pytest.raises(AgentError, match=r"missing for .*; agent-0 failed: out of memory"):
        agents.look()


def test_agents_that_cannot_start_end_the_job_and_say_why(steady, tmp_path, line):
    town.write_inputs(tmp_path / "in", line, files=1, moments=1)
    (tmp_path / "file").touch()
    job = town.make_job(tmp_path, "file/out", name=steady.name, namespace=steady.namespace, agents=2)
    with pytest.raises(FleetNotReady, match="NotADirectoryError"):
        Agents(job, print).start()
