"""Write samples as a Parquet dataset that a SIGKILL cannot corrupt.

A run's directory holds ``samples/`` and ``roster/``, to each of which a cycle of a source adds one part. A part is
written under a hidden name and then renamed, so readers see all of it or nothing: they ignore hidden names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from jobs.driver.machine import Measured

SAMPLES = pa.schema(
    [
        ("id", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("source", pa.string()),
        ("cycle", pa.int32()),
        ("resource_id", pa.string()),
        ("meter", pa.string()),
        ("type", pa.string()),
        ("volume", pa.float64()),
        ("unit", pa.string()),
        ("resource_metadata", pa.map_(pa.string(), pa.string())),
        ("project_id", pa.string()),
        ("user_id", pa.string()),
        ("agent", pa.string()),
        ("epoch", pa.string()),  # "incarnation.counter" of the view that the agent used
    ]
)
ROSTER = pa.schema(
    [
        ("source", pa.string()),
        ("cycle", pa.int32()),
        ("resource_id", pa.string()),
        ("lived_through", pa.bool_()),  # existed at the cycle's start and at its end
        ("ours", pa.bool_()),  # belonged to an agent of this run at both times, and not to another run's
    ]
)


def samples_of(resource_id: str, measured: Measured, **common: object) -> Iterator[dict[str, object]]:
    """Yield the rows of one poll, under one timestamp; ``common`` are further columns."""
    now = datetime.now(timezone.utc)
    metadata = [(name, _text(value)) for name, value in measured.metadata.items()]
    for reading in measured.readings:
        yield {
            **common,
            **reading._asdict(),
            "id": uuid4().hex,
            "timestamp": now,
            "resource_id": _text(resource_id),
            "volume": float(reading.volume),
            "resource_metadata": metadata,
        }


class Dataset:
    """A run's directory."""

    def __init__(self, directory: Path) -> None:
        """Make its folders. Raises ``OSError``."""
        self.directory = directory
        self._written = dict.fromkeys(("samples", "roster"), 0)
        for name in self._written:
            (directory / name).mkdir()

    def write(self, source: str, cycle: int, samples: pa.Table, roster: pa.Table | None) -> None:
        """Write a cycle's parts; those without rows are left out, and the roster of a cycle that did not end.

        Raises:
            OSError: a part could not be written, or its folder is gone.
        """
        for name, table in (("samples", samples), ("roster", roster)):
            if table is not None and table.num_rows:
                _write(table, self.directory / name / f"{source}-{cycle:06d}.parquet")
                self._written[name] += table.num_rows

    def missing(self) -> int:
        """Return how many of the rows that were written are no longer there."""
        there = {name: _open(self.directory / name) for name in self._written}
        return sum(
            max(0, rows - (there[name].count_rows() if there[name] else 0)) for name, rows in self._written.items()
        )


def roster_of(source: str, cycle: int, judged: Iterable[tuple[str, bool, bool]]) -> pa.Table:
    """Return the roster of a cycle of ``(resource id, lived through, ours)``."""
    rows = [(source, cycle, _text(resource), *each) for resource, *each in judged]
    return pa.Table.from_pylist([dict(zip(ROSTER.names, row, strict=True)) for row in rows], schema=ROSTER)


def read(directory: str | Path, name: str, schema: pa.Schema) -> pa.Table:
    """Return the ``samples`` or the ``roster`` of a run as a table."""
    parts = _open(Path(directory) / name)
    return schema.empty_table() if parts is None else parts.to_table()


def _open(parts: Path) -> Any:
    if not parts.is_dir():
        return None
    return pa.dataset.dataset(parts, schema=SAMPLES if parts.name == "samples" else ROSTER, format="parquet")


def _write(table: pa.Table, path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        pa.parquet.write_table(table, unfinished)
        os.replace(unfinished, path)
    except OSError as error:  # pyarrow's says a lot, and has no filename
        number = error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from None


def _text(name: str) -> str:
    # Names of files and mount points may be any bytes; Parquet strings are UTF-8.
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
