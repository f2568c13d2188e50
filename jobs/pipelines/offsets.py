"""How far each input is published by all pipelines, and its corrupt lines; in SQLite, for the input's next reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jobs.pipelines.database import Database, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS input (
    name TEXT PRIMARY KEY, position INTEGER NOT NULL, line INTEGER NOT NULL, ended INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS corrupt (
    input TEXT, line INTEGER, reason TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (input, line)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (fingerprint TEXT NOT NULL);
"""


class Offset(NamedTuple):
    """Everything before ``position`` is acknowledged."""

    position: int = 0  # bytes
    line: int = 0  # number of lines before it
    ended: bool = False  # it is the input's end, and the pipelines have been told


class Corrupt(NamedTuple):
    """A line that is not a sample."""

    line: int  # 1-based
    reason: str
    text: str


class Offsets(Database):
    """The offsets of a job's inputs."""

    schema = _SCHEMA

    def made_with(self, fingerprint: str) -> str:
        """Return the fingerprint of the pipelines that the job began with; store the given one if it is new."""
        with transaction(self._db):
            row = self._db.execute("SELECT fingerprint FROM made").fetchone()
            if row is None:
                self._db.execute("INSERT INTO made VALUES (?)", [fingerprint])
            return str(row[0]) if row else fingerprint

    def get(self, name: str) -> Offset:
        """Return the offset of an input."""
        row = self._db.execute("SELECT position, line, ended FROM input WHERE name = ?", [name]).fetchone()
        return Offset(row[0], row[1], bool(row[2])) if row else Offset()

    def all(self) -> dict[str, Offset]:
        """Return the offsets of the inputs that have one."""
        rows = self._db.execute("SELECT name, position, line, ended FROM input")
        return {name: Offset(position, line, bool(ended)) for name, position, line, ended in rows}

    def acknowledge(self, name: str, offset: Offset, corrupt: Iterable[Corrupt]) -> None:
        """Store how far an input is published, and its corrupt lines so far.

        A lower offset, from a reader that was stopped for a while, changes nothing.
        """
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO input VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET position = excluded.position,"
                " line = excluded.line, ended = excluded.ended"
                " WHERE (excluded.position, excluded.ended) > (position, ended)",
                [name, *offset],
            )
            self._db.executemany("INSERT OR IGNORE INTO corrupt VALUES (?, ?, ?, ?)", [(name, *c) for c in corrupt])

    def corrupt(self) -> int:
        """Return the number of corrupt lines."""
        return int(self._db.execute("SELECT count(*) FROM corrupt").fetchone()[0])

    def corrupt_lines(self) -> Sequence[tuple[str, int, str, str]]:
        """Return the corrupt lines: input, line, reason, text."""
        return self._db.execute("SELECT * FROM corrupt ORDER BY input, line").fetchall()


def write_corrupt(offsets: Offsets, inputs: Path, file: Path) -> int:
    """Write the corrupt lines to a JSON-lines file, with ``file:line`` and the reason; return their number.

    Raises:
        OSError: the file could not be written.
    """
    rows = offsets.corrupt_lines()
    if rows:
        unfinished = file.with_name(f".{file.name}.unfinished")
        with open(unfinished, "w", encoding="utf-8") as out:
            for name, line, reason, text in rows:
                out.write(json.dumps({"at": f"{inputs / name}:{line}", "reason": reason, "line": text}) + "\n")
        unfinished.replace(file)
    return len(rows)
