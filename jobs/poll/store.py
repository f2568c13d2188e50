"""Samples become a Parquet dataset that a SIGKILL cannot break.

A run's directory holds ``samples/``, to which every agent adds parts of its own, and ``roster/``, to
which the driver adds one part a cycle: what there was to poll. A part is written under a hidden name
and renamed, so it is there whole or not at all; readers of Parquet datasets pass hidden names over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from jobs.poll.pollers import Reading

SAMPLES = pa.schema(
    [
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("cycle", pa.int32()),
        ("resource_id", pa.string()),
        ("meter", pa.string()),
        ("volume", pa.float64()),
        ("unit", pa.string()),
        ("agent", pa.string()),
        ("epoch", pa.string()),  # "incarnation.counter" of the view that the agent acted on
    ]
)
ROSTER = pa.schema(
    [
        ("cycle", pa.int32()),
        ("resource_id", pa.string()),
        ("lived_through", pa.bool_()),  # there at the cycle's start and at its end
    ]
)


class SampleWriter:
    """One agent's samples of one cycle; each ``flush()`` makes a part of those added since the last."""

    def __init__(self, directory: str | Path, agent: str, cycle: int, epoch: str) -> None:
        self._directory = Path(directory) / "samples"
        self._agent = agent
        self._cycle = cycle
        self._epoch = epoch
        self._rows: list[dict[str, object]] = []
        self._parts = 0

    def add(self, resource_id: str, readings: Iterable[Reading]) -> None:
        """Takes the readings of one poll; they share one timestamp."""
        now = datetime.now(timezone.utc)
        for reading in readings:
            self._rows.append(
                {
                    "timestamp": now,
                    "cycle": self._cycle,
                    "resource_id": _text(resource_id),
                    "meter": reading.meter,
                    "volume": float(reading.volume),
                    "unit": reading.unit,
                    "agent": self._agent,
                    "epoch": self._epoch,
                }
            )

    def flush(self) -> None:
        """Writes what was added since the last flush as one part; nothing when there is nothing.

        Raises:
            OSError: the part could not be written; the dataset is as it was.
        """
        if not self._rows:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{self._cycle:06d}-{self._agent}-{self._parts:04d}.parquet"
        _write(pa.Table.from_pylist(self._rows, schema=SAMPLES), self._directory / name)
        self._parts += 1
        self._rows = []


def write_roster(directory: str | Path, cycle: int, started_with: Iterable[str], ended_with: Iterable[str]) -> None:
    """Notes what there was to poll in a cycle.

    Args:
        directory: the run's.
        cycle: 1-based.
        started_with: the resource ids discovered at the cycle's start.
        ended_with: those discovered at its end.

    Raises:
        OSError: it could not be written.
    """
    survived = set(ended_with)
    rows = [
        {"cycle": cycle, "resource_id": _text(resource), "lived_through": resource in survived}
        for resource in started_with
    ]
    parts = Path(directory) / "roster"
    parts.mkdir(parents=True, exist_ok=True)
    _write(pa.Table.from_pylist(rows, schema=ROSTER), parts / f"{cycle:06d}.parquet")


def read_samples(directory: str | Path) -> pa.Table:
    """All the samples of a run: a table of ``SAMPLES``."""
    return _read(Path(directory) / "samples", SAMPLES)


def read_roster(directory: str | Path) -> pa.Table:
    """What there was to poll in each cycle of a run: a table of ``ROSTER``."""
    return _read(Path(directory) / "roster", ROSTER)


def _read(parts: Path, schema: pa.Schema) -> pa.Table:
    if not parts.is_dir():
        return schema.empty_table()
    return pa.dataset.dataset(parts, schema=schema, format="parquet").to_table()


def _write(table: pa.Table, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    pa.parquet.write_table(table, unfinished)
    os.replace(unfinished, path)


def _text(resource_id: str) -> str:
    # A mount point or a file may have any bytes for a name; Parquet strings are UTF-8.
    return resource_id.encode("utf-8", "backslashreplace").decode("utf-8")
