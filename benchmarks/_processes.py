"""Stopping worker processes and measuring their CPU; the same for every peer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil


def processor_seconds(pids: Iterable[int]) -> float:
    """CPU seconds that these processes have used so far, in all their threads."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(time.user + time.system for time in times)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop the process during the block, as a long hold of the GIL or a machine short of memory would."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
