import asyncio
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from jobs.driver.machine import GoneError
from jobs.poll.pollers import poll

# One for all tests: making a client loads the system's certificates.
CLIENT = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def polled(resource_id, timeout=5.0):
    return {reading.meter: reading for reading in asyncio.run(poll(resource_id, CLIENT, timeout)).readings}


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


def test_a_sample_says_what_the_resource_is(listener):
    assert asyncio.run(poll(f"tcp:127.0.0.1:{listener}", CLIENT, 5.0)).metadata == {
        "host": "127.0.0.1",
        "port": str(listener),
    }


def test_what_this_machine_has_is_measured(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    assert volume(f"file:{tmp_path / 'f'}", "file.size") == 5
    with pytest.raises(GoneError):
        polled("file:/none")


def test_a_local_resource_that_hangs_times_out(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(os, "stat", lambda _: never.wait(0.2))
    with pytest.raises(TimeoutError, match="file:/slow took more than"):
        polled("file:/slow", timeout=0.01)
