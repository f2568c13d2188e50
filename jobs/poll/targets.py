"""Targets, from text to resource ids, and lists of them in files or from commands."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import httpx

from jobs.driver.machine import DISCOVERED, kind_of

_TCP = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):(?P<port>[^/:]*)")
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")


REMOTE = ("tcp", "http", "https")
"""The kinds of resources that any machine can poll."""


class TargetList(NamedTuple):
    """A list of targets, one a line, that is read again in each cycle; ``#`` begins a comment."""

    file: Path | None  # or else it is what the command prints
    command: tuple[str, ...]
    base: Path  # of relative paths in the list, and the command's working directory

    def __str__(self) -> str:
        return str(self.file) if self.file else shlex.join(self.command)


Discovery = str | TargetList
"""A kind of ``driver.machine.DISCOVERED``, ``local`` for all of them, or a list of targets."""


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


def parse_discovery(text: object, base: Path) -> Discovery:
    """Return an item of a source's ``discovery``: ``local``, a kind, ``file:PATH`` or ``command:PROGRAM ARGUMENTS``.

    Raises:
        TargetError: it is none of these, or there is no such file or program.
    """
    kind, _, rest = str(text).partition(":")
    if text == "local" or text in DISCOVERED:
        return str(text)
    if kind == "file":
        path = base / rest
        if not path.is_file():
            raise TargetError(f"discovery {text!r}: there is no file {path}")
        return TargetList(path, (), path.parent)
    if kind != "command":
        expected = f"local, {', '.join(DISCOVERED)}, file:PATH or command:PROGRAM"
        raise TargetError(f"discovery {text!r}: expected {expected}")
    try:
        program, *arguments = shlex.split(rest) or [""]
    except ValueError as error:
        raise TargetError(f"discovery {text!r}: {error}") from None
    found = shutil.which(base / program if "/" in program else program)
    if not found:
        raise TargetError(f"discovery {text!r}: there is no program {program!r}")
    return TargetList(None, (str(found), *arguments), base)


class Lists:
    """What the lists of targets said last."""

    def __init__(self, limit: float, say: Callable[[str], None]) -> None:
        """Create them, empty. A command may take ``limit`` seconds; ``say`` tells of failures."""
        self._limit = limit
        self._say = say
        self._last: dict[TargetList, list[str]] = {}
        self._told: dict[TargetList, str] = {}

    async def read(self, lists: Iterable[Discovery]) -> list[str]:
        """Return the resource ids that are in the lists now; of one that fails, those that it had last."""
        found: list[str] = []
        for each in lists:
            if isinstance(each, TargetList):
                await self._read(each)
                found += self._last.get(each, [])
        return found

    async def _read(self, listed: TargetList) -> None:
        problems = []
        try:
            text = listed.file.read_text() if listed.file else await self._run(listed)
        except (OSError, ValueError) as error:
            problems = [f"{error}; its last list is kept"]
        else:
            self._last[listed] = targets = []
            for line in (line.partition(" #")[0].strip() for line in text.splitlines()):
                try:
                    if line and not line.startswith("#"):
                        targets.append(parse_target(line, listed.base))
                except TargetError as error:
                    problems.append(str(error))
        told = "; ".join(problems[:3])
        if told != self._told.get(listed, ""):  # not again in each cycle
            self._say(f"{listed}: {told or 'is all right again'}")
        self._told[listed] = told

    async def _run(self, listed: TargetList) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *listed.command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, cwd=listed.base, start_new_session=True
        )
        try:
            out, _ = await asyncio.wait_for(process.communicate(), self._limit)
        except asyncio.TimeoutError:
            raise ValueError(f"took more than {self._limit:g} s") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):  # and what it has started
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            raise ValueError(f"ended with status {process.returncode}")
        return out.decode()


def is_remote(resource_id: str) -> bool:
    """Return whether any machine can poll it."""
    return kind_of(resource_id) in REMOTE
