"""Record samples of this machine as JSON lines, for ``jobs.pipelines`` to read, even while recording goes on.

::

    python -m jobs.record --out out/recorded --samples 200000

All samples of a resource go into one file, in order. Exit status: 0 everything is recorded, or it was interrupted;
1 a file could not be written; 2 the options are unusable.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from jobs.driver.command_line import InputError, Parser, exit_status
from jobs.driver.processes import process_id

Fields = tuple[str, str, str, float]
"""name, type, unit, volume"""


class Measured(NamedTuple):
    """The measurements of one resource at one moment."""

    resource_id: str
    fields: list[Fields]
    metadata: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    return exit_status("jobs.record", lambda: _run(arguments), OSError)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if min(options.samples, options.interval) < 0 or options.files < 1:
        raise InputError("--samples and --interval must be at least 0, and --files at least 1")
    recorded = record(Path(options.out), options.samples, options.interval, options.files)
    print(f"{recorded} samples in {options.out}")
    return 0


def record(directory: Path, samples: int, interval: float, files: int) -> int:
    """Record into new files of a directory; return the number of samples.

    Args:
        directory: created if it does not exist.
        samples: how many to record; 0: until interrupted.
        interval: seconds from the start of one round over all resources to the next.
        files: number of files that the resources are spread over.

    Raises:
        OSError: a file could not be written.
    """
    run = uuid.uuid4().hex[:12]
    directory.mkdir(parents=True, exist_ok=True)
    recorded = 0
    with ExitStack() as open_files:
        outs = [open_files.enter_context(open(directory / f"{run}-{n}.jsonl", "x")) for n in range(files)]
        try:
            while not samples or recorded < samples:
                due = time.monotonic() + interval
                for measured in _measure():
                    out = outs[zlib.crc32(measured.resource_id.encode(errors="replace")) % files]
                    lines = _lines(measured, run, recorded)[: samples - recorded if samples else None]
                    out.writelines(lines)
                    recorded += len(lines)
                for out in outs:
                    out.flush()
                time.sleep(max(0.0, due - time.monotonic()))
        except KeyboardInterrupt:
            pass
    return recorded


def _lines(measured: Measured, run: str, recorded: int) -> list[str]:
    timestamp = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return [
        json.dumps(
            {
                "id": f"{run}-{recorded + n}",
                "name": name,
                "type": kind,
                "unit": unit,
                "volume": volume,
                "resource_id": measured.resource_id,
                "timestamp": timestamp,
                "metadata": measured.metadata,
            }
        )
        + "\n"
        for n, (name, kind, unit, volume) in enumerate(measured.fields)
    ]


def _measure() -> Iterator[Measured]:
    yield from _cores()
    yield from _disks()
    yield from _interfaces()
    yield _machine()
    for process in psutil.process_iter():
        try:
            yield _process(process)
        except psutil.Error:
            continue  # it has ended, or is hidden


def _process(process: psutil.Process) -> Measured:
    with process.oneshot():
        cpu, memory, switches = process.cpu_times(), process.memory_info(), process.num_ctx_switches()
        fields: list[Fields] = [
            ("process.cpu", "cumulative", "s", cpu.user + cpu.system),
            ("process.memory.rss", "gauge", "B", memory.rss),
            ("process.memory.vms", "gauge", "B", memory.vms),
            ("process.threads", "gauge", "thread", process.num_threads()),
            ("process.context_switches", "cumulative", "switch", switches.voluntary + switches.involuntary),
        ]
        try:
            io = process.io_counters()
            fields += [
                ("process.io.read", "cumulative", "B", io.read_chars),
                ("process.io.written", "cumulative", "B", io.write_chars),
            ]
        except psutil.AccessDenied:
            pass  # another user's
        return Measured(process_id(process), fields, {"name": process.name(), "pid": process.pid})


def _cores() -> Iterator[Measured]:
    for n, times in enumerate(psutil.cpu_times(percpu=True)):
        fields: list[Fields] = [
            (f"cpu.{name}", "cumulative", "s", seconds) for name, seconds in times._asdict().items()
        ]
        yield Measured(f"cpu:{n}", fields, {})


def _disks() -> Iterator[Measured]:
    for name, io in (psutil.disk_io_counters(perdisk=True) or {}).items():
        fields: list[Fields] = [
            ("disk.read.bytes", "cumulative", "B", io.read_bytes),
            ("disk.write.bytes", "cumulative", "B", io.write_bytes),
            ("disk.read.requests", "cumulative", "request", io.read_count),
            ("disk.write.requests", "cumulative", "request", io.write_count),
        ]
        yield Measured(f"disk:{name}", fields, {})


def _interfaces() -> Iterator[Measured]:
    for name, io in (psutil.net_io_counters(pernic=True) or {}).items():
        fields: list[Fields] = [
            ("net.received.bytes", "cumulative", "B", io.bytes_recv),
            ("net.sent.bytes", "cumulative", "B", io.bytes_sent),
            ("net.received.packets", "cumulative", "packet", io.packets_recv),
            ("net.sent.packets", "cumulative", "packet", io.packets_sent),
        ]
        yield Measured(f"net:{name}", fields, {})


def _machine() -> Measured:
    memory, swap, stats, disk = (
        psutil.virtual_memory(),
        psutil.swap_memory(),
        psutil.cpu_stats(),
        psutil.disk_usage("/"),
    )
    return Measured(
        "machine",
        [
            ("memory.used", "gauge", "B", memory.used),
            ("memory.available", "gauge", "B", memory.available),
            ("swap.used", "gauge", "B", swap.used),
            ("load.1m", "gauge", "process", psutil.getloadavg()[0]),
            ("system.context_switches", "cumulative", "switch", stats.ctx_switches),
            ("system.interrupts", "cumulative", "interrupt", stats.interrupts),
            ("filesystem.used", "gauge", "B", disk.used),
            ("filesystem.free", "gauge", "B", disk.free),
        ],
        {},
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.record", "Record samples of this machine.")
    parser.add_argument("--out", default="out/recorded", help="directory for the new files [%(default)s]")
    parser.add_argument("--samples", type=int, default=200_000, help="how many; 0: until interrupted [%(default)s]")
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between rounds [%(default)s]")
    parser.add_argument("--files", type=int, default=8, help="number of files for the resources [%(default)s]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
