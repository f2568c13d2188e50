"""A pipeline, or a shard of one, at its owner: takes batches, publishes them and commits the state."""

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

# Seconds between attempts while another process holds the database lock.
_RETRY = 0.05


class Batch(NamedTuple):
    """All samples that one shard takes of an input from ``begin`` to ``end``, in the input's order."""

    input: str
    begin: int  # bytes
    end: int  # bytes
    ended: bool  # the input ends at ``end``
    read_at: float  # Unix time at which the oldest sample was read
    positions: list[int]  # byte at which each sample begins, ascending
    samples: list[Sample]


class Receipt(NamedTuple):
    """Confirms that a batch is published."""

    end: int  # byte before which everything that the shard takes of the input is published
    samples: int  # new ones, without repeats
    work: float  # CPU seconds that the owner spent on it


class LostSamples(Exception):
    """Samples before a batch were neither published nor received: a bug, which must not pass unnoticed."""


class Shard:
    """One shard at its owner."""

    def __init__(
        self,
        key: str,
        pipeline: Pipeline,
        checkpoints: Checkpoints,
        published: Path,
        acknowledged: Callable[[str], int],
    ) -> None:
        """Create the shard; it is not claimed yet.

        Args:
            key: the shard's.
            pipeline: the pipeline that it is a shard of.
            checkpoints: the pipeline's.
            published: the directory of published files.
            acknowledged: returns the byte up to which all pipelines have published an input.
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
        """Publish what is new in a batch, then commit the watermark and the state.

        Args:
            batch: what an agent has read.
            owner: this agent's name.
            token: the fencing token under which it owns the shard; None for the only agent.

        Raises:
            Superseded: another agent owns the shard by now.
            PublishError: a publisher failed; the batch may be repeated.
            LostSamples: samples before the batch are missing.
        """
        async with self._busy:
            try:
                if self._claim is None or token not in (None, self._claim.token):
                    # Under a new token: another agent may have owned the shard in between.
                    self._close()
                    self._open(await unlocked(lambda: self._checkpoints.claim(self.key, owner, token)), owner)
                return await self._take(batch)
            except BaseException:
                self._close()  # memory may be ahead of the checkpoint
                raise

    async def close(self) -> None:
        """Finish the current batch and drop the claim; the next batch claims the shard anew."""
        async with self._busy:
            self._close()

    async def _take(self, batch: Batch) -> Receipt:
        claim = self._claim
        assert claim is not None
        reached = claim.watermarks.get(batch.input, 0)
        if batch.begin > reached and self._acknowledged(batch.input) < batch.begin:
            raise LostSamples(
                f"{self.key}: {batch.input} is published up to {reached}, but the batch begins at {batch.begin}"
            )
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
    """Return the call's result; retry it while another process locks the database."""
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
        await asyncio.sleep(_RETRY)
