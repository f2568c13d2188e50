"""Feed one input into the pipelines: read it, send its samples to the shards' owners, acknowledge it.

Each shard gets one batch at a time, and the next batch grows meanwhile. So every shard gets the input's samples in
order and without gaps, even if its owner changes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.pipelines.batching import BatchSize
from jobs.pipelines.offsets import Corrupt, Offset, Offsets
from jobs.pipelines.pipeline import Pipeline
from jobs.pipelines.reading import LineReader
from jobs.pipelines.samples import Sample
from jobs.pipelines.shard import Batch, Receipt, unlocked

Deliver = Callable[[str, Batch], Awaitable[Receipt]]
"""Sends a batch to a shard's owner; returns when it is published."""

# Unpublished samples of an input, over all shards, at which reading pauses.
_MOST_PENDING = 40_000
# Seconds that a sample waits for its batch to fill: at the end of the input, and while there is more to read.
_OLDEST, _OLDEST_OF_MANY = 1.0, 3.0
# Seconds between checks whether a followed file has grown.
_LOOK = 0.1


@dataclass
class _Stream:
    """What one shard has yet to get from the input."""

    shard: str
    size: BatchSize
    begin: int  # everything before this byte is published
    skipped: int  # what begins before this byte was published before this feed began
    waiting: list[Sample] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)  # where each waiting sample begins
    read_at: float = 0.0  # when the first waiting sample was read, Unix time
    first_under_way: int | None = None
    call: asyncio.Task[None] | None = None
    ended: bool = False

    @property
    def first(self) -> int | None:
        """Where the first unpublished sample begins; None if all are published."""
        if self.first_under_way is not None:
            return self.first_under_way
        return self.positions[0] if self.positions else None


class _Read(NamedTuple):
    end: Offset
    corrupt: list[Corrupt]


