"""The polling job with real processes: each test is one run of ``jobs.poll``, on a Ray of its own or without Ray."""

import os
import pty
import shutil
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
from job_runs import LIMIT, ROOT, Run


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


def polled_by(samples, kind):
    return {s["agent"] for s in samples if s["resource_id"].startswith(f"{kind}:")}


def test_agents_share_everything_and_two_that_are_killed_are_replaced(start, tmp_path, web):
    (tmp_path / "a.log").write_text("12345")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config = tmp_path / "poll.yaml"
        config.write_text(f"targets: ['a.log', '.', '127.0.0.1:{port}', '{web}']\nspread: 0.5\ninterval: 0.5\n")
        run = start("--config", config, "--kill", 2, "--cycles", 6, "--agents", 4, "--plot")
        assert run.end() == 0, run.text
    samples = run.samples()
    (node,) = {s["resource_id"].rpartition("@")[2] for s in samples if s["resource_id"].startswith("cpu:")}
    remote = {f"tcp:127.0.0.1:{port}", web}
    targets = {*remote, f"file:{tmp_path / 'a.log'}@{node}", f"directory:{tmp_path}@{node}"}
    assert {sample["cycle"] for sample in samples} == set(range(1, 7))
    agents = agents_of(samples)
    # Kill in cycle 3: it and the next may have faults.
    for cycle in (1, 2, 5, 6):
        assert all(len(of) == 1 for (at, _), of in agents.items() if at == cycle)
        there = {resource for at, resource in agents if at == cycle}
        assert there >= {*targets, "machine@" + node, *(f"cpu:{core}@{node}" for core in range(psutil.cpu_count()))}
        assert any(resource.startswith(f"process:{os.getpid()}:") for resource in there)
        own = {s["epoch"] for s in samples if s["cycle"] == cycle and s["resource_id"] not in remote}
        assert len(own) == 1
    everybody = {f"agent-{n}" for n in range(4)}
    assert {s["agent"] for s in samples if s["cycle"] == 1} == {s["agent"] for s in samples} == everybody
    assert sum("is replaced: pid" in line for line in run.lines) <= 2  # as soon as they are, which may be after cycle 6
    assert {s["volume"] for s in samples if s["meter"] == "file.size"} == {5.0}
    assert {s["volume"] for s in samples if s["meter"] in ("tcp.up", "http.up")} == {1.0}
    assert run.line("samples") == f"samples     {len(samples)}"
    assert "agent-0 in cycle 3: survivors covered everything again after" in run.line("kill")
    assert sum(line.startswith("kill ") for line in run.lines) == 2
    assert "killed in cycle 3" in run.text
    assert str(run.dataset) in run.line("dataset")
    assert (run.dataset / "plot.png").stat().st_size > 10_000
    assert "\x1b" not in run.text
    assert "A worker died" not in run.text


def test_a_service_replaces_agents_that_die_or_hang_and_a_signal_ends_it_with_its_summary(start, tmp_path):
    config = tmp_path / "poll.yaml"
    config.write_text(
        """
        agents: 3
        cycles: 0
        spread: 1.0
        limit: 4.0
        sources:
          - {name: fast, interval: 0.2, meters: ["cpu.*"]}
          - {name: slow, interval: 2.0, meters: ["process.*", "!process.io.*"], project_id: p, user_id: u}
        """
    )
    run = start("--config", config)
    run.read_until("slow, cycle 1: ")
    children = psutil.Process(run.process.pid).children(recursive=True)
    killed, stopped, _ = run.agents()
    killed.kill()
    run.read_until(f"is replaced: pid {killed.pid} is dead")
    stopped.suspend()
    run.read_until("has not ended its cycle within 4 s")
    run.read_until(f"is replaced: pid {stopped.pid} is dead")
    children += psutil.Process(run.process.pid).children(recursive=True)
    run.process.terminate()
    assert run.end() in (0, 1), run.text  # the agents may have died in the middle of a cycle
    assert sum(line.startswith("lost ") for line in run.lines) == 2
    assert str(run.dataset) in run.line("dataset")
    _, alive = psutil.wait_procs(children, LIMIT)
    assert alive == []
    samples = run.samples()
    cycles = {source: {s["cycle"] for s in samples if s["source"] == source} for source in ("fast", "slow")}
    assert len(cycles["fast"]) > len(cycles["slow"]) > 1
    assert polled_by(samples, "process") == {"agent-0", "agent-1", "agent-2"}
    assert {(s["source"], s["project_id"], s["user_id"]) for s in samples} == {
        ("fast", None, None),
        ("slow", "p", "u"),
    }
    assert "Traceback" not in run.text


def test_what_appears_and_vanishes_between_cycles_is_no_gap(start, tmp_path):
    (tmp_path / "poll.yaml").write_text("spread: 0.3\ninterval: 0\n")
    run = start("--config", tmp_path / "poll.yaml", "--cycles", 8, "--agents", 1)
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


@pytest.mark.parametrize(("number", "cycles", "status"), [("SIGTERM", 0, 0), ("SIGINT", 0, 0), ("SIGHUP", 99, 1)])
def test_a_signal_ends_a_run_with_its_summary(start, number, cycles, status):
    run = start("--cycles", cycles, "--agents", 1, "--interval", 0.1)
    run.read_until("cycle 2")
    run.process.send_signal(getattr(signal, number))
    assert run.end() == status, run.text
    assert run.line("gaps").split()[1] == "none"
    assert str(run.dataset) in run.line("dataset")
    assert (f"by {number}, before all cycles were over" in run.text) == bool(cycles)
    assert run.line("samples") == f"samples     {len([s for s in run.samples() if s['cycle'] <= int(cycles_of(run))])}"


def cycles_of(run):
    return run.line("cycles").split()[1]


def test_a_dataset_that_is_removed_half_way_is_status_1(start):
    run = start("--cycles", 0, "--agents", 1, "--interval", 0.1)
    run.read_until("cycle 2")
    shutil.rmtree(run.dataset)
    assert run.end() == 1
    assert run.lines[-1].startswith(f"jobs.poll: {run.out}/")
    assert run.lines[-1].endswith(".parquet: No such file or directory")


def test_a_ray_that_is_not_there_is_one_line_and_status_2(start):
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody_listens.getsockname()[1]}"
        run = start("--address", address)
        assert run.end() == 2
    (line,) = run.lines
    assert line.startswith(f"jobs.poll: --address {address}: cannot join Ray: ")


def test_a_run_whose_terminal_is_closed_ends_with_its_summary_in_its_directory(tmp_path):
    arguments = ["--cycles", "0", "--agents", "1", "--interval", "0.1", "--follow", "--out", str(tmp_path)]
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "jobs.poll", *arguments])
    shown = b""
    while b"cycle 3" not in shown:
        shown += os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    (dataset,) = tmp_path.iterdir()
    assert f"dataset     {dataset}" in (dataset / "summary.txt").read_text()
    assert b"in this cycle" in shown
