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


class AgentSpec(NamedTuple):
    """What an agent is created with."""

    name: str  # unique in the job
    member_id: str  # in the groups, unique among all that use the partition actor
    inputs: str  # the group that shares out the inputs
    shards: str  # the group that shares out the pipelines
    actor: str  # the partition actor's name
    namespace: str
    job: Job


class Figures(NamedTuple):
    """What an agent reports about itself."""

    cpu: float = 0.0  # CPU seconds since it began
    straight: Sent = Sent()  # into its own pipelines
    redirected: Sent = Sent()  # to other agents
    sizes: tuple[tuple[str, int], ...] = ()  # pipeline, samples in a batch
    failure: str = ""  # why it cannot continue


class Agent:
    """One agent; an asyncio actor, so that it takes batches while it waits for receipts of its own."""

    def __init__(self, spec: AgentSpec) -> None:
        self.spec = spec
        actor, namespace = spec.actor, spec.namespace
        self._coordinator = PartitionCoordinator(spec.member_id, actor=actor, namespace=namespace)
        # Repeating a batch is safe: samples that are already published are dropped.
        self._router = Router(spec.shards, actor=actor, namespace=namespace, repeatable=["take"])
        self._worker = Worker(
            spec.name,
            spec.job,
            _Share(self._coordinator, spec.shards),
            _Share(self._coordinator, spec.inputs),
            self._redirect,
        )
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0

    async def start(self) -> int:
        """Join the groups; return the process id."""
        await self._coordinator.astart()
        await self._router.astart()
        for group in (self.spec.shards, self.spec.inputs):
            await self._coordinator.ajoin_group(group, exclusive=True)
        return os.getpid()

    async def begin(self) -> None:
        """Begin to read the inputs that this agent owns."""
        self._began = time.process_time()
        self._running = asyncio.create_task(self._worker.run())

    async def figures(self) -> Figures:
        """Return this agent's figures."""
        worker, failure = self._worker, ""
        if self._running is not None and self._running.done() and (error := self._running.exception()):
            failure = f"{type(error).__name__}: {error}"
        cpu = time.process_time() - self._began if self._running is not None else 0.0
        return Figures(cpu, worker.straight, worker.redirected, tuple(worker.batch_sizes.items()), failure)

    @owned_by("shard", group=lambda agent: agent.spec.shards)
    async def take(self, shard: str, batch: bytes) -> Receipt:
        """Run a batch through a shard that this agent owns.

        Raises:
            NotOwner, NotOwned: it does not own the shard.
            PublishError, LostSamples: as ``Shard.take``.
        """
        return await self._worker.take(shard, unpack(batch))

    async def stop(self) -> None:
        """Finish the current work and leave the groups."""
        self._worker.stop()
        if self._running is not None:
            await asyncio.wait([self._running])
        await self._router.astop()
        await self._coordinator.astop()

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
