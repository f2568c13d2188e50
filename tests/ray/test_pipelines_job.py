"""The second job with real processes: each test is one run of ``jobs/pipelines.py`` on a Ray of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 200.0  # s, for what takes some seconds on an idle machine

PIPELINES = """\
sources:
  - {name: cpu, meters: ["cpu.*"], sinks: [rates, archive]}
  - {name: all, meters: ["*", "!cpu.idle"], shards: 3, sinks: [rates, means]}
sinks:
  - name: rates
    transformers: [{name: rate_of_change}]
    publishers: [file://]
  - name: archive
    publishers: ["file://?format=parquet"]
  - name: means
    transformers: [{name: aggregator, parameters: {size: 7, window: 20}}]
    publishers: [file://]
"""


class Run:
    """A running ``jobs/pipelines.py``; its output line by line."""

    def __init__(self, directory, *arguments):
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        (directory / "p.yaml").write_text(PIPELINES)
        options = ["--config", directory / "p.yaml", "--input", directory / "in", "--out", directory / "out"]
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "jobs" / "pipelines.py", *options, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def read_until(self, text):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return
        pytest.fail(f"no {text!r} in:\n{self.text}")

    def end(self):
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(LIMIT)

    @property
    def text(self):
        return "\n".join(self.lines)

    def line(self, first_word):
        return next(line for line in self.lines if line.split()[:1] == [first_word])

    def agents(self):
        """The agents' processes; any may end while it is looked at, and then it is none of them."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "".join(child.cmdline()[:1]).startswith("ray::Agent"):
                    found.append(child)
        return found


@pytest.fixture
def start(tmp_path):
    runs = []

    def start(*arguments):
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(LIMIT)
        run.process.stdout.close()


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


def eventually(condition):
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_one_killed_and_one_stopped_and_what_is_published_is_what_one_agent_publishes(start, tmp_path):
    write_inputs(tmp_path / "in", moments=3000)
    run = start("--agents", 3, "--kill", 1, "--stop", 1, "--lease", 2, "--compare")
    assert run.end() == 0, run.text
    assert run.line("compared").startswith("compared    equal: the same ")
    faults = [line for line in run.lines if line.startswith("fault ")]
    assert len(faults) == 3, run.text
    assert "got SIGKILL" in faults[0]
    assert "goes on after" in faults[2]
    assert run.line("corrupt").startswith("corrupt     4 lines, set aside in ")
    assert len((tmp_path / "out" / "corrupt.jsonl").read_text().splitlines()) == 4
    owners = {line.split("│")[2] for line in run.lines if line.startswith("│")}
    assert any(">" in each for each in owners), "no pipeline has changed its owner"
    assert "overhead" in run.text
    assert "\x1b" not in run.text


def test_an_agent_that_dies_unasked_is_replaced_and_a_second_run_goes_on_where_the_first_was(start, tmp_path):
    write_inputs(tmp_path / "in", moments=1500)
    run = start("--agents", 2, "--follow")
    victim, *_ = eventually(lambda: len(found := run.agents()) == 2 and found)
    eventually(lambda: list(tmp_path.glob("out/published/cpu:rates/*.jsonl")))
    os.kill(victim.pid, signal.SIGKILL)
    run.read_until(" died; another takes its place")
    eventually(lambda: len(run.agents()) == 2)
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
