"""A resource id becomes samples: one function a kind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import psutil

from jobs.poll.resources import kind_of

# Seconds by which two processes may differ over when a third one started: each computes it from the
# kernel's boot time, in whole seconds, which a correction of the clock shifts.
_START_TOLERANCE = 2.0


class Reading(NamedTuple):
    """One measured value of a resource."""

    meter: str
    volume: float
    unit: str


class GoneError(Exception):
    """There is no such resource (any more)."""


async def poll(resource_id: str, client: httpx.AsyncClient, timeout: float) -> list[Reading]:
    """Measures a resource. Does not block the event loop.

    Args:
        resource_id: as ``resources.py`` writes them.
        client: what HTTP targets are asked with.
        timeout: seconds. A TCP or HTTP target that takes longer is down.

    Returns:
        At least one reading.

    Raises:
        GoneError: the process has ended, the file was removed, the disk pulled.
        TimeoutError: a resource of this machine took too long.
        OSError, psutil.Error: the system refused to tell.
    """
    kind = kind_of(resource_id)
    if kind in ("http", "https"):
        return await _http(resource_id, client, timeout)
    what = resource_id.partition(":")[2]
    if kind == "tcp":
        return await _tcp(what, timeout)
    measure = _LOCAL[kind]
    try:
        return await asyncio.wait_for(asyncio.to_thread(lambda: list(measure(what))), timeout)
    except (psutil.NoSuchProcess, KeyError, IndexError, FileNotFoundError, NotADirectoryError):
        raise GoneError(resource_id) from None
    except asyncio.TimeoutError:
        raise TimeoutError(f"{resource_id} took more than {timeout} s") from None


def _process(what: str) -> Iterator[Reading]:
    pid, _, started_ms = what.partition(":")
    process = psutil.Process(int(pid))
    started = int(started_ms) / 1000
    if abs(process.create_time() - started) > _START_TOLERANCE:
        raise psutil.NoSuchProcess(process.pid)
    yield Reading("process.uptime", time.time() - started, "s")
    try:
        with process.oneshot():
            cpu = process.cpu_times()
            yield Reading("process.cpu", cpu.user + cpu.system, "s")
            yield Reading("process.memory", process.memory_info().rss, "B")
            yield Reading("process.threads", process.num_threads(), "thread")
    except (psutil.AccessDenied, psutil.ZombieProcess):
        return  # hidden on a hardened system, or not reaped: it is there, and no more can be said


def _cpu(what: str) -> Iterator[Reading]:
    times = psutil.cpu_times(percpu=True)[int(what)]
    # The kernel counts guest time in user time already.
    counted = {k: v for k, v in times._asdict().items() if not k.startswith("guest")}
    idle = counted["idle"] + counted.get("iowait", 0.0)
    yield Reading("cpu.busy", sum(counted.values()) - idle, "s")
    yield Reading("cpu.idle", idle, "s")


def _disk(what: str) -> Iterator[Reading]:
    counters = (psutil.disk_io_counters(perdisk=True) or {})[what]
    yield Reading("disk.read", counters.read_bytes, "B")
    yield Reading("disk.written", counters.write_bytes, "B")


def _filesystem(what: str) -> Iterator[Reading]:
    usage = psutil.disk_usage(what)
    yield Reading("filesystem.used", usage.used, "B")
    yield Reading("filesystem.free", usage.free, "B")


def _net(what: str) -> Iterator[Reading]:
    counters = (psutil.net_io_counters(pernic=True) or {})[what]
    yield Reading("net.received", counters.bytes_recv, "B")
    yield Reading("net.sent", counters.bytes_sent, "B")


def _file(what: str) -> Iterator[Reading]:
    stat = os.stat(what)
    yield Reading("file.size", stat.st_size, "B")
    yield Reading("file.age", time.time() - stat.st_mtime, "s")


def _directory(what: str) -> Iterator[Reading]:
    entries = size = 0
    with os.scandir(what) as listing:
        for entry in listing:
            entries += 1
            try:
                if entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue  # removed while it was being listed
    yield Reading("directory.entries", entries, "entry")
    yield Reading("directory.size", size, "B")


_LOCAL: dict[str, Callable[[str], Iterator[Reading]]] = {
    "process": _process,
    "cpu": _cpu,
    "disk": _disk,
    "filesystem": _filesystem,
    "net": _net,
    "file": _file,
    "directory": _directory,
}


async def _tcp(what: str, timeout: float) -> list[Reading]:
    host, _, port = what.rpartition(":")
    started = time.perf_counter()
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), timeout)
    except (OSError, asyncio.TimeoutError):
        return [Reading("tcp.up", 0, "bool")]
    took = time.perf_counter() - started
    writer.close()
    return [Reading("tcp.up", 1, "bool"), Reading("tcp.connect_time", took, "s")]


async def _http(url: str, client: httpx.AsyncClient, timeout: float) -> list[Reading]:
    async def status() -> int:
        # The headers tell all that is sampled; a body of any size stays where it is.
        async with client.stream("GET", url) as response:
            return response.status_code

    started = time.perf_counter()
    try:
        code = await asyncio.wait_for(status(), timeout)
    except (httpx.HTTPError, OSError, asyncio.TimeoutError):
        return [Reading("http.up", 0, "bool")]
    return [
        Reading("http.up", 1, "bool"),
        Reading("http.status", code, "code"),
        Reading("http.response_time", time.perf_counter() - started, "s"),
    ]
