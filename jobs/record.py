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
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import psutil

from jobs.driver.command_line import InputError, Parser, exit_status
from jobs.driver.machine import GoneError, discover, measure


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
                for resource in discover():
                    out = outs[zlib.crc32(resource.encode(errors="replace")) % files]
                    lines = _lines(resource, run, recorded)[: samples - recorded if samples else None]
                    out.writelines(lines)
                    recorded += len(lines)
                for out in outs:
                    out.flush()
                time.sleep(max(0.0, due - time.monotonic()))
        except KeyboardInterrupt:
            pass
    return recorded


def _lines(resource: str, run: str, recorded: int) -> list[str]:
    try:
        readings, metadata = measure(resource)
    except (GoneError, OSError, psutil.Error):
        return []  # it has ended, or is hidden
    timestamp = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return [
        json.dumps(
            {
                "id": f"{run}-{recorded + n}",
                "name": reading.meter,
                "type": reading.type,
                "unit": reading.unit,
                "volume": reading.volume,
                "resource_id": resource,
                "timestamp": timestamp,
                "metadata": metadata,
            }
        )
        + "\n"
        for n, reading in enumerate(readings)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.record", "Record samples of this machine.")
    parser.add_argument("--out", default="out/recorded", help="directory for the new files [%(default)s]")
    parser.add_argument("--samples", type=int, default=200_000, help="how many; 0: until interrupted [%(default)s]")
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between rounds [%(default)s]")
    parser.add_argument("--files", type=int, default=8, help="number of files for the resources [%(default)s]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
