"""On the Ray of a job: joined, with a partition actor, and agents on this machine. Importing it imports Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import partition_actor
from partition_actor import Settings
from partition_actor.errors import PartitionActorNotFound
from polling.joining import join


@contextmanager
def joined(address: str) -> Iterator[None]:
    """In the Ray at the address; ``local`` is one for this block.

    Raises:
        InputError: there is none.
    """
    join(address)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def coordinator(name: str, namespace: str, settings: Settings | None = None) -> Iterator[Any]:
    """With the partition actor of that name: the one that is there, or else one that is taken down after the block.

    Args:
        name: the actor's.
        namespace: the actor's.
        settings: of one that is deployed.

    Raises:
        PartitionError: it could not be deployed.
    """
    try:
        partition_actor.connect(name=name, namespace=namespace)
        found = True
    except PartitionActorNotFound:
        found = False
    handle = partition_actor.deploy(name=name, namespace=namespace, settings=settings)
    try:
        yield handle
    finally:
        # One that was there is somebody's; one that is ours may have become somebody's meanwhile.
        if not found and not _in_use(handle):
            partition_actor.shutdown(name=name, namespace=namespace)


def on_this_node(agent: type) -> Any:
    """The class as an actor of this machine, from which alone its processes can be polled, and its agents killed."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray tells workers where the driver's script lies, but not those of a job with a working_dir.
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return ray.remote(agent).options(
        num_cpus=0,
        scheduling_strategy=here,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )


def send_signal(pid: int, number: int) -> None:
    """Sends a signal to an agent's process; one that has ended by itself meanwhile needs none."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _in_use(coordinator: Any) -> bool:
    try:
        groups = ray.get(coordinator.status.remote(), timeout=10)["groups"]
    except (RayError, GetTimeoutError):
        return True  # not known, so it stays
    return any(group["members"] for group in groups.values())
