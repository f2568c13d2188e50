"""Workers of the ledger of tests/chaos on given hosts, started from the head; see `ray_hosts.Driver`.

python tests/hosts/cut_driver.py FOLDER
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from bed import address
from ledger import Chaos
from ledger_worker import KEYS_OF, Worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_hosts import serve

from partition_actor import Settings, clock

SETTINGS = Settings(ttl=6.0, hold=0.5, handoff_timeout=2.0, node_proof_interval=0.5, max_members=100)
"""The lease is long enough for a cut that is shorter than it; docs/guarantees.md says how much shorter."""
LIMIT = 60.0
"""Seconds that a call of a worker may take."""


class PermittedWorker(Worker):
    """Also knows when it was last without a lease, and when its callbacks for lost keys have returned."""

    def __init__(self, *arguments: Any) -> None:
        self._lost: dict[str, float] = {}
        super().__init__(*arguments)
        self._paused = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def paused(self) -> float:
        """The last moment at which no lease of this worker ran, on the clock of leases."""
        return self._paused

    def lost(self) -> dict[str, float]:
        """By key, when the latest callback for its loss has returned."""
        return self._lost

    def _finish(self, group: str, lost: list[str]) -> None:
        super()._finish(group, lost)
        self._lost.update(dict.fromkeys(lost, clock.now()))

    def _look(self) -> None:
        while True:
            if not all(map(self._coordinator.fencing_token, KEYS_OF)):
                self._paused = clock.now()
            time.sleep(0.005)


class Workers(Chaos):
    """The workers, by id; each logs to a file in the folder."""

    worker, settings = PermittedWorker, SETTINGS

    def alive(self) -> list[str]:
        """The addresses of the hosts that Ray counts alive."""
        return [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]

    def node(self, host: int) -> str:
        """Ray's id of the node that is alive on a host."""
        ids = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return str(ids[address(host)])

    def start(self, host: int, *worker_ids: str) -> None:
        """Start workers on a host."""
        place = NodeAffinitySchedulingStrategy(self.node(host), soft=False)
        for worker_id in worker_ids:
            options = ray.remote(self.worker).options(num_cpus=0, max_concurrency=4, scheduling_strategy=place)
            path = str(self.folder / f"{worker_id}.jsonl")
            self.workers[worker_id] = options.remote(worker_id, self.name, path, True)
        ray.get([self.workers[worker_id].pid.remote() for worker_id in worker_ids], timeout=LIMIT)

    def lost(self, *worker_ids: str) -> dict[str, float]:
        """By key, when the latest callback of these workers for its loss has returned."""
        told = ray.get([self.workers[worker_id].lost.remote() for worker_id in worker_ids], timeout=LIMIT)
        keys = {key for each in told for key in each}
        return {key: max(each.get(key, 0.0) for each in told) for key in keys}

    def members(self) -> list[str]:
        """Those that are in both groups."""
        of_group = [set(ray.get(self.handle.get_members.remote(group), timeout=LIMIT)) for group in KEYS_OF]
        return sorted(set.intersection(*of_group))

    def epochs(self) -> list[tuple[int, int]]:
        """The present one of each group."""
        groups = ray.get(self.handle.status.remote(), timeout=LIMIT)["groups"]
        return [groups[group]["epoch"] for group in KEYS_OF]

    def paused(self) -> float:
        """The last moment at which a worker was without a lease."""
        return max(ray.get([worker.paused.remote() for worker in self.workers.values()], timeout=LIMIT))


if __name__ == "__main__":
    serve(lambda: Workers(Path(sys.argv[1]), seed=1, workers=0))
