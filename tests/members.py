"""Workers that tests start as Ray actors, pickled by value because Ray's workers cannot import this module."""

import asyncio
import ctypes
import logging
import os
import threading
import time
from pathlib import Path


class BareWorker:
    """A worker that has only the partition actor's handle and does not import this library."""

    def __init__(self, handle, my_id):
        self.handle = handle
        self.my_id = my_id

    def work(self, group, items):
        import ray

        return ray.get(self.handle.get_subset.remote(group, self.my_id, items))


class HandedOver:
    """A worker that has only the partition actor's handle, and hands itself over.

    With `named` its session is its worker id.
    """

    def __init__(self, handle, my_id, named=False):
        import ray

        context = ray.get_runtime_context()
        session = context.get_worker_id() if named else None
        self.call = {"member_id": my_id, "session": session, "actor": context.current_actor}
        self.handle = handle

    def ask(self, method, **arguments):
        import ray

        return ray.get(getattr(self.handle, method).remote(**self.call, **arguments))

    def pid(self):
        return os.getpid()


class Bare:
    """An actor that is no member."""

    def pid(self):
        return os.getpid()

    def exit(self):
        import ray

        ray.actor.exit_actor()


class Pending:
    """An actor with a method that never returns."""

    async def pend(self):
        await asyncio.Event().wait()


class Worker:
    """A worker with a ``PartitionCoordinator``: a sync actor, or a threaded one if ``max_concurrency`` is above 1."""

    exclusive = None

    def __init__(self, name, namespace, my_id, group):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.group = group
        self.values = []
        self.logged = []
        handler = logging.Handler()
        handler.emit = lambda record: self.logged.append(record.getMessage())
        logging.getLogger("partition_actor").addHandler(handler)
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=self.exclusive)

    def pid(self):
        return os.getpid()

    def subset(self, items):
        return self.coordinator.extract_my_subset(self.group, items)

    def busy_until(self, path):
        """Compute until a file of this name exists."""
        while not Path(path).exists():
            sum(range(10_000))
            time.sleep(0.001)

    def hold_gil(self, seconds):
        """Keep every other thread of this process from running for so many seconds."""
        ctypes.PyDLL(None).usleep(int(1e6 * seconds))  # unlike CDLL, PyDLL does not release the GIL

    def note(self, value):
        self.values.append(value)

    def noted(self):
        return self.values

    def log(self):
        return self.logged

    def stop(self):
        self.coordinator.stop()


class ExclusiveWorker(Worker):
    """A worker in an exclusive group."""

    exclusive = True


class SlotHolder:
    """A worker that asks for any slot of a group."""

    def __init__(self, name, namespace, my_id, group):
        from partition_actor import PartitionCoordinator

        self.group = group
        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.coordinator.start()
        self.coordinator.join_group(group, slot=True)

    def pid_and_slot(self):
        return os.getpid(), self.slot()

    def slot(self):
        return self.coordinator.slot(self.group)


class LockHolder:
    """A worker that holds a lock."""

    def __init__(self, name, namespace, my_id, lock):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.coordinator.start()
        self.lock = self.coordinator.lock(lock)
        assert self.lock.acquire()

    def pid(self):
        return os.getpid()

    def holds(self):
        return self.lock.held

    def release(self):
        return self.lock.release()

    def elect(self):
        self.coordinator.elect(self.lock.name)

    def leads(self):
        return self.coordinator.is_leader(self.lock.name)


class Restless:
    """A worker whose thread logs each time at which it owns a key of an exclusive group, until its process ends."""

    def __init__(self, name, namespace, my_id, group, items, path):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=True)
        threading.Thread(target=self._work, args=(group, items, path), daemon=True).start()

    def pid(self):
        return os.getpid()

    def exit(self):
        import ray

        ray.actor.exit_actor()

    def _work(self, group, items, path):
        with open(path, "w", buffering=1) as out:
            while True:
                before = time.monotonic()
                if any(self.coordinator.owns(group, item) for item in items):
                    out.write(f"{before!r}\n")
                time.sleep(0.0005)


class AsyncWorker:
    """An asyncio actor with a task that counts the iterations of its event loop."""

    def __init__(self, name, namespace, my_id, group):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.group = group
        self.iterations = 0

    async def work(self, items):
        """The subset, and the number of loop iterations during each awaited call."""
        counter = asyncio.ensure_future(self._count())
        mine, counts = [], []
        for step in (
            self.coordinator.astart(),
            self.coordinator.aextract_my_subset(self.group, items),
            self.coordinator.ajoin_group(self.group + "-2"),
            self.coordinator.aleave_group(self.group),
            self.coordinator.astop(),
        ):
            before = self.iterations
            mine = await step or mine
            counts.append(self.iterations - before)
        counter.cancel()
        return mine, counts

    async def _count(self):
        while True:
            self.iterations += 1
            await asyncio.sleep(0)


class SilentPartitionActor:
    """An actor under the partition actor's name that never answers."""

    async def hello(self):
        await asyncio.Event().wait()


class StuckPartitionActor(SilentPartitionActor):
    """One that does not even answer when it is to end."""

    async def shut_down(self):
        await asyncio.Event().wait()


class OldPartitionActor:
    """An actor under the partition actor's name that speaks another protocol."""

    async def hello(self):
        return {"version": "0.0.1", "protocol": 0, "settings": {}}

    async def sync(self, request, watch=None):
        raise AssertionError("no member should send a request")


def call_method(actor, method):
    """A Ray task that calls a method of an actor."""
    getattr(actor, method).remote()


def task_of_a_member(name, namespace, my_id, group, items):
    """A Ray task that is a member while it runs."""
    from partition_actor import PartitionCoordinator

    with PartitionCoordinator(my_id, name, namespace) as coordinator:
        return coordinator.extract_my_subset(group, items), coordinator.members(group)


def deploy_and_tell_pid(name, namespace):
    """A Ray task that deploys the partition actor and returns its pid."""
    import ray

    import partition_actor

    handle = partition_actor.deploy(name, namespace)
    return ray.get(handle.status.remote())["pid"]


def member_in_a_task(name, namespace, my_id, group, path):
    """Write the pid to `path`, then be a member of an exclusive group until killed."""
    from partition_actor import PartitionCoordinator

    Path(path).write_text(str(os.getpid()))
    with PartitionCoordinator(my_id, name, namespace) as coordinator:
        coordinator.join_group(group, exclusive=True)
        threading.Event().wait()


class Handler:
    """A worker in an exclusive group that notes which keys its callbacks were told of, in the order of the calls."""

    def __init__(self, name, namespace, my_id, group, keys):
        from partition_actor import PartitionCoordinator

        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.coordinator.start()
        self.calls = []
        partition = self.coordinator.partition(group, keys)
        partition.on_lost(lambda lost: self.calls.append(("lost", sorted(lost))))
        partition.on_gained(lambda gained: self.calls.append(("gained", sorted(gained))))
        self.coordinator.join_group(group, exclusive=True)

    def told(self):
        """All calls so far."""
        return self.calls

    def mine(self, group, keys):
        return sorted(self.coordinator.extract_my_subset(group, keys))

    def join(self, group):
        """Join another group; returns the warnings."""
        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.coordinator.join_group(group)
        return [str(warning.message) for warning in caught]
