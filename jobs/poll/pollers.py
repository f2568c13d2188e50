"""Poll a resource by its id: what is remote is connected to, anything else is measured on this machine."""

from __future__ import annotations

import asyncio
import time

import httpx

from jobs.driver import machine
from jobs.driver.machine import Measured, Reading, kind_of, measure

_HTTP = ["http.up", "http.status", "http.response_time"]
METERS = {**machine.METERS, "tcp": ["tcp.up", "tcp.connect_time"], "http": _HTTP, "https": _HTTP}
"""The meters that each kind of resource may have."""


async def poll(resource_id: str, client: httpx.AsyncClient, timeout: float) -> Measured:
    """Measure a resource without blocking the event loop.

    Args:
        resource_id: as in ``driver.machine``, ``tcp:host:port`` or a URL.
        client: used for HTTP targets.
        timeout: seconds; a TCP or HTTP target that takes longer counts as down.

    Raises:
        TimeoutError: a resource of this machine took too long.
        GoneError, OSError, psutil.Error: as ``measure``.
    """
    kind = kind_of(resource_id)
    if kind in ("http", "https"):
        return Measured(await _http(resource_id, client, timeout), {"url": resource_id})
    if kind == "tcp":
        host, _, port = resource_id.partition(":")[2].rpartition(":")
        return Measured(await _tcp(host.strip("[]"), int(port), timeout), {"host": host, "port": port})
    try:
        return await asyncio.wait_for(asyncio.to_thread(measure, resource_id), timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(f"{resource_id} took more than {timeout} s") from None


async def _tcp(host: str, port: int, timeout: float) -> list[Reading]:
    started = time.perf_counter()
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    except (OSError, asyncio.TimeoutError):
        return [Reading("tcp.up", "gauge", "bool", 0)]
    took = time.perf_counter() - started
    writer.close()
    return [Reading("tcp.up", "gauge", "bool", 1), Reading("tcp.connect_time", "gauge", "s", took)]


async def _http(url: str, client: httpx.AsyncClient, timeout: float) -> list[Reading]:
    async def status() -> int:
        # The headers suffice; do not download the body.
        async with client.stream("GET", url) as response:
            return response.status_code

    started = time.perf_counter()
    try:
        code = await asyncio.wait_for(status(), timeout)
    except (httpx.HTTPError, OSError, asyncio.TimeoutError):
        return [Reading("http.up", "gauge", "bool", 0)]
    return [
        Reading("http.up", "gauge", "bool", 1),
        Reading("http.status", "gauge", "code", code),
        Reading("http.response_time", "gauge", "s", time.perf_counter() - started),
    ]
