"""README's first program, twice on one cluster with `shutdown()` between."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from deployments import LIMIT

import partition_actor

README = (Path(__file__).parents[1] / "README.md").read_text()
PROGRAM = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Agent" in block)

UNTIL_SHARED_OUT = """
def polled():
    polls = ray.get([agent.poll.remote(range(100)) for agent in agents])
    return sorted(int(resource.removeprefix("polled ")) for poll in polls for resource in poll)

while polled() != list(range(100)):
    time.sleep(0.01)
print(f"shared out {time.perf_counter() - began:.2f} s after deploy()")
"""


@pytest.fixture
def run(cluster):
    assert PROGRAM.count("partition_actor.deploy()") == 1
    timed = PROGRAM.replace("partition_actor.deploy()", "began = time.perf_counter(); partition_actor.deploy()")

    def run():
        program = subprocess.run(
            [sys.executable, "-c", "import time\n" + timed + UNTIL_SHARED_OUT],
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        print(program.stdout)
        return program

    yield run
    partition_actor.shutdown(force=True)


def test_the_second_run_has_everything_shared_out_without_waiting_for_a_lease(run):
    for _ in range(2):
        program = run()
        assert program.returncode == 0, program.stderr
        assert "NoPlaceYet" not in program.stderr
        handle = partition_actor.connect()
        status = ray.get(handle.status.remote(), timeout=LIMIT)
        assert not status["recovering"]
        partition_actor.shutdown()
