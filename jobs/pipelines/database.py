"""SQLite as the job uses it: several processes have a database open, and any of them may be killed or stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

# Seconds. A lock is held for milliseconds, unless its holder was stopped; who waits has other things to do meanwhile.
_BUSY = 0.05


class Database:
    """Some tables; any number of processes may have them open.

    Every method may raise ``sqlite3.OperationalError`` when the database is locked for longer than a moment. Nothing
    has happened then, and the call may be repeated.
    """

    schema: ClassVar[str]
    """SQL that makes the tables, if need be."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        # A commit outlives the process, which is what is killed here; only a power cut may take the last ones.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(self.schema)

    def close(self) -> None:
        """Closes the database."""
        self._db.close()


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; takes the write lock at once, so that what is read in it stays true."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    try:
        db.execute("COMMIT")
    except sqlite3.OperationalError:
        db.execute("ROLLBACK")
        raise


def is_locked(error: sqlite3.OperationalError) -> bool:
    """Whether another process holds the lock, so that the same call may go well in a moment."""
    return "locked" in str(error) or "busy" in str(error)
