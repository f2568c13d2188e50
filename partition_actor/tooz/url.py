"""What a ``ray://`` URL says (the form is in ``driver``), and connecting to the Ray that it names."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
import tooz
import yaml
from tooz import coordination, utils

from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import InvalidSettings
from partition_actor.ray_access import refusal_at
from partition_actor.settings import Settings

PORT = 6379
"""The default port of Ray's GCS."""
TIMEOUT = 30.0
"""Seconds without a heartbeat after which a member leaves its groups; the default of tooz's other drivers."""
REACHABLE_WITHIN = 5.0
"""Seconds within which an address must accept a TCP connection; Ray itself would try for much longer."""
TIMEOUTS = ("timeout", "membership_timeout", "lock_timeout")


@dataclass(frozen=True)
class RayUrl:
    """Which Ray, which partition actor, and the timeouts and settings of the member. Times are in seconds."""

    host: str | None
    port: int
    namespace: str
    name: str
    membership_timeout: float
    lock_timeout: float
    settings: Settings
    deploy_settings: Settings | None
    """The settings of a partition actor that this driver deploys; None if the URL gives none."""

    @classmethod
    def of(cls, url: Any, options: dict[str, Any]) -> RayUrl:
        """Read a URL split by ``oslo_utils``. Raises ``ToozError`` for a wrong path or option."""
        path = [part for part in url.path.split("/") if part]
        if len(path) > 2:
            raise tooz.ToozError(f"URL: got the path {url.path!r}, expected /[namespace/][name]")
        given = {
            name: yaml.safe_load(value) if isinstance(value, str) else value
            for name, value in utils.collapse(options).items()
        }
        known = (*TIMEOUTS, *Settings.model_fields)
        if unknown := sorted(given.keys() - known):
            raise tooz.ToozError(f"option {unknown[0]}: there is no such option, expected one of {', '.join(known)}")
        timeout = _seconds("timeout", given, TIMEOUT)
        try:
            settings = Settings(**{name: value for name, value in given.items() if name not in TIMEOUTS})
        except InvalidSettings as error:
            raise tooz.ToozError(f"option {error}") from error
        return cls(
            url.hostname or None,
            url.port or PORT,
            path[0] if len(path) == 2 else NAMESPACE,
            path[-1] if path else NAME,
            _seconds("membership_timeout", given, timeout),
            _seconds("lock_timeout", given, timeout),
            settings,
            settings if given.keys() - {*TIMEOUTS, "call_timeout"} else None,
        )


def _seconds(name: str, given: dict[str, Any], default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise tooz.ToozError(f"option {name}: got {value!r}, expected a number of seconds above 0")
    return float(value)


def connect_to_ray(url: RayUrl) -> None:
    """Connect this process to Ray unless it is connected. Raises ``ToozConnectionError``; starts no Ray."""
    if ray.is_initialized():
        if url.host is not None and not _is_connected_to(url.host, url.port):
            here = ray.get_runtime_context().gcs_address
            raise coordination.ToozConnectionError(
                f"this process is connected to the Ray at {here} and cannot connect to {url.host}:{url.port} as well"
            )
        return
    address = f"{url.host}:{url.port}" if url.host else os.environ.get("RAY_ADDRESS", "auto")
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), REACHABLE_WITHIN).close()
        if refusal := refusal_at(address):
            raise coordination.ToozConnectionError(refusal)
        ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"no Ray answers at {address}" if address != "auto" else "no Ray runs on this machine"
        raise coordination.ToozConnectionError(f"{problem}, and this driver starts none: {error}") from error


def _is_connected_to(host: str, port: int) -> bool:
    here, _, its_port = ray.get_runtime_context().gcs_address.rpartition(":")
    if int(its_port) != port:
        return False
    local = {"127.0.0.1", "::1", ray.util.get_node_ip_address()}  # type: ignore[no-untyped-call]
    asked, connected = _addresses(host), _addresses(here.strip("[]"))
    return bool(asked & connected) or (bool(asked & local) and bool(connected & local))


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return {host}
