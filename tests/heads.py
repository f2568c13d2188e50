"""A real ``ray start --head`` for a test."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
LIMIT = 150.0  # s, for what takes a few seconds on an idle machine


class Head:
    """A Ray head node of this test's own, on free ports, with this in its environment."""

    def __init__(self, **environment):
        self.directory = Path(tempfile.mkdtemp(prefix="ray-head-"))  # sockets lie in it: a short path
        port, dashboard, *inner = _free_ports(6)
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.metrics = f"http://127.0.0.1:{inner[3]}/metrics"
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            **environment,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self.log = (self.directory / "head.log").open("w+")
        self.process = subprocess.Popen(
            [
                *("ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2"),
                *(f"--port={port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={inner[0]}"),
                *(f"--dashboard-agent-grpc-port={inner[1]}", f"--runtime-env-agent-port={inner[2]}"),
                *(f"--metrics-export-port={inner[3]}", f"--temp-dir={self.directory}"),
            ],
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def wait(self):
        deadline = time.monotonic() + LIMIT
        while subprocess.run(
            ["ray", "job", "list", f"--address={self.dashboard}"], env=self.environment, capture_output=True
        ).returncode:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def run(self, *command, cwd=ROOT, **environment):
        return subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def stop(self):
        processes = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT)
        _, alive = psutil.wait_procs(processes, 20)
        for process in alive:
            process.kill()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def _free_ports(count):
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
