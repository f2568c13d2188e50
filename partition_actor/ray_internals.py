"""What this library uses of Ray that Ray does not document, under the names that it has from Ray 2.31 on.

Where a version of Ray lacks one, the feature that needs it is lost and nothing else; `lacking` tells which.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import ray
from ray.runtime_context import RuntimeContext

_THREAD = ThreadPoolExecutor(1, "gcs-records")  # of its own: while the GCS is away, others do not wait for it


def _find(module: str, name: str) -> Any:
    """A name of a module; None if there is none in this version of Ray."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def lacking() -> list[str]:
    """What this version of Ray cannot do, and what is lost by it."""
    lacks = []
    if draining_nodes_asker() is None:
        lacks.append("draining nodes are not told: members there work until their node ends")
    if not hasattr(RuntimeContext, "get_task_name"):
        lacks.append("a Router does not redirect a refused call of an async method: NotOwner is raised")
    if _enable_token is None:
        lacks.append("tokens are not known: whoever reaches the cluster is let in")
    return lacks


def has_exporter() -> bool:
    """Whether Ray exports metrics on this machine; plain ``ray`` has no exporter."""
    return _find("ray.dashboard.optional_deps", "__name__") is not None


# -- the GCS ------------------------------------------------------------------------------------------------------


def draining_nodes_asker() -> Callable[[float], Mapping[str, int]] | None:
    """A function that asks the GCS within so many seconds, which blocks; None if this Ray has none.

    It returns the Unix time in milliseconds at which each draining node ends, or 0.
    """
    client, state = gcs_client(), _find("ray._private.state", "state")
    if hasattr(client, "get_draining_nodes"):
        return lambda seconds: dict(client.get_draining_nodes(timeout=seconds))
    if hasattr(state, "get_draining_nodes"):
        return lambda _: dict(state.get_draining_nodes())
    return None


def state_accessor() -> Any:
    """What reads tables of the GCS."""
    state = _find("ray._private.state", "state")
    if hasattr(state, "_connect_and_get_accessor"):
        return state._connect_and_get_accessor()
    state._check_connected()
    return state.global_state_accessor


def node_of(address: Any) -> str:
    """The node id, in hex, of an ``Address`` in such a table."""
    node: bytes = address.node_id if hasattr(address, "node_id") else address.raylet_id
    return node.hex()


def gcs_client() -> Any:
    """This process's client of the GCS."""
    worker: Any = ray._private.worker.global_worker
    return worker.gcs_client


def can_write_keys() -> bool:
    """Whether `write_key` works here."""
    return any(hasattr(gcs_client(), name) for name in ("async_internal_kv_put", "internal_kv_put"))


async def write_key(key: bytes, value: bytes, namespace: bytes, timeout: float) -> None:
    """Write a key of the GCS's store. Raises what Ray raises, and ``TimeoutError`` after `timeout` seconds."""
    client = gcs_client()
    if hasattr(client, "async_internal_kv_put"):
        await client.async_internal_kv_put(key, value, True, namespace, timeout=timeout)
        return
    put = partial(client.internal_kv_put, key, value, True, namespace, timeout=timeout)
    await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(_THREAD, put), timeout)


def gcs_stub(channel: Any) -> tuple[Any, Any]:
    """A stub for questions to the GCS at the other end of a channel of gRPC, and the one whether it is alive."""
    request = _find("ray.core.generated.gcs_service_pb2", "CheckAliveRequest")
    return _find("ray.core.generated.gcs_service_pb2_grpc", "NodeInfoGcsServiceStub")(channel), request()


def grpc_channel(address: str) -> Any:
    """A channel of gRPC to a Ray, with its token where it wants one."""
    make = _find("ray._private.grpc_utils", "init_grpc_channel") or _find("ray._private.utils", "init_grpc_channel")
    return make(address)


# -- actors -------------------------------------------------------------------------------------------------------


def remote_class(cls: type) -> Any:
    """``ray.remote(cls)``, which processes that have another version of the class can load.

    Ray's copy of a class has a wrapper of each method, for tracing, that leads to the method by its name. Where that
    version has no such method the copy cannot be loaded, and a handle there takes no positional arguments (Ray 2.60).
    Without the wrappers only the class has to be found.
    """
    made: Any = ray.remote(cls)
    is_traced = _find("ray.util.tracing.tracing_helper", "_is_tracing_enabled")
    copy = getattr(getattr(made, "__ray_metadata__", None), "modified_class", None)
    if copy is not None and is_traced is not None and not is_traced():
        for name in vars(cls).keys() & vars(copy).keys():
            if callable(vars(cls)[name]):
                delattr(copy, name)
    return made


# -- tasks --------------------------------------------------------------------------------------------------------


def method_that_ray_called(function: Callable[..., Any]) -> str:
    """The name by which Ray has called `function`, which runs now, as a method of an actor; else empty.

    For versions of Ray that do not tell the name of a task. Empty for an async method, which is not below Ray's frames.
    """
    frame = sys._getframe()
    while frame.f_code is not function.__code__:
        if frame.f_back is None:
            return ""
        frame = frame.f_back
    caller = frame.f_back
    while caller is not None and caller.f_globals.get("__name__", "").startswith("ray."):
        if caller.f_code.co_name == "actor_method_executor":
            return str(caller.f_locals.get("method_name", ""))
        caller = caller.f_back
    return ""


# -- joining a cluster ----------------------------------------------------------------------------------------------

_enable_token = _find(
    "ray._private.authentication.authentication_token_setup", "maybe_enable_token_auth_if_token_available"
)


class _NeverRaised(Exception):
    """In place of an error that this version of Ray lacks."""


AuthenticationError: type[Exception] = _find("ray.exceptions", "AuthenticationError") or _NeverRaised
"""Ray refuses this process for the want of a token."""


def enable_found_token() -> None:
    """Use the token that lies on this machine, as ``ray.init()`` without an address does."""
    if _enable_token is not None:
        _enable_token(warn_if_disabled=False)


def has_raylet() -> bool:
    """Whether this machine is a node of a Ray cluster."""
    find = _find("ray._private.services", "find_node_ids") or _find("ray._private.services", "find_gcs_addresses")
    return find is None or bool(find())


def bootstrap_address(address: str) -> str | None:
    """The GCS that ``ray.init`` would join. Raises ``ConnectionError`` if there is none."""
    found: str | None = _find("ray._private.services", "canonicalize_bootstrap_address")(address)
    return found


def connect_lock() -> AbstractContextManager[Any]:
    """What ``ray.init()`` and ``ray.shutdown()`` hold while they run; nothing before Ray 2.50."""
    return getattr(ray._private.worker, "_connect_or_shutdown_lock", None) or nullcontext()
