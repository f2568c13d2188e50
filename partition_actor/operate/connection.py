"""Joins the Ray that is there, quickly and without a word of Ray's own, and never starts one.

``ray.init`` tries a dead address for more than a minute, and starts a Ray where none runs (Ray 2.60). So what it would
find is looked at first.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayTaskError

from partition_actor import deployment, ray_internals
from partition_actor.errors import PartitionActorUnavailable, PartitionError
from partition_actor.operate.options import PROGRAM, UNREACHABLE, USAGE, Chosen, Failure
from partition_actor.ray_access import gcs_problem, refused

LOOK = 3.0
"""Seconds until it is clear that there is no Ray, or that a partition actor does not answer."""
JOIN = 30.0
"""Seconds for ``ray.init`` with a GCS that answers: it takes one or two on a small machine."""
ANSWER = 30.0
"""Seconds for the answer to a call; some wait for a hand-off of locks or an epoch."""


def connect() -> Any:
    """The handle of the partition actor that the options name, once it has answered.

    Raises:
        Failure: there is no Ray, or this machine is not a part of it.
        PartitionActorNotFound: Ray knows no such actor.
        PartitionActorUnavailable: it does not answer.
        VersionMismatch: it is too many versions away.
    """
    chosen = Chosen.now()
    join_ray(chosen.address)
    return deployment.connect(chosen.name, chosen.namespace, LOOK)


def ask(handle: Any, method: str, *arguments: Any, timeout: float = ANSWER) -> Any:
    """Call a method of the partition actor and return its answer. Its errors are raised as they are there.

    Raises:
        Failure: it is of a version that has no such method.
        PartitionActorUnavailable: no answer in time.
    """
    if not hasattr(handle, method):
        raise Failure(f"the partition actor is of a version without {method}(): shut it down and deploy it again")
    try:
        return ray.get(getattr(handle, method).remote(*arguments), timeout=timeout)
    except GetTimeoutError:
        raise PartitionActorUnavailable(f"the partition actor did not answer within {timeout:.0f} s") from None
    except RayTaskError as error:
        if isinstance(error.cause, PartitionError):
            raise error.cause from None
        raise


def join_ray(address: str | None) -> None:
    """Join the cluster at `address` (``host:port``; None or ``auto``: ``RAY_ADDRESS``, or the Ray of this machine).

    Raises ``Failure`` within about five seconds if there is none.
    """
    if ray.is_initialized():
        return
    silence()
    with _within(LOOK, f"Ray does not answer within {LOOK:.0f} s"):
        gcs = check_ray(address)
        if not ray_internals.has_raylet():
            raise Failure(
                f"this machine is not a node of the Ray at {gcs}: run {PROGRAM} on one of its nodes, "
                f"or with `ray job submit --address http://HOST:8265 -- {PROGRAM} ...`",
                UNREACHABLE,
            )
    with _within(JOIN, f"the Ray at {gcs} did not let this process in within {JOIN:.0f} s"):
        try:
            # Given an address, Ray does not look for a token by itself, so none is given that was only found.
            ray.init(
                address=address or "auto",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=False,
            )
        except Exception as error:
            raise Failure(f"cannot join the Ray at {gcs}: {error}", UNREACHABLE) from None


def check_ray(address: str | None) -> str:
    """``host:port`` of the GCS to join at `address`, which answers. Raises ``Failure`` if it does not."""
    gcs = find_gcs(address)
    if address in (None, "auto") and not os.environ.get("RAY_ADDRESS"):
        ray_internals.enable_found_token()  # as ray.init does
    if problem := gcs_problem(gcs):
        if problem.refuses:
            raise Failure(refused(gcs, problem), UNREACHABLE)
        raise Failure(f"no Ray answers at {gcs} ({problem.why}): {_advice(address)}", UNREACHABLE)
    return gcs


def find_gcs(address: str | None) -> str:
    """``host:port`` of the GCS that ``ray.init`` would join. Raises ``Failure`` if it would fail or start a new Ray."""
    given = address or os.environ.get("RAY_ADDRESS") or "auto"
    if given == "auto":
        given = os.environ.get("RAY_ADDRESS") or "auto"
    source = "--address" if address else "RAY_ADDRESS"
    if given == "local":
        raise Failure(f"{source} is 'local', which would start a new Ray: name one that runs", USAGE)
    if "://" in given:
        raise Failure(
            f"{source} is {given!r}: expected host:port of a Ray that this machine is a node of; for another one use "
            f"`ray job submit -- {PROGRAM} ...`",
            USAGE,
        )
    try:
        found = ray_internals.bootstrap_address(given)
        host, _, port = (found or "").rpartition(":")
        if not host or not 0 < int(port) < 65536:
            raise ValueError
    except ConnectionError:
        raise Failure(f"no Ray runs on this machine: {_advice(address)}", UNREACHABLE) from None
    except ValueError:
        raise Failure(f"{source} is {given!r}: expected host:port", USAGE) from None
    return f"{host}:{port}"


def silence() -> None:
    """Keep Ray's log lines away from this terminal. Those of its C++ core go to the standard error of the process."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    # It prints the cluster's errors to standard output, whatever `log_to_driver` says (Ray 2.60).
    setattr(ray._private.worker, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010
    warnings.simplefilter("ignore")
    try:
        is_ours = sys.stderr.fileno() == 2
    except (OSError, ValueError):
        return
    if is_ours and not os.environ.get("PARTITION_ACTOR_SHOW_RAY"):
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


@contextmanager
def _within(limit: float, problem: str) -> Iterator[None]:
    """End the process with a line if the block takes longer: what it waits for in Ray's core cannot be interrupted."""

    def give_up() -> None:
        print(f"{PROGRAM}: {problem}", file=sys.stderr, flush=True)
        os._exit(UNREACHABLE)

    timer = threading.Timer(limit, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _advice(address: str | None) -> str:
    if address or os.environ.get("RAY_ADDRESS"):
        return "check --address and RAY_ADDRESS"
    return "start one with `ray start --head`, or name another with --address HOST:PORT"
