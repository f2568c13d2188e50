"""Workers that the tests start as Ray actors; pickled by value, for the workers cannot import this module."""

import asyncio
import os
import time
from pathlib import Path


class BareWorker:
    """A worker that knows nothing but the coordinator's handle: nothing of ours is imported here."""

    def __init__(self, handle, my_id):
        self.handle = handle
        self.my_id = my_id

    def work(self, group, items):
        import ray

        return ray.get(self.handle.get_subset.remote(group, self.my_id, items))


class Worker:
    """A worker with a ``PartitionCoordinator``: a sync actor, or a threaded one by its ``max_concurrency``."""

    def __init__(self, name, namespace, my_id, group, exclusive=None):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.group = group
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=exclusive)
        self.calls = []

    def pid(self):
        return os.getpid()

    def subset(self, items):
        return self.coordinator.extract_my_subset(self.group, items)

    def members(self):
        return self.coordinator.members(self.group)

    def busy_until(self, path):
        """Be in a call until there is a file of this name."""
        while not Path(path).exists():
            time.sleep(0.005)

    def note(self, value):
        self.calls.append(value)

    def noted(self):
        return self.calls

    def stop(self):
        self.coordinator.stop()


class AsyncWorker:
    """A worker that is an asyncio actor, with a task that counts the turns of its event loop."""

    def __init__(self, name, namespace, my_id, group):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.group = group
        self.ticks = 0

    async def work(self, items):
        """The subset, and how often the loop turned during each awaited call."""
        ticker = asyncio.ensure_future(self._tick())
        await asyncio.sleep(0)
        turned = []
        for call in (
            self.coordinator.astart(),
            self.coordinator.ajoin_group(self.group),
            self.coordinator.aextract_my_subset(self.group, items),
            self.coordinator.aleave_group(self.group),
            self.coordinator.astop(),
        ):
            before = self.ticks
            result = await call
            turned.append(self.ticks - before)
            if result is not None:
                mine = result
        ticker.cancel()
        return mine, turned

    async def _tick(self):
        while True:
            self.ticks += 1
            await asyncio.sleep(0.0005)
