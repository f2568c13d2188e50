"""What a ``ray://`` URL of tooz says: see ``tooz_driver``."""

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
from partition_actor.settings import Settings

PORT = 6379
"""Where Ray's head listens by default."""
TIMEOUT = 30.0
"""Seconds without a heartbeat after which a member is out, as in tooz's other drivers."""
REACHABLE_WITHIN = 5.0
"""Seconds in which an address must take a TCP connection; Ray itself would go on trying for far longer."""
TIMEOUTS = ("timeout", "membership_timeout", "lock_timeout")


@dataclass(frozen=True)
class RayUrl:
    """Which Ray, which partition actor, and how to be its member."""

    host: str | None
    port: int
    namespace: str
    name: str
    membership_timeout: float
    lock_timeout: float
    settings: Settings
    wanted: Settings | None
    """The settings for a partition actor that is deployed, when the URL gives any."""

    @classmethod
    def of(cls, url: Any, options: dict[str, Any]) -> RayUrl:
        """Read a URL as ``oslo_utils`` has split it. Raises ``ToozError`` for what it cannot mean."""
        path = [part for part in url.path.split("/") if part]
        if len(path) > 2:
            raise tooz.ToozError(f"URL: got the path {url.path!r}, expected /[namespace/][name]")
        given = {name: _value(value) for name, value in utils.collapse(options).items()}
        unknown = sorted(given.keys() - {*TIMEOUTS, *Settings.model_fields})
        if unknown:
            known = ", ".join((*TIMEOUTS, *Settings.model_fields))
            raise tooz.ToozError(f"option {unknown[0]}: there is none of that name; they are {known}")
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


def _value(value: Any) -> Any:
    return yaml.safe_load(value) if isinstance(value, str) else value


def _seconds(name: str, given: dict[str, Any], default: float) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise tooz.ToozError(f"option {name}: got {value!r}, expected a number of seconds above 0")
    return float(value)


def join_ray(target: RayUrl) -> None:
    """Connect this process to Ray, if it is not connected. Raises ``ToozConnectionError``."""
    if ray.is_initialized():
        if target.host is not None and not _is_connected_to(target.host, target.port):
            here = ray.get_runtime_context().gcs_address
            raise coordination.ToozConnectionError(
                f"this process is connected to the Ray at {here} and not to {target.host}:{target.port}, and it can "
                "have only one"
            )
        return
    address = f"{target.host}:{target.port}" if target.host else os.environ.get("RAY_ADDRESS", "auto")
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), REACHABLE_WITHIN).close()
        ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        what = "no Ray runs here, and none is started" if address == "auto" else f"no Ray answers at {address}"
        raise coordination.ToozConnectionError(f"{what}: {error}") from error


def _is_connected_to(host: str, port: int) -> bool:
    here, _, its_port = ray.get_runtime_context().gcs_address.rpartition(":")
    if int(its_port) != port:
        return False
    own = {"127.0.0.1", "::1", ray.util.get_node_ip_address()}  # type: ignore[no-untyped-call]
    asked = _addresses(host)
    there = _addresses(here.strip("[]"))
    return bool(asked & there) or (bool(asked & own) and bool(there & own))


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return {host}
