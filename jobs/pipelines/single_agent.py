"""Run the whole job with one agent in this process, without Ray; the baseline for several agents."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

from jobs.pipelines.display import Display, Outcome
from jobs.pipelines.offsets import write_corrupt
from jobs.pipelines.report import Cost, read_lines
from jobs.pipelines.worker import Job, OwnsAll, Worker

# Seconds between updates of the progress bar.
_LOOK = 0.2


def run_single(job: Job, display: Display, what: str) -> tuple[Cost, dict[str, int]]:
    """Run one agent until the inputs end or it is interrupted.

    Returns:
        What it cost, and the size of each pipeline's batches.

    Raises:
        PublishError, LostSamples, OSError, sqlite3.Error: it cannot go on; what is published stays.
    """
    worker = Worker("agent-1", job, OwnsAll(), OwnsAll())
    display.start_bar(what, total_bytes(job))
    began, cpu = time.perf_counter(), time.process_time()
    try:
        asyncio.run(_run(worker, lambda: display.advance(acknowledged_bytes(job))))
    finally:
        display.close()
    cost = Cost(worker.straight.samples, time.perf_counter() - began, time.process_time() - cpu)
    worker.close()
    return cost, worker.batch_sizes


def run_job(job: Job, display: Display) -> Outcome:
    """Run the job with one agent and report on it; raises what ``run_single`` raises."""
    try:
        cost, sizes = run_single(job, display, "one agent")
    finally:
        corrupt = set_corrupt_aside(job)
    return Outcome(read_lines(job), cost, corrupt, has_ended(job), sizes=sizes)


def set_corrupt_aside(job: Job) -> int:
    """Write the file of corrupt lines; return their number."""
    offsets = job.offsets()
    try:
        return write_corrupt(offsets, job.inputs.base, job.directory / "corrupt.jsonl")
    finally:
        offsets.close()


def has_ended(job: Job) -> bool:
    """Return whether all inputs are published to the end; True with ``follow``, where no input ends."""
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
    """Return how many bytes there are to read; None with ``follow``."""
    if job.config.follow:
        return None
    return sum((job.inputs.base / name).stat().st_size for name in job.inputs.names())


def acknowledged_bytes(job: Job) -> int:
    """Return how many bytes of the inputs are published."""
    offsets = job.offsets()
    try:
        return sum(offset.position for offset in offsets.all().values())
    finally:
        offsets.close()
