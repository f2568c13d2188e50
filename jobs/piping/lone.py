"""One agent that does it all, in this process: no Ray, no calls, and the measure for several."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from piping.display import Display, Outcome
from piping.offsets import write_corrupt
from piping.report import Cost, read_lines
from piping.worker import Job, Lone, Worker

# Seconds between looks at how far it is.
_LOOK = 0.2


def run_alone(job: Job, display: Display, what: str) -> tuple[Cost, dict[str, int]]:
    """Runs until the inputs have ended, or it is interrupted.

    Returns:
        What it cost, and the size of each pipeline's batches.

    Raises:
        PublishError, LostSamples, OSError, sqlite3.Error: it cannot go on. What is done is kept.
    """
    worker = Worker("agent-1", job, Lone(), Lone())
    display.start_bar(what, total_bytes(job))
    began, cpu = time.perf_counter(), time.process_time()
    try:
        asyncio.run(_run(worker, lambda: display.advance(acknowledged_bytes(job))))
    finally:
        display.close()
    cost = Cost(worker.straight.samples, time.perf_counter() - began, time.process_time() - cpu)
    worker.close()
    return cost, worker.batch_sizes


def run_lone(job: Job, display: Display) -> Outcome:
    """The whole job by one agent; raises what `run_alone` raises."""
    try:
        cost, sizes = run_alone(job, display, "one agent")
    finally:
        corrupt = set_corrupt_aside(job)
    return Outcome(read_lines(job), cost, corrupt, has_ended(job), sizes=sizes)


def set_corrupt_aside(job: Job) -> int:
    """Writes the file of corrupt lines; returns how many there are."""
    offsets = job.offsets()
    try:
        return write_corrupt(offsets, job.inputs.base, job.directory / "corrupt.jsonl")
    finally:
        offsets.close()


def has_ended(job: Job) -> bool:
    """Whether all inputs are published to their ends; those that are followed have none."""
    offsets = job.offsets()
    try:
        known = offsets.all()
    finally:
        offsets.close()
    return job.config.follow or all(name in known and known[name].ended for name in job.inputs.names())


async def _run(worker: Worker, look: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, worker.stop)
    running = asyncio.create_task(worker.run())
    while not running.done():
        await asyncio.wait([running], timeout=_LOOK)
        look()
    running.result()


def total_bytes(job: Job) -> int | None:
    """How much there is to read; None when nobody knows what comes."""
    if job.config.follow:
        return None
    return sum((job.inputs.base / name).stat().st_size for name in job.inputs.names())


def acknowledged_bytes(job: Job) -> int:
    """How much of the inputs is published."""
    offsets = job.offsets()
    try:
        return sum(offset.position for offset in offsets.all().values())
    finally:
        offsets.close()
