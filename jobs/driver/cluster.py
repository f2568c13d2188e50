"""Join a Ray cluster, find or deploy the partition actor, and place agents on this node."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

import partition_actor
from jobs.driver.command_line import InputError
from partition_actor import Settings
from partition_actor.errors import PartitionActorNotFound
from partition_actor.ray_access import gcs_problem, refused
from partition_actor.ray_internals import bootstrap_address, enable_found_token

# How often a cluster's head is asked, as a busy one may be late.
_ATTEMPTS = 3
# Seconds in which the partition actor must say whether it has members.
_STATUS_LIMIT = 10.0


def resolve(given: str | None, default: str) -> str:
    """Return the address to join: the given one, else ``RAY_ADDRESS``, else the default.

    Returns:
        ``auto``, ``local`` or ``host:port``.

    Raises:
        InputError: the address has another form.
    """
    chosen = given or os.environ.get("RAY_ADDRESS") or default
    address = os.environ.get("RAY_ADDRESS") or "auto" if chosen == "auto" else chosen
    if "://" in address:
        raise InputError(
            f"--address {address}: expected auto, local or host:port of a cluster that this machine is in; "
            "for another cluster use ray job submit"
        )
    _, _, port = address.rpartition(":")
    if address not in ("auto", "local") and not (":" in address and port.isdecimal()):
        raise InputError(f"--address {address}: expected auto, local or host:port")
    return address


def join(address: str) -> None:
    """Join the Ray cluster at the address, or start one for ``local``. This driver prints no worker's output.

    Raises:
        InputError: no cluster can be joined there.
    """
    if address != "local":
        _check_that_ray_answers(address)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises a bare Exception when its own processes do not start in time
        raise InputError(f"--address {address}: cannot join Ray: {' '.join(str(error).split())}") from None


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Join the Ray cluster at the address for a block; see ``join``."""
    join(address)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def deployed(name: str, namespace: str, settings: Settings | None = None) -> Iterator[Any]:
    """Find the partition actor, or deploy it for a block and shut it down afterwards if nobody else uses it.

    Args:
        name: the actor's.
        namespace: the actor's.
        settings: used only if it is deployed here.

    Yields:
        The partition actor's handle.

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
        # Members of another job may have joined the one that was deployed here.
        if not found and not _has_members(handle):
            partition_actor.shutdown(name=name, namespace=namespace)


def _check_that_ray_answers(address: str) -> None:
    # Ray itself would retry for 15 minutes, or with auto print warnings for 20 seconds.
    try:
        gcs = bootstrap_address(address)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--address {address}: cannot join Ray: {' '.join(str(error).split())}") from None
    if address == "auto":
        enable_found_token()  # as ray.init does
    for _ in range(_ATTEMPTS):
        problem = gcs_problem(gcs or "")
        if problem is None:
            return
        why = refused(gcs, problem) if problem.refuses else f"{problem.why} at {gcs}"
        if problem.refuses:
            break
    raise InputError(f"--address {address}: cannot join Ray: {why}")


def _has_members(handle: Any) -> bool:
    try:
        groups = ray.get(handle.status.remote(), timeout=_STATUS_LIMIT)["groups"]
    except (RayError, GetTimeoutError):
        return True  # unknown, so leave it running
    return any(group["members"] for group in groups.values())
