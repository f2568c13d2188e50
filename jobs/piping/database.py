"""SQLite as the job uses it: several processes have a database open, and any of them may be killed or stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Seconds. A lock is held for milliseconds, unless its holder was stopped; who waits has other things to do meanwhile.
_BUSY = 0.05


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Opens a database and makes its tables, if need be.

    Raises:
        sqlite3.OperationalError: it cannot be made, or is locked for longer than a moment.
    """
    db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    # A commit outlives the process, which is what is killed here; only a power cut may take the last ones.
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(schema)
    return db


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
