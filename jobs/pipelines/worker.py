"""What an agent does: reads the inputs and runs the shards that it owns. Independent of Ray."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from jobs.pipelines.batching import BatchSize
from jobs.pipelines.checkpoints import Checkpoints, Superseded
from jobs.pipelines.config import PipelinesConfig
from jobs.pipelines.database import is_locked
from jobs.pipelines.feeding import Feed
from jobs.pipelines.offsets import Offsets
from jobs.pipelines.pipeline import Pipeline, make_pipelines
from jobs.pipelines.publishers import warm_up
from jobs.pipelines.reading import Inputs, LineReader
from jobs.pipelines.shard import Batch, Receipt, Shard, unlocked

# Seconds between checks of what this agent owns, and between attempts to reach a shard's owner.
_LOOK = 0.1
_RETRY = 0.02
# Seconds between listings of a followed directory.
_LIST = 1.0
# Allocations between garbage collections. Samples form no cycles, and a collection walks through all that wait.
_GARBAGE = 500_000
# Inputs read concurrently, so that one is read while another waits for receipts. With --follow all are.
_AT_ONCE = 2


class NotOwned(Exception):
    """This agent does not own the shard, or no longer does."""


class MemberState(Protocol):
    """Which keys of a group this agent may work on."""

    def owns(self, key: str) -> bool:
        """Return whether this agent owns the key now."""

    def token(self) -> int | None:
        """Return the fencing token; 0 if the agent may not act; None for the only agent."""


class OwnsAll:
    """The state of the only agent, which owns every key."""

    def owns(self, key: str) -> bool:
        return True

    def token(self) -> int | None:
        return None


Redirect = Callable[[str, Batch], Awaitable[Receipt]]
"""Sends a batch to the shard's owner in another process; raises ``NotOwned`` if that is not the owner: retry."""


