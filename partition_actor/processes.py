"""Which process this is, for others to watch, and whether a process of this node has ended, as its kernel says.

Ray calls an actor dead before its process is: one that is terminated, exits by itself or is no longer referenced runs
on for 0.3 s or so, its threads at work all the while (measured with Ray 2.60).
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util import client

POLL = 0.01
"""Seconds between two looks at a process that is to end, where nothing better can be done."""


def own_process() -> str:
    """This process, as `has_ended` knows it: unique among those of its node. Empty where there is no ``/proc``."""
    try:
        return f"{_namespace()} {os.getpid()} {_state_and_start(os.getpid())[1]}"
    except OSError:
        return ""


def has_ended(process: str) -> bool | None:
    """Whether a process of this node has ended, with all its threads; None when that cannot be told from here."""
    try:
        namespace, pid, start = process.split()
        if namespace != _namespace():  # in a container of its own it has another number here
            return None
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return None
    try:
        state, started = _state_and_start(int(pid))
        return started != start or (state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1)
    except OSError:
        return False  # it is just going, or hidden: the next look tells


async def watch(process: str) -> bool:
    """Wait until a process of this node has ended, without polling; False at once when that cannot be done.

    See ``pidfd_open(2)``: the descriptor is readable when the process has ended with all its threads.
    """
    try:
        descriptor = os.pidfd_open(int(process.split()[1]))  # before the look: then the number means this process
    except ProcessLookupError:
        return has_ended(process) is True
    except (AttributeError, IndexError, OSError, ValueError):
        return False
    try:
        known = has_ended(process)
        if known is None or known:
            return bool(known)
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(descriptor)
        return True
    finally:
        os.close(descriptor)


def wait_until_ended(process: str, timeout: float) -> bool:
    """Wait at most `timeout` seconds until a process of this node has ended; whether it has."""
    until = time.monotonic() + timeout
    while (ended := has_ended(process)) is False and time.monotonic() < until:
        time.sleep(POLL)
    return bool(ended)


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _state_and_start(pid: int) -> tuple[str, str]:
    """See ``proc_pid_stat(5)``; what comes before the last parenthesis may hold anything."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


def own_handle() -> Any:
    """The handle of the actor that this process runs; it does not keep the actor alive."""
    return ray.get_runtime_context().current_actor


class ProcessIdentity(NamedTuple):
    """The process that a session lives in, by what others can watch: Ray's ids in hex, and the kernel's."""

    handle: Any
    """The actor's; None of a task or a driver."""
    node: str
    actor: str
    """Empty for a task or a driver."""
    worker: str
    process: str
    owned: Any = None
    """Of a task or a driver: a list with a reference that its process owns and that is never ready."""


def own_identity() -> ProcessIdentity | None:
    """This process, if it is part of a Ray cluster; what a task or a driver owns is still to be added."""
    if not ray.is_initialized() or client.ray.is_connected():  # type: ignore[no-untyped-call]  # a Ray client's process is no part of it
        return None
    context = ray.get_runtime_context()
    actor = context.get_actor_id()
    handle = None if actor is None else own_handle()
    return ProcessIdentity(handle, context.get_node_id(), actor or "", context.get_worker_id(), own_process())


def pending_call(handle: Any, pending: ray.ObjectRef[Any]) -> ray.ObjectRef[Any]:
    """The result of a call that waits, here, for an argument that is never ready: nothing is sent."""
    reference: ray.ObjectRef[Any] = handle.__ray_call__.remote(_noop, pending)
    return reference


def _noop(_actor: Any, _pending: Any) -> None:
    return None
