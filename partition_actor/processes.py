"""Identify this process so that others can watch it, and ask the kernel whether a process of this node has ended.

Ray reports an actor dead before its process has ended: an actor that is terminated, exits by itself or goes out of
scope runs on for about 0.3 s, and so do its threads (measured with Ray 2.60).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import ray
from ray.util import client

from partition_actor import ray_internals

_UNKNOWN = "?"
POLL = 0.01  # seconds between two checks of a process that is about to end, where only polling is possible


def own_process() -> str:
    """This process's id, unique on its node: PID namespace, pid and start time. Empty where there is no ``/proc``."""
    try:
        return f"{_namespace()} {os.getpid()} {_state_and_start(os.getpid())[1]}"
    except OSError:
        return ""


def process_of_worker(pid: int, *, here: bool) -> str:
    """The same of a Ray worker that runs now on this node or (not `here`) on another one. Empty if it is not found.

    Of another node's only the pid is known. All workers of a node share a PID namespace, by which its raylet ends them.
    """
    try:
        return f"{_namespace()} {pid} {_state_and_start(pid)[1]}" if here else f"{_UNKNOWN} {pid} {_UNKNOWN}"
    except OSError:
        return ""


def has_ended(process: str) -> bool | None:
    """Whether a process of this node has ended with all its threads; None if that cannot be told from here."""
    try:
        namespace, pid, start = process.split()
        if namespace not in (_UNKNOWN, _namespace()):  # in another container the same process has another pid
            return None
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return None
    try:
        state, started = _state_and_start(int(pid))
        return start not in (_UNKNOWN, started) or (state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1)
    except OSError:
        return False  # it is ending right now, or hidden: the next check tells


async def watch(process: str) -> bool:
    """Wait, without polling, until a process of this node has ended; return False at once if that is impossible.

    See ``pidfd_open(2)``: the descriptor becomes readable when the process has ended with all its threads.
    """
    try:
        descriptor = os.pidfd_open(int(process.split()[1]))  # open before the check: the pid cannot be reused after it
    except ProcessLookupError:
        return has_ended(process) is True
    except (AttributeError, IndexError, OSError, ValueError):
        return False
    try:
        ended = has_ended(process)
        if ended is not False:
            return bool(ended)
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
    """Wait at most `timeout` seconds for a process of this node to end; return whether it has."""
    until = time.monotonic() + timeout
    while (ended := has_ended(process)) is False and time.monotonic() < until:
        time.sleep(POLL)
    return bool(ended)


def _namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _state_and_start(pid: int) -> tuple[str, str]:
    """State and start time; see ``proc_pid_stat(5)``. The command name, in parentheses, may contain anything."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]


class ProcessIdentity(NamedTuple):
    """The process of a session, by everything that others can watch: Ray's ids, in hex, and the kernel's."""

    handle: Any  # of the actor; None for a task or a driver
    node: str
    actor: str  # empty for a task or a driver
    worker: str
    process: str  # what `own_process` returns
    owned: Any = None  # for a task or a driver: a list of one reference, which its process owns and never fulfils

    @property
    def pid(self) -> int | None:
        """The pid on its node; None if it is not known."""
        pid = (self.process.split() or [""])[1:2]
        return int(pid[0]) if pid and pid[0].isdigit() else None

    @classmethod
    def of(cls, message: dict[str, Any]) -> ProcessIdentity:
        """The identity whose fields `message` holds; other fields are ignored."""
        return cls(**{name: message[name] for name in cls._fields})


def own_identity() -> ProcessIdentity | None:
    """The identity of this process, or None outside a Ray cluster. The caller adds `owned` for a task or a driver."""
    if not ray.is_initialized() or client.ray.is_connected():  # type: ignore[no-untyped-call]  # a Ray client is not part of the cluster
        return None
    context = ray.get_runtime_context()
    actor = context.get_actor_id()
    handle = None if actor is None else context.current_actor  # does not keep the actor alive
    return ProcessIdentity(handle, context.get_node_id(), actor or "", context.get_worker_id(), own_process())


@contextmanager
def ray_stays() -> Iterator[bool]:
    """Within this, no other thread shuts Ray down; gives whether this process is connected to it.

    A call of Ray beside ``ray.shutdown()`` ends the process without a traceback, and one after it starts Ray anew.
    """
    with ray_internals.connect_lock():
        yield ray.is_initialized()


def ray_life() -> object:
    """Another object each time that this process connects to Ray; None while it is not connected."""
    return ray._private.worker.global_worker.worker_id if ray.is_initialized() else None


def task_end() -> Callable[[], bool] | None:
    """What says whether the Ray task that runs in this process now has returned; Ray may run others here after it.

    None in an actor, in a driver, and in a task that is a generator: it is not on the stack all the time.
    """
    stack = list(_stack_of_main_thread())
    task = next((frame for frame, below in itertools.pairwise(stack) if below.f_code.co_name == "main_loop"), None)
    in_task = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    if task is None or not in_task or ray.get_runtime_context().get_actor_id() is not None:
        return None
    if task.f_code.co_flags & inspect.CO_GENERATOR:
        return None
    return lambda: not any(frame is task for frame in _stack_of_main_thread())


def _stack_of_main_thread() -> Iterator[FrameType]:
    """Innermost first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        yield frame
        frame = frame.f_back


_kept: list[ray.ObjectRef[Any]] = []


def future_of(reference: ray.ObjectRef[Any]) -> Future[Any]:
    """The result of a call, which is waited for without Ray.

    To free a reference while ``ray.shutdown()`` runs in another thread would end this process (Ray 2.60).
    """
    future: Future[Any] = reference.future()
    future.add_done_callback(lambda _: None if ray.is_initialized() else _kept.append(reference))
    return future


def pending_call(handle: Any, pending: ray.ObjectRef[Any]) -> ray.ObjectRef[Any]:
    """A call to the actor that fails when the actor dies. It is not sent: it waits here for its `pending` argument."""
    reference: ray.ObjectRef[Any] = handle.__ray_call__.remote(_noop, pending)
    return reference


def _noop(_actor: Any, _pending: Any) -> None:
    return None
