"""Fakes in place of Ray for the death watch."""

import asyncio

from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError

from partition_actor.actor.death_watch import CONNECTION_BROKE, DeathWatch
from partition_actor.processes import ProcessIdentity

KEY = ("member", "session")
NODE = "node-1"


class FakeActor:
    """An actor's handle; the call that the watch makes ends when `life` does."""

    def __init__(self):
        self.life = asyncio.get_running_loop().create_future()
        self.calls = []
        self.__ray_call__ = self

    def remote(self, function, argument):
        self.calls.append((function, argument))
        return self.life


class Ray:
    """What the watch asks about nodes and processes, and what it says of members."""

    def __init__(self, alive=(NODE,), failure=None, here=False):
        self.alive, self.failure, self.ending, self.dead, self.asked = set(alive), failure, [], [], 0
        self.cancelled, self.witnesses = [], []
        self.process = asyncio.get_running_loop().create_future()
        self.kernel = asyncio.get_running_loop().create_future()
        if not here:
            self.kernel.set_result(False)
        self.watch = DeathWatch(
            "never",
            self.ending.append,
            self.on_death,
            self.nodes,
            self.process_ended,
            self.process_here,
            self.cancelled.append,
        )

    def on_death(self, key, death):
        self.dead.append(key)
        self.witnesses.append(death.said)

    async def process_ended(self, life):
        assert life.node == NODE
        return await self.process

    async def process_here(self, life):
        return await self.kernel

    async def nodes(self):
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.alive


def life(handle, actor="actor", worker="worker"):
    return ProcessIdentity(handle, NODE, actor, worker, "process")


def died(why):
    """What Ray raises for a dead actor."""
    return ActorDiedError(ActorDiedErrorContext(actor_id=bytes(16), error_message=f"The actor is dead because {why}"))


def killed():
    return died(f"its worker process has died. Worker exit detail: Worker {CONNECTION_BROKE} code 2. End of file.")


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario):
    return asyncio.run(scenario())
