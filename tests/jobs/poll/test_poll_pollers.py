import asyncio
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import psutil
import pytest

from jobs.poll.pollers import GoneError, poll
from jobs.poll.resources import discover, process_id

# One for all tests: making a client loads the system's certificates.
CLIENT = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def polled(resource_id, timeout=5.0):
    return {reading.meter: reading for reading in asyncio.run(poll(resource_id, CLIENT, timeout))}


def volume(resource_id, meter):
    return polled(resource_id)[meter].volume


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port():
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        yield nobody_listens.getsockname()[1]


@pytest.fixture
def web():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_everything_on_this_machine_can_be_polled():
    for resource in discover():
        try:
            readings = polled(resource)
        except GoneError:
            assert resource.startswith("process:")
            assert resource not in discover()
        else:
            assert readings
            assert all(isinstance(reading.volume, (int, float)) for reading in readings.values())


def test_a_process():
    readings = polled(process_id(psutil.Process()))
    assert set(readings) == {"process.uptime", "process.cpu", "process.memory", "process.threads"}
    assert readings["process.memory"].volume > 1_000_000
    assert readings["process.memory"].unit == "B"


def test_a_reused_pid_counts_as_gone():
    kind, pid, started = process_id(psutil.Process()).split(":")
    with pytest.raises(GoneError):
        polled(f"{kind}:{pid}:{int(started) - 60_000}")


@pytest.mark.parametrize(
    "resource",
    [
        "process:999999999:0",
        "disk:none",
        "net:none",
        "cpu:99999",
        "filesystem:/none",
        "file:/none",
        "directory:/none",
    ],
)
def test_what_is_not_there_is_gone(resource):
    with pytest.raises(GoneError):
        polled(resource)


def test_a_zombie_is_discovered_so_it_has_a_sample():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        resource = process_id(psutil.Process(child.pid))
        assert resource in discover()
        assert "process.uptime" in polled(resource)


def test_a_process_that_hides_its_numbers_is_still_up(monkeypatch):
    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "num_threads", refuse)
    assert "process.uptime" in polled(process_id(psutil.Process()))


def test_a_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    os.utime(path, (0, 0))
    assert volume(f"file:{path}", "file.size") == 5
    assert volume(f"file:{path}", "file.age") > 1e9


def test_a_directory(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "d").mkdir()
    assert volume(f"directory:{tmp_path}", "directory.entries") == 2
    assert volume(f"directory:{tmp_path}", "directory.size") == 5


def test_a_tcp_port_that_answers(listener):
    readings = polled(f"tcp:127.0.0.1:{listener}")
    assert readings["tcp.up"].volume == 1
    assert readings["tcp.connect_time"].unit == "s"


def test_a_tcp_port_that_refuses_is_down_which_is_a_sample(free_port):
    assert polled(f"tcp:127.0.0.1:{free_port}")["tcp.up"].volume == 0


def test_a_host_that_does_not_resolve_is_down():
    assert polled("tcp:no-such-host.invalid:80")["tcp.up"].volume == 0


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/broken", 503)])
def test_a_url(web, path, status):
    assert volume(web + path, "http.status") == status
    assert volume(web + path, "http.up") == 1


def test_a_url_nobody_serves_is_down(free_port):
    assert volume(f"http://127.0.0.1:{free_port}/", "http.up") == 0


def test_a_server_that_accepts_and_says_nothing_is_down_after_the_timeout(listener):
    assert polled(f"http://127.0.0.1:{listener}/", timeout=0.05)["http.up"].volume == 0


def test_a_local_resource_that_hangs_times_out(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(os, "stat", lambda _: never.wait(0.2))
    with pytest.raises(TimeoutError, match="file:/slow took more than"):
        polled("file:/slow", timeout=0.01)
