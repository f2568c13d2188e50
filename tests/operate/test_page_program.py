"""The page as a program: where it listens, what it prints, and how it ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from deployments import LIMIT

from partition_actor.errors import InvalidArgument, PartitionActorUnavailable
from partition_actor.operate.page import run
from partition_actor.operate.page.asking_process import AskingProcess
from partition_actor.operate.page.source import Away

RAY = """
import sys, ray, partition_actor
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
partition_actor.deploy(name="gone", namespace="gone")
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

SERVE = """
import asyncio
from played_actor import PlayedPartitionActor
from partition_actor.operate.page.program import serve
actor = PlayedPartitionActor()
actor.group("agents", ["a"])
asyncio.run(serve(actor, {arguments}))
"""


@pytest.fixture
def start():
    """Start the page in a process, with a partition actor that is played there; returns it and its first two lines."""
    started = []

    def start(arguments):
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        program = [sys.executable, "-c", SERVE.format(arguments=arguments)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(program, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": path})
        )
        return started[-1], [started[-1].stdout.readline().strip() for _ in range(2)]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def run_ray():
    """Start a Ray with a partition actor in a process; returns its address, and a function that ends it."""
    started = []

    def run_ray():
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", RAY], stdin=pipe, stdout=pipe, text=True))
        return started[-1].stdout.readline().strip(), end

    def end():
        for process in started:
            process.communicate()

    yield run_ray
    end()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_at_once_though_browsers_look(start, number):
    process, (where, what) = start("'127.0.0.1', 0")
    assert where.startswith("http://127.0.0.1:")
    assert "token" not in where
    assert what.startswith("read-only")
    with httpx.stream("GET", f"{where}live", timeout=LIMIT) as stream:
        lines = stream.iter_lines()
        while not next(lines).startswith("event: state"):
            pass
        process.send_signal(number)
        for _ in lines:
            pass
    assert process.wait(LIMIT) == 0
    assert process.communicate() == ("", "")


def test_beyond_this_machine_the_address_has_a_token(start):
    token = "x" * 16
    _, (where, what) = start(f"'0.0.0.0', 0, True, {token!r}")
    assert where.endswith(f"/?token={token}")
    assert what.startswith("members can be drained and forgotten")
    assert httpx.URL(where).host == socket.gethostname()
    here = str(httpx.URL(where).copy_with(host="127.0.0.1"))
    assert httpx.get(here.partition("?")[0]).status_code == 401
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(here).status_code == 200


def test_a_port_that_is_taken_is_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process, _ = start(f"'127.0.0.1', {port}")
        assert process.wait(LIMIT) == 1
        line = process.communicate()[1].splitlines()[-1]
    assert "InvalidArgument: port" in line
    assert f"try --port {port + 1}" in line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"port": -1}, "port"),
        ({"port": 70_000}, "port"),
        ({"port": True}, "port"),
        ({"host": ""}, "host"),
        ({"token": "short"}, "token"),
        ({"allow_changes": 1}, "allow_changes"),
        ({"name": ""}, "name"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(arguments, named):
    with pytest.raises(InvalidArgument, match=f"^{named}: ") as raised:
        run(**{"address": None, "namespace": "n", "name": "n", **arguments})
    assert "short" not in str(raised.value)


def test_without_ray_it_does_not_begin_and_says_what_to_do():
    with pytest.raises(PartitionActorUnavailable, match="no Ray answers at") as raised:
        run(f"127.0.0.1:{free_port()}", "partition_actor", "partition-actor", port=0)
    assert "\n" not in str(raised.value)


def test_when_its_ray_is_gone_it_says_so_and_goes_on_trying():
    async def asked():
        source = AskingProcess(f"127.0.0.1:{free_port()}", "n", "n")
        try:
            told = []
            for _ in range(3):
                with pytest.raises(Away) as raised:
                    await source.observe([], 0)
                told.append(str(raised.value))
            return told
        finally:
            await source.close()

    first, *others = asyncio.run(asked())
    assert "no Ray answers at" in first
    assert others == [first, first]  # at once: it does not start a process each second


def test_when_its_ray_ends_it_says_that_ray_is_gone_and_does_not_end_itself(run_ray):
    address, end = run_ray()

    async def asked():
        source = AskingProcess(address, "gone", "gone")
        try:
            assert (await source.observe([], 0))["status"]["groups"] == {}
            await asyncio.to_thread(end)
            until = asyncio.get_running_loop().time() + LIMIT
            while asyncio.get_running_loop().time() < until:
                with pytest.raises(Away) as raised:
                    await source.observe([], 0)
                if address in str(raised.value):
                    return str(raised.value)
            return str(raised.value)
        finally:
            await source.close()

    told = asyncio.run(asked())
    assert told == f"the Ray at {address} is gone" or told.startswith(f"no Ray answers at {address}")
