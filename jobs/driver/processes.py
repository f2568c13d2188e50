"""Signals to processes of this node."""

from __future__ import annotations

import os
from contextlib import suppress


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process; do nothing if it has already ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
