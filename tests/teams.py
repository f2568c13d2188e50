"""Teams of workers with `owned_by` methods, and routers to them."""

import asyncio
import os
import signal
import sys
import time

import ray
from deployments import LIMIT

from partition_actor import PartitionCoordinator, Router, owned_by

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

KEYS = [f"key-{number}" for number in range(40)]


class Worker:
    """A member whose methods run only on keys that it owns."""

    exclusive = True

    def __init__(self, name, namespace, my_id, group):
        self.coordinator = PartitionCoordinator(my_id, name, namespace)
        self.my_id, self.group, self.calls = my_id, group, 0
        self.coordinator.start()
        self.coordinator.join_group(group, exclusive=self.exclusive)

    def pid(self):
        return os.getpid()

    @owned_by("key")
    def who(self, key, *rest, **more):
        return self.my_id, key, rest, more

    @owned_by("keys", each=True)
    def each(self, keys):
        return self.my_id, keys

    @owned_by("key")
    def die_once(self, key, marker):
        if not os.path.exists(marker):
            open(marker, "w").close()
            os._exit(1)
        return self.my_id

    @owned_by("key")
    def gated(self, key, gate):
        while not os.path.exists(gate):
            time.sleep(0.005)
        return self.my_id

    def raises(self, *_):
        raise ValueError("on purpose")

    def ask_another(self, other, key):
        self.calls += 1
        return ray.get(other.who.remote(key))

    def called(self):
        return self.calls

    def members(self):
        return self.coordinator.members(self.group)

    def stop(self):
        self.coordinator.stop()


class Shared(Worker):
    exclusive = False


class AsyncWorker(Worker):
    @owned_by("key", group=lambda self: self.group)
    async def who(self, key):
        await asyncio.sleep(0)
        return self.my_id


class Peer(AsyncWorker):
    """A member that handles its own keys and calls the owners of the others."""

    async def ask_all(self, keys):
        async with Router(self.group, *self.where) as router:
            mine = [key for key in keys if router.owner(key) == self.my_id]
            others = [key for key in keys if key not in mine]
            theirs = await asyncio.gather(*(router.acall(key, "who", key) for key in others))
            return {**dict.fromkeys(mine, self.my_id), **dict(zip(others, theirs, strict=True))}

    def __init__(self, name, namespace, my_id, group):
        super().__init__(name, namespace, my_id, group)
        self.where = (name, namespace)


class Team:
    """Workers of one group, and routers to them."""

    def __init__(self, deployment, group, spawn):
        self.deployment, self.group, self._spawn = deployment, group, spawn
        self.workers, self.routers = {}, []

    def add(self, *ids, cls=Worker, **options):
        for my_id in ids:
            self.workers[my_id] = self._spawn(cls, *self.deployment.worker_arguments(my_id, self.group), **options)
        ray.get([self.workers[my_id].pid.remote() for my_id in ids], timeout=LIMIT)
        return self

    def router(self, **options):
        made = Router(self.group, self.deployment.name, self.deployment.namespace, **options)
        self.routers.append(made)
        made.start()
        return made

    def kill(self, my_id):
        worker = self.workers.pop(my_id)
        os.kill(ray.get(worker.pid.remote(), timeout=LIMIT), signal.SIGKILL)

    def others(self, key, router):
        return [handle for my_id, handle in self.workers.items() if my_id != router.owner(key)]