class Feed:
    """Feeds one input into the pipelines."""

    def __init__(
        self,
        name: str,
        reader: LineReader,
        offsets: Offsets,
        pipelines: Mapping[str, Pipeline],
        sizes: Mapping[str, BatchSize],
        deliver: Deliver,
        published: Callable[[str, str], int],
        follow: bool,
    ) -> None:
        """Create the feed; nothing is read yet.

        Args:
            name: the input's.
            reader: positioned at the input's acknowledged offset.
            offsets: where to acknowledge the input.
            pipelines: by name.
            sizes: the batch size of each pipeline, shared by all inputs.
            deliver: sends batches to their owners.
            published: the byte up to which a pipeline's shard is known to have published the input.
            follow: whether to continue at the end of the input.
        """
        self.name = name
        self._reader = reader
        self._offsets = offsets
        self._pipelines = list(pipelines.values())
        self._sizes = sizes
        self._deliver = deliver
        self._published = published
        self._follow = follow
        self._start = offsets.get(name)
        self._read: deque[_Read] = deque()  # not yet acknowledged
        self._end = self._start  # up to here the input is read
        self._streams: dict[str, _Stream] = {}
        self._takers: dict[str, list[Pipeline]] = {}  # by meter
        self._pending = 0

    async def run(self) -> None:
        """Return when all of the input is published; never with ``follow``.

        Raises:
            Exception: what ``deliver`` raises.
        """
        try:
            at_end = False
            while not (at_end and not self._follow and self._all_published()):
                if not self._is_full:
                    at_end = not self._read_on()
                self._send(at_end)
                await self._wait(at_end)
                await self._acknowledge()
            await self._finish()
        finally:
            for stream in self._streams.values():
                if stream.call is not None:
                    stream.call.cancel()
            self._reader.close()

    def _read_on(self) -> bool:
        chunk = self._reader.read()
        if chunk is None:
            return False
        now = time.time()
        for position, sample in chunk.samples:
            for pipeline in self._takers_of(sample.name):
                stream = self._stream(pipeline, pipeline.shard_of(sample.resource_id))
                if position < stream.skipped:
                    continue
                if not stream.waiting:
                    stream.read_at = now
                stream.waiting.append(sample)
                stream.positions.append(position)
                self._pending += 1
        self._end = chunk.end
        self._read.append(_Read(chunk.end, chunk.corrupt))
        return True

    def _takers_of(self, meter: str) -> list[Pipeline]:
        if meter not in self._takers:
            self._takers[meter] = [pipeline for pipeline in self._pipelines if pipeline.takes(meter)]
        return self._takers[meter]

    def _stream(self, pipeline: Pipeline, shard: str) -> _Stream:
        if shard not in self._streams:
            size, begin = self._sizes[pipeline.name], self._start.position
            published = max(begin, self._published(pipeline.name, shard))
            self._streams[shard] = _Stream(shard, size, begin, published)
        return self._streams[shard]

    def _send(self, at_end: bool) -> None:
        idle = [stream for stream in self._streams.values() if stream.call is None and stream.waiting]
        too_old = time.time() - (_OLDEST if at_end else _OLDEST_OF_MANY)
        # When reading is paused, send the largest batches first: they make the most room.
        many = max((len(stream.waiting) for stream in idle), default=0) / 2 if self._is_full else math.inf
        for stream in idle:
            enough = len(stream.waiting) >= min(stream.size.samples, many)
            if enough or stream.read_at <= too_old or (at_end and not self._follow):
                stream.call = asyncio.create_task(self._deliver_next(stream))

    async def _deliver_next(self, stream: _Stream, ended: bool = False) -> None:
        most = stream.size.samples * 2
        samples, stream.waiting = stream.waiting[:most], stream.waiting[most:]
        positions, stream.positions = stream.positions[:most], stream.positions[most:]
        end = stream.positions[0] if stream.positions else self._end.position
        stream.first_under_way = positions[0] if positions else None
        batch = Batch(self.name, stream.begin, end, ended, stream.read_at or time.time(), positions, samples)
        receipt = await self._deliver(stream.shard, batch)
        stream.size.learn(receipt.samples, receipt.work)
        stream.begin, stream.first_under_way = end, None
        self._pending -= len(samples)

    async def _wait(self, at_end: bool) -> None:
        """Wait until there is something to do; do not wait if there is more to read."""
        calls = [stream.call for stream in self._streams.values() if stream.call is not None]
        if not at_end and not self._is_full:
            await asyncio.sleep(0)
        elif calls:
            limit = _LOOK if self._follow else None
            await asyncio.wait(calls, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        elif self._follow:
            await asyncio.sleep(_LOOK)
        for stream in self._streams.values():
            if stream.call is not None and stream.call.done():
                call, stream.call = stream.call, None
                call.result()

    @property
    def _is_full(self) -> bool:
        return self._pending >= _MOST_PENDING

    def _all_published(self) -> bool:
        return all(stream.first is None and stream.call is None for stream in self._streams.values())

    async def _acknowledge(self) -> None:
        """Acknowledge what all shards have published, in whole chunks, whose line numbers are known."""
        firsts = [first for stream in self._streams.values() if (first := stream.first) is not None]
        reached = min(firsts, default=self._end.position)
        corrupt: list[Corrupt] = []
        offset = None
        while self._read and self._read[0].end.position <= reached:
            read = self._read.popleft()
            offset = read.end
            corrupt += read.corrupt
        if offset is not None:
            await self._note(offset, corrupt)

    async def _finish(self) -> None:
        """Tell the pipelines that hold samples back that the input has ended."""
        streams: Iterable[_Stream] = [
            self._stream(pipeline, shard) for pipeline in self._pipelines if pipeline.flushes for shard in pipeline.keys
        ]
        await asyncio.gather(*(self._deliver_next(stream, ended=True) for stream in streams))
        await self._note(self._end._replace(ended=True), [])

    async def _note(self, offset: Offset, corrupt: list[Corrupt]) -> None:
        await unlocked(lambda: self._offsets.acknowledge(self.name, offset, corrupt))
