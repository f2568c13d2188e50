"""This machine's resources: what there is, and what each measures.

A resource id is a kind and a name::

    process:4711:130817  (pid, and start in clock ticks since boot, because pids are reused)    cpu:0    net:eth0
    disk:vda    filesystem:/home    file:/var/log/syslog    directory:/srv    machine (memory, load)
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import psutil


class Reading(NamedTuple):
    """One measured value of a resource."""

    meter: str
    type: str  # gauge is the current value, cumulative is since a start
    unit: str
    volume: float


class Measured(NamedTuple):
    """What one look at a resource gives: at least one reading, and what the resource is."""

    readings: list[Reading]
    metadata: dict[str, str]


class GoneError(Exception):
    """The resource does not exist, or no longer does."""


def kind_of(resource_id: str) -> str:
    """Return the kind of a resource: the part of its id before the first colon, or before an ``@``."""
    return resource_id.partition(":")[0].partition("@")[0]


def process_id(pid: int) -> str:
    """Return the resource id of a process. Raises ``OSError`` if it has ended or is hidden.

    The kernel's own start time: psutil adds the time of the boot, which shifts when the clock is corrected, and so
    differs between two processes that ask.
    """
    with open(f"/proc/{pid}/stat", "rb") as stat:
        return f"process:{pid}:{int(stat.read().rpartition(b')')[2].split()[19])}"


def _processes() -> Iterator[str]:
    for pid in psutil.pids():
        with suppress(OSError):
            yield process_id(pid)


DISCOVERED: dict[str, Callable[[], Iterable[str]]] = {
    "processes": _processes,
    "disks": lambda: (f"disk:{device}" for device in psutil.disk_io_counters(perdisk=True) or {}),
    "filesystems": lambda: (f"filesystem:{each.mountpoint}" for each in psutil.disk_partitions(all=False)),
    "interfaces": lambda: (f"net:{interface}" for interface in psutil.net_io_counters(pernic=True) or {}),
    "cores": lambda: (f"cpu:{core}" for core in range(len(psutil.cpu_times(percpu=True)))),
    "machine": lambda: ["machine"],
}
"""What can be discovered on a machine."""


METERS: dict[str, list[str]] = {
    "process": [
        *("process.uptime", "process.cpu", "process.memory.rss", "process.memory.vms", "process.threads"),
        *("process.context_switches", "process.io.read", "process.io.written"),
    ],
    "cpu": [f"cpu.{mode}" for mode in psutil.cpu_times()._fields],
    "disk": ["disk.read.bytes", "disk.write.bytes", "disk.read.requests", "disk.write.requests"],
    "filesystem": ["filesystem.used", "filesystem.free"],
    "net": ["net.received.bytes", "net.sent.bytes", "net.received.packets", "net.sent.packets"],
    "machine": [
        *("memory.used", "memory.available", "swap.used", "load.1m"),
        *("system.context_switches", "system.interrupts"),
    ],
    "file": ["file.size", "file.age"],
    "directory": ["directory.entries", "directory.size"],
}
"""The meters that each kind of resource may have."""


def discover(kinds: Iterable[str] = DISCOVERED) -> Iterator[str]:
    """Yield the ids of all resources of these kinds that this machine has now."""
    for kind in kinds:
        yield from DISCOVERED[kind]()


def measure(resource_id: str) -> Measured:
    """Measure a resource of this machine.

    Raises:
        GoneError: the process has ended, the file or the disk was removed.
        OSError, psutil.Error: the system refused access.
    """
    kind, _, name = resource_id.partition(":")
    try:
        return _MEASURES[kind](name)
    except (psutil.NoSuchProcess, KeyError, IndexError, FileNotFoundError, NotADirectoryError, ProcessLookupError):
        raise GoneError(resource_id) from None


def _process(name: str) -> Measured:
    pid = int(name.partition(":")[0])
    process = psutil.Process(pid)
    if process_id(pid) != f"process:{name}":
        raise psutil.NoSuchProcess(pid)
    readings = [Reading("process.uptime", "gauge", "s", time.time() - process.create_time())]
    metadata = {"pid": str(pid)}
    # A hardened system hides the rest, and of a zombie no more is known.
    with suppress(psutil.AccessDenied, psutil.ZombieProcess), process.oneshot():
        metadata["name"] = process.name()
        cpu, memory, switches = process.cpu_times(), process.memory_info(), process.num_ctx_switches()
        readings += [
            Reading("process.cpu", "cumulative", "s", cpu.user + cpu.system),
            Reading("process.memory.rss", "gauge", "B", memory.rss),
            Reading("process.memory.vms", "gauge", "B", memory.vms),
            Reading("process.threads", "gauge", "thread", process.num_threads()),
            Reading("process.context_switches", "cumulative", "switch", switches.voluntary + switches.involuntary),
        ]
        io = process.io_counters()
        readings += [
            Reading("process.io.read", "cumulative", "B", io.read_chars),
            Reading("process.io.written", "cumulative", "B", io.write_chars),
        ]
    return Measured(readings, metadata)


def _cpu(name: str) -> Measured:
    times = psutil.cpu_times(percpu=True)[int(name)]._asdict()
    return Measured([Reading(f"cpu.{mode}", "cumulative", "s", seconds) for mode, seconds in times.items()], {})


def _disk(name: str) -> Measured:
    io = (psutil.disk_io_counters(perdisk=True) or {})[name]
    readings = [
        Reading("disk.read.bytes", "cumulative", "B", io.read_bytes),
        Reading("disk.write.bytes", "cumulative", "B", io.write_bytes),
        Reading("disk.read.requests", "cumulative", "request", io.read_count),
        Reading("disk.write.requests", "cumulative", "request", io.write_count),
    ]
    return Measured(readings, {"device": name})


def _filesystem(name: str) -> Measured:
    usage = psutil.disk_usage(name)
    readings = [
        Reading("filesystem.used", "gauge", "B", usage.used),
        Reading("filesystem.free", "gauge", "B", usage.free),
    ]
    return Measured(readings, {"mountpoint": name})


def _net(name: str) -> Measured:
    io = (psutil.net_io_counters(pernic=True) or {})[name]
    readings = [
        Reading("net.received.bytes", "cumulative", "B", io.bytes_recv),
        Reading("net.sent.bytes", "cumulative", "B", io.bytes_sent),
        Reading("net.received.packets", "cumulative", "packet", io.packets_recv),
        Reading("net.sent.packets", "cumulative", "packet", io.packets_sent),
    ]
    return Measured(readings, {"interface": name})


def _machine(_: str) -> Measured:
    memory, swap, stats = psutil.virtual_memory(), psutil.swap_memory(), psutil.cpu_stats()
    readings = [
        Reading("memory.used", "gauge", "B", memory.used),
        Reading("memory.available", "gauge", "B", memory.available),
        Reading("swap.used", "gauge", "B", swap.used),
        Reading("load.1m", "gauge", "process", psutil.getloadavg()[0]),
        Reading("system.context_switches", "cumulative", "switch", stats.ctx_switches),
        Reading("system.interrupts", "cumulative", "interrupt", stats.interrupts),
    ]
    return Measured(readings, {})


def _file(name: str) -> Measured:
    stat = os.stat(name)
    readings = [
        Reading("file.size", "gauge", "B", stat.st_size),
        Reading("file.age", "gauge", "s", time.time() - stat.st_mtime),
    ]
    return Measured(readings, {"path": name})


def _directory(name: str) -> Measured:
    entries = size = 0
    with os.scandir(name) as listing:
        for entry in listing:
            entries += 1
            with suppress(FileNotFoundError):  # removed while the directory was read
                if entry.is_file(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
    readings = [
        Reading("directory.entries", "gauge", "entry", entries),
        Reading("directory.size", "gauge", "B", size),
    ]
    return Measured(readings, {"path": name})


_MEASURES: dict[str, Callable[[str], Measured]] = {
    "process": _process,
    "cpu": _cpu,
    "disk": _disk,
    "filesystem": _filesystem,
    "net": _net,
    "machine": _machine,
    "file": _file,
    "directory": _directory,
}
