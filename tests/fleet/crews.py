"""The worker classes of the fleets in tests."""

import os
import time


class Clerk:
    """Tells what it owns."""

    def __init__(self, coordinator, group, version=1, fails=False, directory=None):
        self.coordinator, self.version, self.directory = coordinator, version, directory
        self.partition = coordinator.partition(group, range(60))
        self.load = 0.0
        if fails:
            raise RuntimeError("it cannot come up")

    def mine(self):
        return list(self.partition.keys())

    def pid(self):
        return os.getpid()

    def set_load(self, load):
        self.load = load

    def depth(self):
        return self.load

    def sleep(self, seconds):
        time.sleep(seconds)

    def close(self):
        if self.directory is not None:
            (self.directory / self.coordinator.my_id.replace("/", "-")).touch()


class Dawdler(Clerk):
    """Has much to do in the end."""

    def close(self):
        time.sleep(1000)


class Sulker(Clerk):
    """Does not go in peace."""

    def close(self):
        raise RuntimeError("not yet")


class AsyncClerk:
    """The same, for asyncio."""

    def __init__(self, coordinator, directory):
        self.coordinator, self.directory = coordinator, directory

    async def hold_up_the_loop(self):
        time.sleep(5)

    async def close(self):
        (self.directory / self.coordinator.my_id.replace("/", "-")).touch()
