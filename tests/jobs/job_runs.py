"""Runs of the programs in ``jobs``, each on a Ray cluster of its own."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 200.0
"""Seconds for what takes a few on an idle machine."""


class Run:
    """A running program, terminated when the ``with`` block ends, and its output by line."""

    def __init__(self, program, *arguments):
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "NO_PROXY": "127.0.0.1", "COLUMNS": "200"}
        environment.pop("RAY_ADDRESS", None)
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", program, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LIMIT)
        self.process.stdout.close()

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
        """Return the agents' processes, without those that end meanwhile."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if "".join(child.cmdline()[:1]).startswith("ray::Agent"):
                    found.append(child)
        return found
