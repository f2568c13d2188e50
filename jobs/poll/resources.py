"""What there is to poll now: the machine's processes, disks, interfaces and cores, and the targets.

A resource is known by its id, a ``str`` of a kind and what it is of that kind:

    process:4711:1700000000123  (pid, start in ms: a pid comes back)    cpu:0    net:eth0
    disk:vda    filesystem:/home    file:/var/log/syslog    directory:/srv    tcp:db:5432    http://…
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import psutil

from jobs.driver.processes import process_id


def kind_of(resource_id: str) -> str:
    """The kind of a resource: the id's part before its first colon."""
    return resource_id.partition(":")[0]


def discover(targets: Iterable[str] = ()) -> list[str]:
    """The ids of everything there is to poll at this moment, sorted, each once.

    Args:
        targets: the resource ids of the configured targets. A file or directory that is gone is
            left out; a remote one always counts, since "it is down" is what polling it tells.
    """
    return sorted({*_processes(), *_disks(), *_interfaces(), *_cores(), *_present(targets)})


def _processes() -> Iterator[str]:
    # process_iter() keeps its Process objects, so the start time that it read first stays although
    # the kernel's boot time, from which it is computed, wavers when the clock is corrected.
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
