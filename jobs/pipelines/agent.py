"""The Ray actor: a worker that owns what the partition actor assigns, and a router to the other agents."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from typing import NamedTuple

from jobs.pipelines.samples import Sample
from jobs.pipelines.shard import Batch, Receipt
from jobs.pipelines.worker import Job, NotOwned, Sent, Worker
from partition_actor import PartitionCoordinator, Router, owned_by
from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner

# Seconds between checks whether the shard of a batch on its way has another owner by now.
_LOOK = 0.2


class Figures(NamedTuple):
    """What an agent reports about itself."""

    name: str  # its replacement has the same
    pid: int
    cpu: float = 0.0  # CPU seconds since it began
    straight: Sent = Sent()  # into its own pipelines
    redirected: Sent = Sent()  # to other agents
    sizes: tuple[tuple[str, int], ...] = ()  # pipeline, samples in a batch
    failure: str = ""  # why it cannot continue


class Agent:
    """One agent; an asyncio actor, so that it takes batches while it waits for receipts of its own."""

    def __init__(self, coordinator: PartitionCoordinator, job: Job, shards: str, inputs: str) -> None:
        """Join the inputs' group; the fleet then joins that of the shards.

        Args:
            coordinator: its id ends with the agent's slot in the fleet.
            job: the settings, inputs and directory.
            shards: the group that shares out the pipelines.
            inputs: the group that shares out the inputs.
        """
        self.shards = shards
        # Repeating a batch is safe: samples that are already published are dropped.
        self._router = Router(shards, actor=job.config.name, namespace=job.config.namespace, repeatable=["take"])
        self._worker = Worker(
            f"agent-{coordinator.my_id.rpartition('/')[2]}",
            job,
            _Share(coordinator, shards),
            _Share(coordinator, inputs),
            self._redirect,
        )
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self._router.start()
        coordinator.join_group(inputs, exclusive=True)

    async def report(self) -> Figures:
        """Begin to read the inputs that this agent owns, unless it has begun; return its figures."""
        worker, failure = self._worker, ""
        if self._running is None:
            self._began = time.process_time()
            self._running = asyncio.create_task(worker.run())
        elif self._running.done() and (error := self._running.exception()):
            failure = f"{type(error).__name__}: {error}"
        cpu, sizes = time.process_time() - self._began, tuple(worker.batch_sizes.items())
        return Figures(worker.name, os.getpid(), cpu, worker.straight, worker.redirected, sizes, failure)

    @owned_by("shard", group=lambda agent: agent.shards)
    async def take(self, shard: str, batch: bytes) -> Receipt:
        """Run a batch through a shard that this agent owns.

        Raises:
            NotOwner, NotOwned: it does not own the shard.
            PublishError, LostSamples: as ``Shard.take``.
        """
        return await self._worker.take(shard, unpack(batch))

    async def close(self) -> None:
        """Finish the current work; this agent has left its groups."""
        self._worker.stop()
        if self._running is not None:
            await asyncio.wait([self._running])
        await self._router.astop()

    async def _redirect(self, shard: str, batch: Batch) -> Receipt:
        owner = self._router.owner(shard)
        call: asyncio.Task[Receipt] = asyncio.create_task(self._router.acall(shard, "take", shard, pack(batch)))
        try:
            while not call.done():
                await asyncio.wait([call], timeout=_LOOK)
                if not call.done() and self._router.owner(shard) != owner:
                    # The previous owner may be stopped, and would not answer until it continues.
                    raise NotOwned(f"{shard} has another owner")
            return call.result()
        except (NotOwner, NoOwner, CallMayHaveRun, MemberHasNoActor) as error:
            raise NotOwned(str(error)) from None
        finally:
            call.cancel()


class _Share:
    """This agent's share of an exclusive group; see ``worker.MemberState``."""

    def __init__(self, coordinator: PartitionCoordinator, group: str) -> None:
        self._coordinator = coordinator
        self._group = group

    def owns(self, key: str) -> bool:
        return self._coordinator.owns(self._group, key)

    def token(self) -> int:
        return self._coordinator.fencing_token(self._group)


def pack(batch: Batch) -> bytes:
    """Serialise a batch for a call. Samples go by columns, which takes a third of the time."""
    columns = list(zip(*batch.samples, strict=True))
    return pickle.dumps((tuple(batch._replace(samples=[])), columns), protocol=5)


def unpack(packed: bytes) -> Batch:
    """Return the batch that was packed."""
    fields, columns = pickle.loads(packed)
    return Batch(*fields)._replace(samples=list(map(Sample, *columns)) if columns else [])
