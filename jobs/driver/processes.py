"""Processes of this node: their resource ids, and signals to them."""

from __future__ import annotations

import os
from contextlib import suppress

import psutil


def process_id(process: psutil.Process) -> str:
    """Return the resource id of a process, ``process:<pid>:<start in ms>``; the start tells reused pids apart."""
    return f"process:{process.pid}:{int(process.create_time() * 1000)}"


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process; do nothing if it has already ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
