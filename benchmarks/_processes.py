"""What benchmarks do to worker processes, and what those cost; the same for every peer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil


def processor_seconds(pids: Iterable[int]) -> float:
    """The seconds of processor time that these processes have used so far, all their threads together."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(time.user + time.system for time in times)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does not run during the block: what a long hold of the GIL or a machine out of memory does to it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
