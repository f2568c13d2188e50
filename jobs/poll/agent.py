"""The agent: polls its share of the resources and hands over the samples."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

import httpx
import psutil
import pyarrow as pa
import ray

from jobs.driver.machine import GoneError, discover, kind_of
from jobs.driver.meters import Meters
from jobs.poll.config import Source
from jobs.poll.pollers import METERS, poll
from jobs.poll.store import SAMPLES, samples_of
from jobs.poll.targets import is_remote
from partition_actor import PartitionCoordinator

log = logging.getLogger(__name__)

# Seconds between two batches; a SIGKILL loses the samples since the last one.
_BATCH = 0.2
# Concurrent polls, so that ten thousand slow targets do not need ten thousand sockets.
_AT_ONCE = 64

Epoch = tuple[int, int] | None


class View(NamedTuple):
    """What an agent holds of its two groups: that of all agents, and that of the agents on its node."""

    node: str
    pid: int
    epochs: tuple[Epoch, Epoch]
    members: tuple[frozenset[str], frozenset[str]]


class Batch(NamedTuple):
    """Samples, and how many of its resources the agent has polled in this cycle."""

    done: int
    total: int
    samples: pa.Table  # of store.SAMPLES
    silent: list[str]  # resources that have none of the source's meters, such as a process of somebody else


class Agent:
    """One polling agent; its methods are for asyncio, so that slow targets do not delay others.

    Remote targets belong to its group. What a machine has belongs to the agents on its node, which have a group of
    their own; the ids of such resources end in ``@`` and the node.
    """

    def __init__(
        self, coordinator: PartitionCoordinator, group: str, sources: str, timeout: float, node: str | None = None
    ) -> None:
        """Create the agent and join its node's group; whoever started the coordinator joins ``group`` with it.

        Args:
            coordinator: started.
            group: that of all agents.
            sources: the run's fingerprint, for runs that join it.
            timeout: seconds that a poll may take.
            node: None: the address of the Ray node.
        """
        self.member_id = coordinator.my_id
        self._coordinator = coordinator
        self._node = node or str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._groups = (group, f"{group}@{self._node}")
        self._timeout = timeout
        self._shares: dict[str, list[tuple[str, str]]] = {}  # source -> resources, each with its share's epoch
        self._client = httpx.AsyncClient()
        coordinator.join_group(self._groups[1], metadata={"sources": sources})

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def die(self) -> None:
        """Get SIGKILL."""
        os.kill(os.getpid(), signal.SIGKILL)

    async def view(self) -> View:
        """Return what this agent holds of its groups."""
        ours, here = self._groups
        epochs = self._coordinator.epoch(ours), self._coordinator.epoch(here)
        members = frozenset(self._coordinator.members(ours)), frozenset(self._coordinator.members(here))
        return View(self._node, os.getpid(), epochs, members)

    async def survey(self, source: Source, listed: list[str], remote: bool) -> dict[str, str | None]:
        """Return what there is to poll on this node, or of remote targets, each with its owner's member id."""
        everywhere, here = await asyncio.to_thread(self._resources, source, listed)
        group, found = (self._groups[0], everywhere) if remote else (self._groups[1], here)
        return {each: self._coordinator.owner(group, each) for each in found}

    async def owned(self, resources: list[str]) -> list[str]:
        """Return those of the resources that this agent owns now."""
        here = [each for each in resources if each.endswith(f"@{self._node}") and not is_remote(each)]
        pairs = zip(self._groups, (filter(is_remote, resources), here), strict=True)
        return [each for group, some in pairs for each in self._coordinator.extract_my_subset(group, some)]

    async def share(self, source: Source, listed: list[str]) -> View:
        """Take the agent's share of what there is to poll now; return the view that it is computed from.

        Args:
            source: what to poll.
            listed: the targets that its lists have now.
        """
        resources = await asyncio.to_thread(self._resources, source, listed)
        while True:  # the view may change between the calls
            view = await self.view()
            pairs = [*zip(self._groups, resources, view.epochs, strict=True)]
            mine = [(await self._coordinator.aextract_my_subset(group, some), epoch) for group, some, epoch in pairs]
            if await self.view() == view:
                self._shares[source.name] = [
                    (each, ".".join(map(str, epoch or ()))) for some, epoch in mine for each in some
                ]
                return view

    async def poll(self, source: Source, cycle: int, spread: float) -> AsyncIterator[Batch]:
        """Poll the share that was taken last; yield the samples in batches.

        A membership change since then does not change what is polled.

        Args:
            source: what to poll, with which meters.
            cycle: 1-based.
            spread: seconds to spread the polls over.
        """
        mine = self._shares[source.name]
        rows: list[dict[str, object]] = []
        silent: list[str] = []
        done = 0

        async def one(resource: str, epoch: str) -> None:
            nonlocal done
            try:
                measured = await poll(resource.removesuffix(f"@{self._node}"), self._client, self._timeout)
            except GoneError:
                pass
            except (OSError, psutil.Error) as error:
                log.warning("%s: %s was not polled: %s", self.member_id, resource, error)
            else:
                taken = [each for each in measured.readings if meters.match(each.meter)]
                rows.extend(samples_of(resource, measured._replace(readings=taken), epoch=epoch, **common))
                silent.extend([] if taken else [resource])
            done += 1

        meters = Meters(source.meters)
        common = {
            "source": source.name,
            "cycle": cycle,
            "agent": agent_name(self.member_id),
            "project_id": source.project_id,
            "user_id": source.user_id,
        }
        polling = asyncio.create_task(_spread(mine, one, spread))
        try:
            while True:
                ended, _ = await asyncio.wait([polling], timeout=_BATCH)
                batch = Batch(done, len(mine), pa.Table.from_pylist(rows, schema=SAMPLES), silent)
                rows, silent = [], []
                yield batch
                if ended:
                    polling.result()
                    return
        finally:
            polling.cancel()

    def _resources(self, source: Source, listed: list[str]) -> tuple[list[str], ...]:
        """Return what is remote, and what this node has, of which there are meters to take."""
        given = [*source.resources, *listed]
        paths = [each for each in given if not is_remote(each) and os.path.exists(each.partition(":")[2])]
        here = {f"{each}@{self._node}" for each in (*discover(source.kinds), *paths)}
        meters = Meters(source.meters)
        taken = {kind for kind, known in METERS.items() if any(map(meters.match, known))}
        both = (set(filter(is_remote, given)), here)
        return tuple(sorted(each for each in some if kind_of(each) in taken) for some in both)


def agent_name(member_id: str) -> str:
    """Return an agent's name in the samples: unique in its run, and the same for one that replaces it."""
    return f"agent-{member_id.rpartition('/')[2]}"


async def _spread(
    mine: list[tuple[str, str]], one: Callable[[str, str], Coroutine[Any, Any, None]], spread: float
) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)
    began, step = time.monotonic(), spread / max(len(mine), 1)
    polls = []
    for n, each in enumerate(mine):
        await asyncio.sleep(max(0.0, began + n * step - time.monotonic()))
        await gate.acquire()
        polls.append(asyncio.create_task(one(*each)))
        polls[-1].add_done_callback(lambda _: gate.release())
    await asyncio.gather(*polls)
