"""A pipeline, or a shard of one, at its owner: takes batches, publishes, remembers."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from jobs.pipelines.checkpoints import Checkpoints, Claim, Done
from jobs.pipelines.database import is_locked
from jobs.pipelines.pipeline import Pipeline, Published
from jobs.pipelines.publishers import Publisher, make_publisher
from jobs.pipelines.samples import Sample

T = TypeVar("T")

# Seconds between tries while another process holds the database.
_AGAIN = 0.05


class Batch(NamedTuple):
    """Samples for one shard: all that it takes of an input from ``begin`` up to ``end``, in the input's order."""

    input: str
    begin: int  # bytes
    end: int  # bytes
    ended: bool  # the input ends at ``end``
    read_at: float  # Unix time at which the oldest was read
    positions: list[int]  # bytes at which the samples begin, ascending
    samples: list[Sample]


class Receipt(NamedTuple):
    """A batch is published."""

    end: int  # all that the shard takes of the input before it, in bytes, is published
    samples: int  # of these, new
    work: float  # seconds of CPU time that the owner spent on it


class LostSamples(Exception):
    """Samples between what is published and a batch never came. It is a bug, and better an error than silence."""


class Shard:
    """One shard in its owner's time."""

    def __init__(
        self,
        key: str,
        pipeline: Pipeline,
        checkpoints: Checkpoints,
        published: Path,
        acknowledged: Callable[[str], int],
    ) -> None:
        """Nothing is claimed yet.

        Args:
            key: the shard's.
            pipeline: what it is a shard of.
            checkpoints: the pipeline's.
            published: the directory of what is published in files.
            acknowledged: of an input, up to where all pipelines have published it, in bytes.
        """
        self.key = key
        self._pipeline = pipeline
        self._checkpoints = checkpoints
        self._published = published
        self._acknowledged = acknowledged
        self._claim: Claim | None = None
        self._publishers: dict[str, list[Publisher]] = {}
        self._busy = asyncio.Lock()

    async def take(self, batch: Batch, owner: str, token: int | None) -> Receipt:
        """Publishes what is new in a batch, in one step with what is remembered.

        Args:
            batch: what an agent has read.
            owner: this agent's name.
            token: the fencing token under which it owns the shard now; None for a lone agent.

        Raises:
            Superseded: somebody else owns the shard by now.
            PublishError: a publisher failed. The batch may be sent again.
            LostSamples: samples before it are missing.
        """
        async with self._busy:
            try:
                if self._claim is None or token not in (None, self._claim.token):
                    # With a later token the shard may have been another's meanwhile.
                    self._close()
                    self._open(await unlocked(lambda: self._checkpoints.claim(self.key, owner, token)), owner)
                return await self._take(batch)
            except BaseException:
                self._close()  # what is in memory may be ahead of what is written
                raise

    async def close(self) -> None:
        """Ends what is under way, and forgets; the next batch claims anew."""
        async with self._busy:
            self._close()

    async def _take(self, batch: Batch) -> Receipt:
        claim = self._claim
        assert claim is not None
        reached = claim.watermarks.get(batch.input, 0)
        if batch.begin > reached and self._acknowledged(batch.input) < batch.begin:
            raise LostSamples(f"{self.key}: {batch.input} is published up to {reached}, and comes from {batch.begin}")
        began = time.thread_time()
        repeats = bisect_left(batch.positions, reached)
        new = batch.samples[repeats:]
        if batch.end < reached or (batch.end == reached and not batch.ended):
            await unlocked(lambda: self._checkpoints.count(claim, Done(0, repeats, 0.0)))
            return Receipt(reached, 0, time.thread_time() - began)
        out = self._pipeline.run(batch.input, new, claim.memory)
        if batch.ended:
            for path, samples in self._pipeline.flush(batch.input, claim.memory).items():
                out.setdefault(path, []).extend(samples)
        await self._publish(out)
        done = Done(len(new), repeats, time.time() - batch.read_at)
        await unlocked(lambda: self._checkpoints.commit(claim, batch.input, batch.end, done))
        return Receipt(batch.end, len(new), time.thread_time() - began)

    async def _publish(self, out: Published) -> None:
        for path, samples in out.items():
            for publisher in self._publishers[path]:
                await publisher.publish(samples)

    def _open(self, claim: Claim, owner: str) -> None:
        self._claim = claim
        name = f"{owner}-{claim.token}"
        self._publishers = {
            path: [make_publisher(wanted, self._published, path, name) for wanted in publishers]
            for path, publishers in self._pipeline.publishers.items()
        }

    def _close(self) -> None:
        for publishers in self._publishers.values():
            for publisher in publishers:
                publisher.close()
        self._claim, self._publishers = None, {}


async def unlocked(call: Callable[[], T]) -> T:
    """The call's result, as soon as the database is not locked by another process."""
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
        await asyncio.sleep(_AGAIN)
