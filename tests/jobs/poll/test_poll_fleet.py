import subprocess
import sys

from jobs.poll import fleet
from jobs.poll.config import PollConfig


def test_an_agent_that_ends_just_before_it_is_killed_counts_as_killed(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(fleet.ray, "put", lambda resources: resources)
    agents = fleet.Fleet(PollConfig(), "run", "out", print)
    agents.members["agent-1"] = fleet.Member("agent-1", "run/agent-1", ended.pid, None)
    (kill,) = agents.kill(["agent-1"], [])
    assert (kill.agent, kill.pid) == ("agent-1", ended.pid)
    assert agents.members == {}
