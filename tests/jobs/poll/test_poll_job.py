"""The polling job with real processes: each test is one run of ``jobs.poll`` on a Ray cluster of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import psutil
import pyarrow.dataset
import pytest
from deployments import wait_until
from job_runs import LIMIT, Run


class Poll(Run):
    """A running ``jobs.poll``."""

    def __init__(self, out, *arguments):
        super().__init__("jobs.poll", "--out", out, *arguments)
        self.out = out

    @property
    def dataset(self):
        (dataset,) = self.out.iterdir()
        return dataset

    def samples(self):
        return pyarrow.dataset.dataset(self.dataset / "samples", format="parquet").to_table().to_pylist()


@pytest.fixture
def start(runs, tmp_path):
    return lambda *arguments: runs.enter_context(Poll(tmp_path / "out", *arguments))


@pytest.fixture
def signal_in_cycle_2(start, tmp_path):
    """Start a run, and give one of its agents a signal while cycle 2 is under way."""

    def signal_in_cycle_2(number, settings):
        config = tmp_path / "poll.yaml"
        config.write_text(settings)
        run = start("--config", config, "--cycles", 3, "--agents", 2)
        run.read_until("cycle 1 of 3")
        # A part of cycle 2 is there, and most of its polls are not.
        wait_until(lambda: list(run.dataset.glob("samples/000002-agent-1-*")), LIMIT)
        victim, *_ = run.agents()
        os.kill(victim.pid, number)
        return run

    return signal_in_cycle_2


@pytest.fixture
def web():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def agents_of(samples):
    """(cycle, resource) -> the agents that have samples of it there."""
    agents = defaultdict(set)
    for sample in samples:
        agents[sample["cycle"], sample["resource_id"]].add(sample["agent"])
    return agents


def test_agents_share_everything_and_a_killed_one_is_replaced(start, tmp_path, web):
    (tmp_path / "a.log").write_text("12345")
    with socket.create_server(("127.0.0.1", 0)) as server:
        targets = [
            f"file:{tmp_path / 'a.log'}",
            f"directory:{tmp_path}",
            f"tcp:127.0.0.1:{server.getsockname()[1]}",
            web,
        ]
        config = tmp_path / "poll.yaml"
        config.write_text(f"targets: ['a.log', '.', '{targets[2][4:]}', '{web}']\nspread: 0.5\ninterval: 0.5\n")
        run = start("--config", config, "--kill", 1, "--cycles", 6, "--agents", 3)
        assert run.end() == 0, run.text
    samples = run.samples()
    assert {sample["cycle"] for sample in samples} == set(range(1, 7))
    agents = agents_of(samples)
    # Kill in cycle 3: it and the next may have faults.
    for cycle in (1, 2, 5, 6):
        for target in targets:
            assert len(agents[cycle, target]) == 1
        assert all(len(of) == 1 for (at, _), of in agents.items() if at == cycle)
        for core in range(psutil.cpu_count()):
            assert (cycle, f"cpu:{core}") in agents
        assert any(at == cycle and r.startswith(f"process:{os.getpid()}:") for at, r in agents)
    by_cycle = {cycle: {s["agent"] for s in samples if s["cycle"] == cycle} for cycle in range(1, 7)}
    assert by_cycle[1] == by_cycle[2] == {"agent-1", "agent-2", "agent-3"}
    assert by_cycle[4] == by_cycle[5] == by_cycle[6] == {"agent-2", "agent-3", "agent-4"}
    for cycle in (1, 2, 5, 6):
        assert len({s["epoch"] for s in samples if s["cycle"] == cycle}) == 1
    assert {s["volume"] for s in samples if s["meter"] == "file.size"} == {5.0}
    assert {s["volume"] for s in samples if s["meter"] in ("tcp.up", "http.up")} == {1.0}
    assert run.line("samples") == f"samples     {len(samples)}"
    assert "agent-1 in cycle 3: survivors covered everything again after" in run.line("kill")
    assert "killed in cycle 3" in run.text
    assert str(run.dataset) in run.line("dataset")
    assert "\x1b" not in run.text
    assert "A worker died" not in run.text


def test_two_killed_at_once_are_both_replaced(start):
    run = start("--kill", 2, "--cycles", 4, "--interval", 0)
    assert run.end() == 0, run.text
    assert sum(line.startswith("kill ") for line in run.lines) == 2
    assert {s["agent"] for s in run.samples() if s["cycle"] == 4} == {f"agent-{n}" for n in (3, 4, 5, 6)}


def test_what_appears_and_vanishes_between_cycles_is_no_gap(start):
    run = start("--cycles", 8, "--agents", 2, "--interval", 0)
    run.read_until("cycle 1 of 8")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        run.read_until("cycle 4 of 8")
        child.communicate()
    assert run.end() == 0, run.text
    seen = {s["cycle"] for s in run.samples() if s["resource_id"].startswith(f"process:{child.pid}:")}
    assert seen
    assert 1 not in seen
    assert 8 not in seen
    assert run.line("gaps").split()[1] == run.line("duplicates").split()[1] == "none"


def test_an_unexpected_death_is_a_gap_and_status_1(signal_in_cycle_2):
    run = signal_in_cycle_2(signal.SIGKILL, "spread: 3.0\ninterval: 0.0\n")
    assert run.end() == 1, run.text
    assert " died; another takes its place" in run.text
    assert "in cycle 2: " in run.line("gaps")
    assert "cycle 3" not in run.line("gaps")
    assert run.line("duplicates").split()[1] == "none"
    assert "which nobody killed" in run.line("lost")


def test_a_hanging_agent_is_replaced(signal_in_cycle_2):
    run = signal_in_cycle_2(signal.SIGSTOP, "spread: 2.0\ninterval: 0.0\nlimit: 4.0\n")
    assert run.end() == 1, run.text
    assert " has not ended its cycle within 4 s; another takes its place" in run.text
    assert "cycle 3" not in run.line("gaps")


def test_a_ray_that_is_not_there_is_one_line_and_status_2(start):
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        run = start("--address", address)
        assert run.end() == 2
    (line,) = run.lines
    assert line.startswith(f"jobs.poll: --address {address}: cannot join Ray: ")


def test_a_terminated_run_takes_its_ray_down(start):
    run = start("--cycles", 1000)
    run.read_until("cycle 1 of 1000")
    children = psutil.Process(run.process.pid).children(recursive=True)
    assert children
    run.process.terminate()
    assert run.end() != 0
    _, alive = psutil.wait_procs(children, LIMIT)
    assert alive == []
