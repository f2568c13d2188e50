"""A driver for test_drain_script.py: a member on each of two nodes, which share keys in an exclusive group."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_hosts import serve

import partition_actor

GROUP, KEYS, LIMIT = "tenants", range(200), 60.0


@ray.remote(num_cpus=0)
class Worker:
    def __init__(self, name):
        self.lost = []
        self.coordinator = partition_actor.PartitionCoordinator(name)
        self.coordinator.start()
        self.coordinator.join_group(GROUP, exclusive=True)
        self.mine = self.coordinator.partition(GROUP, KEYS)
        self.mine.on_lost(self.lost.extend)

    def keys(self):
        return sorted(self.mine)

    def lost_keys(self):
        return sorted(self.lost)


class Pods:
    def __init__(self):
        self.handle = partition_actor.deploy()
        head = ray.get_runtime_context().get_node_id()
        self.workers = {}
        for node in (each["NodeID"] for each in ray.nodes()):
            name = "head" if node == head else "worker"
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            self.workers[name] = Worker.options(scheduling_strategy=there).remote(name)

    def ask(self, method):
        """The answers of both."""
        calls = [getattr(worker, method).remote() for worker in self.workers.values()]
        return dict(zip(self.workers, ray.get(calls, timeout=LIMIT), strict=True))

    def events(self):
        found = ray.get(self.handle.events.remote(), timeout=LIMIT)["events"]
        return [(event["what"], event["member"]) for event in found]


if __name__ == "__main__":
    serve(Pods)
