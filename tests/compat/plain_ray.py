"""What the extras say where only plain ``ray`` is installed. ``matrix.py`` runs it in an environment without them.

Everything else works there: ``matrix.py`` runs its other tests, but for the jobs, in the same environment.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from partition_actor import ray_internals
from partition_actor.operate.connection import gcs_problem

ROOT = Path(__file__).parents[2]


def run(*arguments):
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def where(cluster, steady):
    return ["--address", cluster.address_info["gcs_address"], "--name", steady.name, "--namespace", steady.namespace]


def test_the_environment_has_no_extra():
    for package in ("aiohttp", "pyarrow", "httpx"):
        with pytest.raises(ImportError):
            importlib.import_module(package)


def test_the_page_says_what_to_install(where):
    result = run("-m", "partition_actor.operate", "page", *where)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip().endswith("the page needs aiohttp: pip install 'partition-actor[page]'")


@pytest.mark.parametrize("job", ["jobs.poll", "jobs.pipelines"])
def test_a_job_says_what_to_install(job):
    result = run("-m", job)
    assert result.returncode == 1
    needs = f"{job} needs httpx, psutil, pyarrow: pip install 'partition-actor[jobs]'"
    assert result.stderr.strip().splitlines()[-1] == f"jobs.driver.extras.MissingExtra: {needs}"


def test_doctor_says_that_metrics_are_not_exported_and_finds_nothing_else_wrong(where):
    assert not ray_internals.has_exporter()
    result = run("-m", "partition_actor.operate", "doctor", *where)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "pip install 'partition-actor[metrics]'" in result.stdout
    assert [line for line in result.stdout.splitlines() if line.startswith("FAIL")] == []


def test_the_gcs_is_asked_whether_it_lives(cluster):
    assert gcs_problem(cluster.address_info["gcs_address"]) is None


def test_a_partition_actor_is_deployed_and_shut_down_by_the_command_line(cluster):
    where = ["--address", cluster.address_info["gcs_address"], "--name", "plain", "--namespace", "plain"]
    for command in ("deploy", "status", "shutdown"):
        result = run("-m", "partition_actor.operate", command, *where, *(["--yes"] if command == "shutdown" else []))
        assert result.returncode == 0, (command, result.stdout, result.stderr)
