"""SQLite databases that several processes share, any of which may be killed or stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

# Seconds to wait for a lock. Locks are held for milliseconds, unless the holder is stopped; callers retry.
_BUSY = 0.05


class Database:
    """A database that any number of processes may have open.

    Every method may raise ``sqlite3.OperationalError`` if another process holds the lock. Then nothing has changed,
    and the call may be repeated; see ``is_locked``.
    """

    schema: ClassVar[str]
    """SQL that creates the missing tables."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        # Commits survive the death of the process. Only a power failure can lose the last ones.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(self.schema)

    def close(self) -> None:
        """Close the database."""
        self._db.close()


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit the block or roll it back. Takes the write lock first, so that what the block reads does not change."""
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
    """Return whether another process holds the lock, so that the call may be retried."""
    return "locked" in str(error) or "busy" in str(error)
