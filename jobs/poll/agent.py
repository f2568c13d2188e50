"""The Ray actor: polls its subset of the resources and writes the samples."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import NamedTuple

import httpx
import psutil

from jobs.poll.pollers import GoneError, poll
from jobs.poll.store import SampleWriter
from partition_actor import PartitionCoordinator

log = logging.getLogger(__name__)

# Seconds between flushes; a SIGKILL loses the samples since the last one.
_FLUSH_INTERVAL = 0.5
# Concurrent polls, so that ten thousand slow targets do not need ten thousand sockets.
_AT_ONCE = 64


class AgentSpec(NamedTuple):
    """What an agent is created with."""

    name: str  # in the samples, unique in the run
    member_id: str  # in the group, unique among all that use the partition actor
    group: str
    actor: str  # the partition actor's name
    namespace: str
    directory: str  # the run's
    spread: float  # seconds
    timeout: float  # seconds


class Progress(NamedTuple):
    """How many of its resources an agent has polled in a cycle."""

    cycle: int
    done: int
    total: int


class View(NamedTuple):
    """An agent's view of the group: the epoch, ``(incarnation, counter)`` or None, and the member ids."""

    epoch: tuple[int, int] | None
    members: tuple[str, ...]


class Agent:
    """One polling agent; an asyncio actor, so that slow targets do not delay others."""

    def __init__(self, spec: AgentSpec) -> None:
        self._spec = spec
        self._progress = Progress(0, 0, 0)
        self._coordinator = PartitionCoordinator(spec.member_id, actor=spec.actor, namespace=spec.namespace)
        self._client = httpx.AsyncClient()

    async def start(self) -> int:
        """Join the group; return the process id."""
        await self._coordinator.astart()
        await self._coordinator.ajoin_group(self._spec.group)
        return os.getpid()

    async def stop(self) -> None:
        """Leave the group."""
        await self._coordinator.astop()
        await self._client.aclose()

    async def view(self) -> View:
        """Return the view that the next subset will be computed from."""
        group = self._spec.group
        return View(self._coordinator.epoch(group), tuple(self._coordinator.members(group)))

    async def subset(self, resources: list[str]) -> list[str]:
        """Return those of the resources that this agent owns now."""
        return list(await self._coordinator.aextract_my_subset(self._spec.group, resources))

    async def progress(self) -> Progress:
        """Return the progress of the current cycle, or of the last one between cycles."""
        return self._progress

    async def poll(self, cycle: int, resources: list[str]) -> int:
        """Poll those of the resources that this agent owns now; return their number.

        A membership change during the cycle does not change what is polled.
        """
        mine, epoch = await self._extract(resources)
        self._progress = Progress(cycle, 0, len(mine))
        writer = SampleWriter(self._spec.directory, self._spec.name, cycle, epoch)
        writing = asyncio.create_task(_flush_regularly(writer))
        gate = asyncio.Semaphore(_AT_ONCE)
        began, step = time.monotonic(), self._spec.spread / max(len(mine), 1)
        polls = []
        try:
            for n, resource in enumerate(mine):
                await asyncio.sleep(max(0.0, began + n * step - time.monotonic()))
                await gate.acquire()
                polls.append(asyncio.create_task(self._poll_one(resource, writer)))
                polls[-1].add_done_callback(lambda _: gate.release())
            await asyncio.gather(*polls)
        finally:
            writing.cancel()
        writer.flush()
        return len(mine)

    async def _extract(self, resources: list[str]) -> tuple[list[str], str]:
        # The view may change between the two calls; the samples need the epoch of their subset.
        while True:
            epoch = (await self.view()).epoch
            mine = await self.subset(resources)
            if (await self.view()).epoch == epoch:
                return mine, ".".join(map(str, epoch or ()))

    async def _poll_one(self, resource: str, writer: SampleWriter) -> None:
        try:
            writer.add(resource, await poll(resource, self._client, self._spec.timeout))
        except GoneError:
            pass
        except (OSError, psutil.Error) as error:
            log.warning("%s: %s was not polled: %s", self._spec.name, resource, error)
        self._progress = self._progress._replace(done=self._progress.done + 1)


async def _flush_regularly(writer: SampleWriter) -> None:
    while True:
        await asyncio.sleep(_FLUSH_INTERVAL)
        writer.flush()