@dataclass(frozen=True)
class Job:
    """What all agents of a job know."""

    config: PipelinesConfig
    inputs: Inputs
    directory: Path

    @property
    def published(self) -> Path:
        """The directory of published files."""
        return self.directory / "published"

    def offsets(self) -> Offsets:
        """Open the offsets of the inputs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return Offsets(self.directory / "offsets.sqlite")

    def checkpoints(self, pipeline: str) -> Checkpoints:
        """Open the checkpoints of a pipeline."""
        directory = self.directory / "checkpoints"
        directory.mkdir(parents=True, exist_ok=True)
        return Checkpoints(directory / f"{pipeline}.sqlite")


class Sent(NamedTuple):
    """Batches and samples that an agent has sent."""

    batches: int = 0
    samples: int = 0


class Worker:
    """One agent of a job."""

    def __init__(
        self, name: str, job: Job, shards: MemberState, inputs: MemberState, redirect: Redirect | None = None
    ) -> None:
        """Open the databases; nothing is read yet.

        Args:
            name: of the agent, unique in the job.
            job: the job's settings, inputs and directory.
            shards: which shards it owns.
            inputs: which inputs it owns.
            redirect: sends batches to other agents; None if there are none.
        """
        self.name = name
        self.straight = Sent()  # to shards in this process
        self.redirected = Sent()  # to other agents
        self._job = job
        self._mine = shards
        self._to_read = inputs
        self._redirect = redirect
        self._pipelines = make_pipelines(job.config)
        warm_up(each for p in self._pipelines.values() for publishers in p.publishers.values() for each in publishers)
        self._sizes = {name: BatchSize() for name in self._pipelines}
        self._offsets = job.offsets()
        self._checkpoints: dict[str, Checkpoints] = {}
        self._shards = {key: shard for p in self._pipelines.values() for key, shard in self._shards_of(p)}
        self._feeds: dict[str, asyncio.Task[None]] = {}
        self._names: list[str] = []
        self._listed = -_LIST
        self._stopping = asyncio.Event()

    @property
    def batch_sizes(self) -> dict[str, int]:
        """The current batch size of each pipeline."""
        return {name: size.samples for name, size in self._sizes.items()}

    async def run(self) -> None:
        """Read until all inputs have ended or ``stop`` is called; with ``follow`` inputs do not end.

        Raises:
            PublishError, LostSamples, OSError, sqlite3.Error: it cannot continue.
        """
        # Objects that exist now stay; collections need not walk through them.
        gc.freeze()
        gc.set_threshold(_GARBAGE)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                if not await self._look():
                    break
                await asyncio.wait(
                    [*self._feeds.values(), stopping],
                    timeout=_LOOK,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            stopping.cancel()
            for feed in self._feeds.values():
                feed.cancel()
            await asyncio.gather(*self._feeds.values(), return_exceptions=True)
            await self.let_go(list(self._shards))

    def stop(self) -> None:
        """Let ``run`` return soon."""
        self._stopping.set()

    def close(self) -> None:
        """Close the databases."""
        self._offsets.close()
        for checkpoints in self._checkpoints.values():
            checkpoints.close()

    async def take(self, shard: str, batch: Batch) -> Receipt:
        """Run a batch through a shard that this agent owns.

        Raises:
            NotOwned: it does not own the shard.
            PublishError, LostSamples: as ``Shard.take``.
        """
        token = self._mine.token()
        if token == 0 or not self._mine.owns(shard):
            raise NotOwned(f"{shard} is not {self.name}'s")
        try:
            return await self._shards[shard].take(batch, self.name, token)
        except Superseded as error:
            raise NotOwned(str(error)) from None

    async def let_go(self, shards: list[str]) -> None:
        """Finish the current batches of shards that this agent no longer owns, and drop their claims."""
        for shard in shards:
            await self._shards[shard].close()

    async def _deliver(self, shard: str, batch: Batch) -> Receipt:
        while True:
            try:
                if self._redirect is None or self._mine.owns(shard):
                    receipt = await self.take(shard, batch)
                    self.straight = _add(self.straight, batch)
                else:
                    receipt = await self._redirect(shard, batch)
                    self.redirected = _add(self.redirected, batch)
                return receipt
            except NotOwned:
                await asyncio.sleep(_RETRY)

    async def _look(self) -> bool:
        """Start and end feeds as inputs come and go; return whether there is, or may be, more to do."""
        for name, feed in list(self._feeds.items()):
            if feed.done():
                del self._feeds[name]
                if not feed.cancelled():
                    feed.result()
            elif not self._to_read.owns(name):
                feed.cancel()
        offsets = await unlocked(self._offsets.all)
        names = self._list()
        open_ = [name for name in names if self._job.config.follow or name not in offsets or not offsets[name].ended]
        for name in open_:
            room = self._job.config.follow or len(self._feeds) < _AT_ONCE
            if room and name not in self._feeds and self._to_read.owns(name):
                self._feeds[name] = asyncio.create_task(self._feed(name))
        return bool(open_)

    def _list(self) -> list[str]:
        if (self._job.config.follow and time.monotonic() >= self._listed + _LIST) or not self._names:
            self._names, self._listed = self._job.inputs.names(), time.monotonic()
        return self._names

    async def _feed(self, name: str) -> None:
        follow = self._job.config.follow
        offset = await unlocked(lambda: self._offsets.get(name))
        reader = LineReader(self._job.inputs.base / name, offset, follow)
        published = partial(self._published, name)
        await Feed(name, reader, self._offsets, self._pipelines, self._sizes, self._deliver, published, follow).run()

    def _published(self, input_name: str, pipeline: str, shard: str) -> int:
        try:
            return self._checkpoints[pipeline].position(shard, input_name)
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise
            return 0  # its samples are sent once more, and dropped there

    def _shards_of(self, pipeline: Pipeline) -> list[tuple[str, Shard]]:
        checkpoints = self._job.checkpoints(pipeline.name)
        self._checkpoints[pipeline.name] = checkpoints
        return [
            (key, Shard(key, pipeline, checkpoints, self._job.published, lambda name: self._offsets.get(name).position))
            for key in pipeline.keys
        ]


def _add(sent: Sent, batch: Batch) -> Sent:
    return Sent(sent.batches + 1, sent.samples + len(batch.samples))
