"""The ways to Ray's GCS that are private to Ray, whose names differ between Ray 2.31 and now."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray

_THREAD = ThreadPoolExecutor(1, "gcs-records")  # of its own: while the GCS is away, others do not wait for it


def accessor() -> Any:
    """What asks for tables of the GCS."""
    from ray._private import state

    made: Any = state.state
    if hasattr(made, "_connect_and_get_accessor"):
        return made._connect_and_get_accessor()
    made._check_connected()  # Ray 2.50 and older
    return made.global_state_accessor


def client() -> Any:
    """The client of this process, which reads keys of the GCS's store."""
    worker: Any = ray._private.worker.global_worker
    return worker.gcs_client


def can_write() -> bool:
    """Whether keys can be written."""
    return any(hasattr(client(), name) for name in ("async_internal_kv_put", "internal_kv_put"))


async def write(key: bytes, value: bytes, namespace: bytes, timeout: float) -> None:
    """Write a key, within `timeout` seconds. Raises what Ray raises, and ``AttributeError`` where that is impossible."""
    gcs = client()
    if hasattr(gcs, "async_internal_kv_put"):
        await gcs.async_internal_kv_put(key, value, True, namespace, timeout=timeout)
        return
    put = partial(gcs.internal_kv_put, key, value, True, namespace, timeout=timeout)  # before async_internal_kv_put
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(_THREAD, put), timeout)
