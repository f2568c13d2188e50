"""The fleet when agents end at an inconvenient moment."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from jobs.pipelines import fleet
from jobs.pipelines.agent import Figures

JOB = SimpleNamespace(config=SimpleNamespace(agents=1, name="name", namespace="namespace"))


@pytest.fixture
def agents():
    """A fleet of one agent whose process has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    agents = fleet.Fleet(JOB, "run", print)
    agents.members["agent-1"] = fleet.Member("agent-1", "run/agent-1", None, ended.pid)
    return agents


def test_an_agent_that_ends_just_before_it_is_killed_counts_as_killed(agents):
    agents.kill("agent-1")
    assert agents.members == {}


def test_an_agent_that_ends_just_before_it_is_stopped_or_resumed_is_left_to_the_next_look(agents):
    agents.halt("agent-1")
    agents.resume("agent-1")
    assert list(agents.members) == ["agent-1"]


class FakeAgent:
    """Its calls are functions, which ray.get() calls; a dead agent answers ``start`` only."""

    def __init__(self, dead):
        self.start = SimpleNamespace(remote=lambda: lambda: 123)
        self.begin = self.figures = SimpleNamespace(remote=lambda: self._die if dead else Figures)

    def _die(self):
        raise RayActorError


def test_an_agent_that_dies_before_it_begins_is_replaced(monkeypatch):
    made, said = [], []

    def make(_spec):
        made.append(FakeAgent(dead=not made))
        return made[-1]

    monkeypatch.setattr(fleet, "on_this_node", lambda _: SimpleNamespace(remote=make))
    monkeypatch.setattr(fleet.ray, "wait", lambda calls, **_: (calls, []))
    monkeypatch.setattr(fleet.ray, "get", lambda call: call())
    agents = fleet.Fleet(JOB, "run", said.append)
    agents.start()
    while "agent-2" not in agents.members:
        agents.look()
    assert said == ["agent-1 died; another takes its place"]
    assert list(agents.members) == ["agent-2"]
