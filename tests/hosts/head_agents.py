"""Deploys a partition actor, and detached agents that write the ledger of tests/chaos, on given hosts.

python tests/hosts/head_agents.py FOLDER SETTINGS AGENT...      SETTINGS as JSON; an agent's id begins with its host
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from bed import address
from ledger_worker import Worker
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import partition_actor
from partition_actor import Settings

NAME = "head-failure"
LIMIT = 180.0
"""Seconds until a node is there, and an agent."""


class Agent(Worker):
    """Each of its lives has a file of its own."""

    def __init__(self, agent: str, folder: str) -> None:
        super().__init__(agent, NAME, str(Path(folder) / f"{agent}-{time.time_ns()}-{os.getpid()}.jsonl"), True)


def join() -> None:
    """Join Ray, as soon as this host is a node of it."""
    until = time.monotonic() + LIMIT
    while not ray.is_initialized():
        try:
            ray.init(address="auto", namespace=NAME, logging_level=logging.ERROR, log_to_driver=False)
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def node_of(host: int) -> str:
    """The node of a host, once Ray counts it as alive."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        for node in ray.nodes():
            if node["Alive"] and node["NodeManagerAddress"] == address(host):
                return str(node["NodeID"])
        time.sleep(0.2)
    raise SystemExit(f"there is no node on host {host}")


def main() -> None:
    folder, settings, *agents = sys.argv[1:]
    join()
    handle: Any = partition_actor.deploy(NAME, settings=Settings(**json.loads(settings)))
    started = []
    for agent in agents:
        place = NodeAffinitySchedulingStrategy(node_of(int(agent[0])), soft=False)
        made = ray.remote(Agent).options(
            name=agent, lifetime="detached", num_cpus=0, max_concurrency=4, scheduling_strategy=place
        )
        started.append(made.remote(agent, folder))
    ray.get([agent.pid.remote() for agent in started], timeout=LIMIT)
    on = next(node for node in ray.nodes() if node["NodeID"] == ray.get(handle.status.remote())["node"])
    print(on["NodeManagerAddress"])


if __name__ == "__main__":
    main()
