"""The command line of ``jobs.pipelines``: what is refused, and runs of one agent, which need no Ray."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import town

from jobs.pipelines import __main__ as program

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(program, "run", lambda *_: pytest.fail("a run with several agents was started"))
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))


@pytest.fixture
def recorded(tmp_path, line):
    (tmp_path / "p.yaml").write_text(town.PIPELINES)
    town.write_inputs(tmp_path / "in", line, moments=12)
    return ["--config", "p.yaml", "--input", "in", "--out", "out"]


def refused(capsys, *arguments):
    assert program.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines
    assert all(line.startswith("jobs.pipelines: ") for line in lines)
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "gone.yaml"], "gone.yaml: cannot be read: No such file or directory"),
        (["--input", "gone"], "--input gone: no such file or directory; python -m jobs.record records"),
        (["--input", "."], "--input .: expected *.jsonl in it"),
        (["--agents", "0"], "--agents 0: "),
        (["--agents", "many"], "argument --agents: invalid int value: 'many'"),
        (["--kill", "4"], "one must stay untouched"),
        (["--lease", "nan"], "--lease nan: "),
        (["--follow", "--compare"], "--compare: with --follow the run has no end"),
        (["--agent", "3"], "unrecognized arguments"),
        (["--address", "nowhere"], "--address nowhere: expected auto, local or host:port"),
    ],
)
def test_bad_input_is_reported_with_status_2_and_nothing_is_started(capsys, tmp_path, arguments, said):
    assert said in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_every_problem_of_a_yaml_file_is_a_line(capsys, tmp_path):
    Path("p.yaml").write_text("agents: 0\nsources: 3\nsinks: []\n")
    said = refused(capsys, "--config", "p.yaml")
    assert [line.split(":")[2] for line in said.splitlines()] == ["1", "2", "3"]


def test_one_agent_runs_without_ray_and_can_be_compared(capsys, recorded, tmp_path):
    assert program.main([*recorded, "--agents", "1", "--compare"]) == 0
    printed = capsys.readouterr().out
    assert "compared    equal: the same " in printed
    assert "corrupt     3 lines, set aside in " in printed
    aside = [json.loads(line) for line in (tmp_path / "out" / "corrupt.jsonl").open()]
    assert aside[0] == {
        "at": f"{tmp_path}/in/0.jsonl:67",
        "reason": "Invalid JSON: key must be a string at line 1 column 2",
        "line": "{corrupt",
    }
    assert program.main([*recorded, "--agents", "1"]) == 0
    assert "samples     0 in " in capsys.readouterr().out, "nothing is left to do"


def test_other_pipelines_need_another_directory(capsys, recorded):
    assert program.main([*recorded, "--agents", "1"]) == 0
    capsys.readouterr()
    Path("p.yaml").write_text(town.PIPELINES.replace("size: 7", "size: 8"))
    assert "--out out: was made with other pipelines" in refused(capsys, *recorded, "--agents", "1")


def test_two_runs_do_not_share_a_directory(capsys, recorded):
    Path("out").mkdir()
    with Path("out/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is at work in it" in refused(capsys, *recorded, "--agents", "1")


def test_an_out_that_is_a_file_is_refused(capsys, recorded):
    Path("out").write_text("")
    assert "out: File exists" in refused(capsys, *recorded)


def test_a_publisher_that_fails_is_one_line_and_status_1(capsys, recorded):
    Path("out").mkdir()
    Path("out/published").write_text("")
    assert program.main([*recorded, "--agents", "1"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "out/published/" in said
    assert "Not a directory" in said


def test_comparing_publishes_nothing_outside_of_the_directory(recorded, monkeypatch, caplog):
    Path("p.yaml").write_text(town.PIPELINES.replace("[file://]", "[file://, log://]"))
    with caplog.at_level("INFO", "pipelines.published"):
        assert program.main([*recorded, "--agents", "1", "--compare"]) == 0
    ids = [
        record.getMessage().split('"')[3] for record in caplog.records if record.getMessage().startswith("cpu:rates ")
    ]
    assert len(ids) == len(set(ids)) > 0


def test_a_ray_that_does_not_come_up_is_one_line(capsys, recorded, monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.\nMore of it.")

    Path("p.yaml").write_text(town.PIPELINES.replace("[file://]", "['actor://a/b']"))
    monkeypatch.setattr(ray, "init", init)
    said = refused(capsys, *recorded, "--agents", "1")
    assert said == (
        "jobs.pipelines: --address local: cannot join Ray: The current node timed out during startup. More of it.\n"
    )


def test_a_run_that_follows_ends_well_on_sigterm(recorded, tmp_path):
    options = [option if option.startswith("--") else tmp_path / option for option in recorded]
    with subprocess.Popen(
        [sys.executable, "-m", "jobs.pipelines", *options, "--agents", "1", "--follow"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as run:
        deadline = time.monotonic() + 60
        while not list(Path("out").glob("published/cpu:archive/*.parquet")):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGTERM)
        printed = run.stdout.read()
        assert run.wait(60) == 0
    assert "published   " in printed
