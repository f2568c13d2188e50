"""The pipelines job with real processes: each test runs ``jobs.pipelines`` on a Ray cluster of its own."""

import json
import os
import signal
from pathlib import Path

import pytest
from deployments import wait_until
from job_runs import LIMIT, Run

CONFIG = Path(__file__).with_name("pipelines.yaml")


@pytest.fixture
def start(runs, tmp_path):
    options = ["--config", CONFIG, "--input", tmp_path / "in", "--out", tmp_path / "out"]
    return lambda *arguments: runs.enter_context(Run("jobs.pipelines", *options, *arguments))


def write_inputs(directory, moments, files=4):
    directory.mkdir()
    n = 0
    for file in range(files):
        with open(directory / f"{file}.jsonl", "w") as out:
            for moment in range(moments):
                for resource in range(5):
                    for name, kind in (("cpu.busy", "cumulative"), ("cpu.idle", "cumulative"), ("memory", "gauge")):
                        n += 1
                        sample = {"id": f"s{n}", "name": name, "type": kind, "volume": n * n % 1009 + n}
                        at = f"2026-01-02T{moment // 3600:02}:{moment // 60 % 60:02}:{moment % 60:02}.{n % 1000:03}Z"
                        out.write(json.dumps({**sample, "resource_id": f"r{file}.{resource}", "timestamp": at}) + "\n")
            out.write("{corrupt\n")


def test_with_one_killed_and_one_stopped_the_same_is_published_as_by_one_agent(start, tmp_path):
    write_inputs(tmp_path / "in", moments=3000)
    run = start("--agents", 3, "--kill", 1, "--stop", 1, "--lease", 2, "--compare")
    assert run.end() == 0, run.text
    assert run.line("compared").startswith("compared    equal: the same ")
    faults = [line for line in run.lines if line.startswith("fault ")]
    assert len(faults) == 3, run.text
    assert "got SIGKILL" in faults[0]
    assert "continues after" in faults[2]
    assert run.line("corrupt").startswith("corrupt     4 lines, set aside in ")
    assert len((tmp_path / "out" / "corrupt.jsonl").read_text().splitlines()) == 4
    owners = {line.split("│")[2] for line in run.lines if line.startswith("│")}
    assert any(">" in each for each in owners), "no pipeline has changed its owner"
    assert "overhead" in run.text
    assert "\x1b" not in run.text


def test_agents_that_die_unasked_are_replaced_and_a_second_run_continues_the_first(start, tmp_path):
    write_inputs(tmp_path / "in", moments=1500)
    run = start("--agents", 2, "--follow")
    starting, *_ = wait_until(run.agents, LIMIT)
    os.kill(starting.pid, signal.SIGKILL)
    wait_until(lambda: list(tmp_path.glob("out/published/cpu:rates/*.jsonl")), LIMIT)
    run.read_until("; another takes its place")
    victim, *_ = wait_until(lambda: len(found := run.agents()) == 2 and found, LIMIT)
    os.kill(victim.pid, signal.SIGKILL)
    run.read_until("; another takes its place")
    wait_until(lambda: len(run.agents()) == 2, LIMIT)
    run.process.terminate()
    assert run.end() == 0, run.text
    assert run.line("published")
    second = start("--agents", 2, "--compare")
    assert second.end() == 0, second.text
    assert second.line("compared").startswith("compared    equal: the same ")


def test_a_publisher_that_fails_ends_the_job_with_one_line(start, tmp_path):
    write_inputs(tmp_path / "in", moments=20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "published").write_text("")
    run = start("--agents", 2)
    assert run.end() == 1, run.text
    assert "cannot go on: PublishError" in run.lines[-1]
    assert "out/published/" in run.lines[-1]
    assert "Traceback" not in run.text
