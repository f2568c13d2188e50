"""Poll a resource by its id: one function for each kind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import httpx
import psutil

from jobs.poll.resources import kind_of

# Seconds by which two processes may differ about a third one's start. Both compute it from the kernel's boot time,
# which is in whole seconds and shifts when the clock is corrected.
_START_TOLERANCE = 2.0


class Reading(NamedTuple):
    """One measured value of a resource."""

    meter: str
    volume: float
    unit: str


class GoneError(Exception):
    """The resource does not exist, or no longer does."""


async def poll(resource_id: str, client: httpx.AsyncClient, timeout: float) -> list[Reading]:
    """Measure a resource without blocking the event loop.

    Args:
        resource_id: as in ``resources.py``.
        client: used for HTTP targets.
        timeout: seconds; a TCP or HTTP target that takes longer counts as down.

    Returns:
        At least one reading.

    Raises:
        GoneError: the process has ended, the file or the disk was removed.
        TimeoutError: a resource of this machine took too long.
        OSError, psutil.Error: the system refused access.
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
        return  # hidden on a hardened system, or a zombie: it exists, and no more is known


def _cpu(what: str) -> Iterator[Reading]:
    times = psutil.cpu_times(percpu=True)[int(what)]
    # The kernel already includes guest time in user time.
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
                continue  # removed while the directory was read
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
        # The headers suffice; do not download the body.
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
