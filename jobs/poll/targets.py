"""Parse an item of the YAML's ``targets`` into a resource id."""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx

_TCP = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):(?P<port>[^/:]*)")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


class TargetError(ValueError):
    """A target is malformed, or its file or directory does not exist; the message is one line."""


def parse_target(text: str, base: Path) -> str:
    """Return the resource id of a target.

    Args:
        text: ``http://…`` or ``https://…``; ``host:port``, with an IPv6 host in brackets; otherwise the path of a file
            or directory. Write ``./`` before a path that contains a colon.
        base: the directory at which a relative path starts.

    Returns:
        ``http://…``, ``https://…``, ``tcp:host:port``, ``file:/absolute/path`` or
        ``directory:/absolute/path``.

    Raises:
        TargetError: it is none of these, or the path does not exist.
    """
    if not text.strip():
        raise TargetError("target '': expected a path, host:port or an HTTP URL")
    if scheme := _SCHEME.match(text):
        return _url(text, scheme["scheme"])
    if tcp := _TCP.fullmatch(text):
        return _tcp(text, tcp["host"], tcp["port"])
    return _path(text, base)


def _url(text: str, scheme: str) -> str:
    if scheme.lower() not in ("http", "https"):
        raise TargetError(f"target {text!r}: {scheme}:// is not known; expected http:// or https://")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise TargetError(f"target {text!r}: {error}") from None
    if not url.host:
        raise TargetError(f"target {text!r}: the URL has no host")
    return str(url)


def _tcp(text: str, host: str, port: str) -> str:
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise TargetError(f"target {text!r}: the port must be a number from 1 to 65535")
    return f"tcp:{host}:{int(port)}"


def _path(text: str, base: Path) -> str:
    try:
        path = (base / Path(text).expanduser()).resolve()
        if path.is_dir():
            if not os.access(path, os.R_OK | os.X_OK):
                raise TargetError(f"target {text!r}: the directory is not readable")
            return f"directory:{path}"
        if path.exists():
            return f"file:{path}"
    except TargetError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise TargetError(f"target {text!r}: {error}") from None
    raise TargetError(f"target {text!r}: no such file or directory, and no host:port or HTTP URL")
