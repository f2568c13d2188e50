"""Write samples as a Parquet dataset that a SIGKILL cannot corrupt.

A run's directory holds ``samples/``, to which every agent adds its own parts, and ``roster/``, to which the driver adds
one part per cycle with what there was to poll. A part is written under a hidden name and then renamed, so readers see
all of it or nothing: they ignore hidden names.
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
        ("epoch", pa.string()),  # "incarnation.counter" of the view that the agent used
    ]
)
ROSTER = pa.schema(
    [
        ("cycle", pa.int32()),
        ("resource_id", pa.string()),
        ("lived_through", pa.bool_()),  # existed at the cycle's start and at its end
    ]
)


class SampleWriter:
    """Writes one agent's samples of one cycle; each ``flush()`` writes a part with those added since the last."""

    def __init__(self, directory: str | Path, agent: str, cycle: int, epoch: str) -> None:
        self._directory = Path(directory) / "samples"
        self._agent = agent
        self._cycle = cycle
        self._epoch = epoch
        self._rows: list[dict[str, object]] = []
        self._parts = 0

    def add(self, resource_id: str, readings: Iterable[Reading]) -> None:
        """Add the readings of one poll, under one timestamp."""
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
        """Write what was added since the last flush as one part, if anything was.

        Raises:
            OSError: the part could not be written; the dataset is unchanged.
        """
        if not self._rows:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{self._cycle:06d}-{self._agent}-{self._parts:04d}.parquet"
        _write(pa.Table.from_pylist(self._rows, schema=SAMPLES), self._directory / name)
        self._parts += 1
        self._rows = []


def write_roster(directory: str | Path, cycle: int, started_with: Iterable[str], ended_with: Iterable[str]) -> None:
    """Write what there was to poll in a cycle.

    Args:
        directory: the run's.
        cycle: 1-based.
        started_with: resource ids discovered at the cycle's start.
        ended_with: resource ids discovered at its end.

    Raises:
        OSError: the part could not be written.
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
    """Return the samples of a run as a table with the schema ``SAMPLES``."""
    return _read(Path(directory) / "samples", SAMPLES)


def read_roster(directory: str | Path) -> pa.Table:
    """Return what there was to poll in each cycle as a table with the schema ``ROSTER``."""
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
    # Names of files and mount points may be any bytes; Parquet strings are UTF-8.
    return resource_id.encode("utf-8", "backslashreplace").decode("utf-8")
