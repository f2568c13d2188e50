"""A pipeline's checkpoints in SQLite: how far each input is published, and the state of its series at that point.

Both are written in one transaction, so a new owner continues exactly where the last one stopped. An owner first claims
the shard with its fencing token; from then on, commits by an earlier owner, which may have been stopped and not know of
its successor, are refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from jobs.pipelines.database import Database, transaction
from jobs.pipelines.pipeline import Memory, SeriesKey

_SCHEMA = """
CREATE TABLE IF NOT EXISTS shard (shard TEXT PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS watermark (
    shard TEXT, input TEXT, position INTEGER NOT NULL, PRIMARY KEY (shard, input)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
    shard TEXT, input TEXT, step TEXT, meter TEXT, resource_id TEXT, state TEXT NOT NULL,
    PRIMARY KEY (shard, input, step, meter, resource_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ownership (
    shard TEXT, token INTEGER, owner TEXT NOT NULL, since REAL NOT NULL,
    samples INTEGER NOT NULL DEFAULT 0, repeats INTEGER NOT NULL DEFAULT 0,
    waited REAL NOT NULL DEFAULT 0, longest REAL NOT NULL DEFAULT 0, PRIMARY KEY (shard, token)
) WITHOUT ROWID;
"""


class Superseded(Exception):
    """Another owner has claimed the shard with a later token; nothing was written."""


class Done(NamedTuple):
    """The counts of one batch, for the summary."""

    samples: int
    repeats: int
    lag: float  # seconds from reading the oldest sample to publishing


@dataclass
class Claim:
    """The checkpoint of a shard in its owner's memory."""

    shard: str
    token: int
    watermarks: dict[str, int]  # by input: samples that begin before this byte are published
    memory: Memory


class Ownership(NamedTuple):
    """What one owner did under one token."""

    shard: str
    token: int
    owner: str
    since: float  # Unix time
    samples: int
    repeats: int
    waited: float  # seconds: sum of the lags of all samples
    longest: float  # seconds: the longest lag


class Checkpoints(Database):
    """The checkpoints of all shards of one pipeline."""

    schema = _SCHEMA

    def claim(self, shard: str, owner: str, token: int | None) -> Claim:
        """Become the owner of a shard, and read its checkpoint.

        Args:
            shard: the key.
            owner: the agent's name, for the summary.
            token: the fencing token; None if there is only one agent, which takes the next token.

        Raises:
            Superseded: an owner with a later token exists.
        """
        with transaction(self._db):
            row = self._db.execute("SELECT token FROM shard WHERE shard = ?", [shard]).fetchone()
            held = row[0] if row else 0
            mine = held + 1 if token is None else token
            if mine < held:
                raise Superseded(f"{shard}: token {mine} is older than {held}")
            self._db.execute("INSERT OR REPLACE INTO shard VALUES (?, ?)", [shard, mine])
            self._db.execute(
                "INSERT OR IGNORE INTO ownership (shard, token, owner, since) VALUES (?, ?, ?, ?)",
                [shard, mine, owner, time.time()],
            )
            return Claim(shard, mine, self._watermarks(shard), self._memory(shard))

    def commit(self, claim: Claim, input_name: str, reached: int, done: Done) -> None:
        """Write what has changed in the claim's memory, and how far the input is published.

        Raises:
            Superseded: another owner has claimed the shard; nothing is written.
        """
        changed = list(claim.memory.changed)
        states = claim.memory.states
        kept = [(claim.shard, *key, json.dumps(states[key])) for key in changed if key in states]
        gone = [(claim.shard, *key) for key in changed if key not in states]
        with transaction(self._db):
            self._check(claim)
            self._db.executemany("INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?, ?)", kept)
            self._db.executemany(
                "DELETE FROM series WHERE shard = ? AND input = ? AND step = ? AND meter = ? AND resource_id = ?", gone
            )
            self._db.execute("INSERT OR REPLACE INTO watermark VALUES (?, ?, ?)", [claim.shard, input_name, reached])
            self._count(claim, done)
        claim.memory.changed.clear()
        claim.watermarks[input_name] = reached

    def count(self, claim: Claim, done: Done) -> None:
        """Count a batch whose samples were all published before."""
        with transaction(self._db):
            self._count(claim, done)

    def position(self, shard: str, input_name: str) -> int:
        """Return the byte up to which a shard has published an input, whoever owns the shard."""
        query = "SELECT position FROM watermark WHERE shard = ? AND input = ?"
        row = self._db.execute(query, [shard, input_name]).fetchone()
        return int(row[0]) if row else 0

    def ownerships(self) -> list[Ownership]:
        """Return who owned what, ordered by shard and token."""
        rows = self._db.execute("SELECT * FROM ownership ORDER BY shard, token")
        return [Ownership(*row) for row in rows]

    def _check(self, claim: Claim) -> None:
        (held,) = self._db.execute("SELECT token FROM shard WHERE shard = ?", [claim.shard]).fetchone()
        if held != claim.token:
            raise Superseded(f"{claim.shard}: token {claim.token} is older than {held}")

    def _count(self, claim: Claim, done: Done) -> None:
        self._db.execute(
            "UPDATE ownership SET samples = samples + ?, repeats = repeats + ?, waited = waited + ?,"
            " longest = max(longest, ?) WHERE shard = ? AND token = ?",
            [done.samples, done.repeats, done.samples * done.lag, done.lag, claim.shard, claim.token],
        )

    def _watermarks(self, shard: str) -> dict[str, int]:
        return dict(self._db.execute("SELECT input, position FROM watermark WHERE shard = ?", [shard]).fetchall())

    def _memory(self, shard: str) -> Memory:
        rows: Iterable[tuple[str, str, str, str, str]] = self._db.execute(
            "SELECT input, step, meter, resource_id, state FROM series WHERE shard = ?", [shard]
        )
        return Memory({SeriesKey(*key): json.loads(state) for *key, state in rows})
