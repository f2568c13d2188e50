"""What there is to poll: the machine's processes, disks, interfaces and cores, and the targets.

A resource id is a ``str`` of a kind and a name::

    process:4711:1700000000123  (pid, start in ms, because pids are reused)    cpu:0    net:eth0
    disk:vda    filesystem:/home    file:/var/log/syslog    directory:/srv    tcp:db:5432    http://…
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import psutil

from jobs.driver.processes import process_id


def kind_of(resource_id: str) -> str:
    """Return the kind of a resource: the part of its id before the first colon."""
    return resource_id.partition(":")[0]


def discover(targets: Iterable[str] = ()) -> list[str]:
    """Return the ids of everything that can be polled now, sorted and without repeats.

    Args:
        targets: resource ids of the configured targets. Files and directories that do not exist are left out; remote
            targets are always included, because polling them shows whether they are up.
    """
    return sorted({*_processes(), *_disks(), *_interfaces(), *_cores(), *_present(targets)})


def _processes() -> Iterator[str]:
    # process_iter() caches its Process objects and so the first start time that it read. It would change otherwise:
    # it is computed from the kernel's boot time, which shifts when the clock is corrected.
    for process in psutil.process_iter():
        try:
            if process.is_running():
                yield process_id(process)
        except psutil.NoSuchProcess:
            continue


def _disks() -> Iterator[str]:
    for device in psutil.disk_io_counters(perdisk=True) or {}:
        yield f"disk:{device}"
    for partition in psutil.disk_partitions(all=False):
        yield f"filesystem:{partition.mountpoint}"


def _interfaces() -> Iterator[str]:
    for interface in psutil.net_io_counters(pernic=True) or {}:
        yield f"net:{interface}"


def _cores() -> Iterator[str]:
    for core in range(len(psutil.cpu_times(percpu=True))):
        yield f"cpu:{core}"


def _present(targets: Iterable[str]) -> Iterator[str]:
    for target in targets:
        kind, _, path = target.partition(":")
        if kind not in ("file", "directory") or os.path.exists(path):
            yield target
