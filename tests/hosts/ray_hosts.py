"""A Ray cluster on several hosts, started by `ray start`, and a driver on its head."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bed
import ray

ROOT = bed.ROOT
START_WITHIN = 180.0
"""Seconds for what takes a few on an idle machine."""
HEAD = 0
PORT = 6379


def environment(*imports: Path, **variables: str) -> dict[str, str]:
    """Of a program on a host."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = [str(path) for path in (ROOT, *imports)]
    of_ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), **of_ray, **variables}


class RayHosts:
    """Ray on all hosts of a bed, with its head on host 0. It ends with the bed.

    They can start at the same time, because hosts share neither a /tmp nor processes. `variables` are added to the
    environment, such as Ray's own settings (RAY_...), and workers of Ray import from the directories `imports`.
    """

    def __init__(self, hosts: bed.Hosts, *imports: Path, **variables: str) -> None:
        self.hosts, self.environment = hosts, environment(*imports, **variables)
        self.start(HEAD)
        self.start(*range(1, hosts.number))

    def start(self, *of_hosts: int) -> None:
        """`ray start` on these hosts at the same time."""
        for started in [self._start(host) for host in of_hosts]:
            output, _ = started.communicate(timeout=START_WITHIN)
            assert started.returncode == 0, output

    def _start(self, host: int) -> subprocess.Popen[str]:
        join = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if host != HEAD:
            join = [f"--address={bed.address(HEAD)}:{PORT}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *join]
        limits = ["--num-cpus=4", "--object-store-memory=100000000"]
        return self.hosts.popen(
            host,
            [*command, f"--node-ip-address={bed.address(host)}", *limits],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


class Driver:
    """A program on the head that does one call after another: a line of JSON in, a line out."""

    def __init__(self, rays: RayHosts, program: Path, *arguments: object) -> None:
        argv = [sys.executable, program, *map(str, arguments)]
        options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = rays.hosts.popen(HEAD, argv, env=rays.environment, **options)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object) -> Any:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            assert line, f"the driver ended with status {self._process.wait()}"
            return json.loads(line)

        return call


def serve(make: Callable[[], object]) -> None:
    """In the program: join Ray, make the driver, and carry out what is called, until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints what it has to say
    ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    driver = make()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(driver, name)(*arguments)), file=replies, flush=True)
