"""Which member owns a key, computed here from the members and weights that the partition actor tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from partition_actor.operate.connection import ask
from partition_actor.operate.options import USAGE, Failure
from partition_actor.ring import Ring

LONGEST_LINE = 1 << 20
"""Bytes. What is longer is no list of keys."""
PATIENCE = 5.0
"""Seconds. A change of members takes a moment to be published."""
_BOM = b"\xef\xbb\xbf"


def published_ring(handle: Any, group: str) -> tuple[Ring, dict[str, Any]]:
    """The ring of a group's published epoch, and the group's status.

    While a weight changes, the status may say the next one already: the shares that it tells show that.
    """
    settings = ask(handle, "hello")["settings"]
    until = time.monotonic() + PATIENCE
    while True:
        status = ask(handle, "status", group)
        members = {member["id"]: member for member in status["members"] if member["has_place"]}
        weights = {name: member["weight"] for name, member in members.items()}
        ring = Ring(weights, settings["vnodes"], settings["hash_function"])
        share = ring.share()
        if all(abs(share[name] - member["share"]) < 1e-9 for name, member in members.items()):
            return ring, status
        if time.monotonic() > until:
            raise Failure(f"group {group!r} does not come to rest: try again, or compare versions with `doctor`")
        time.sleep(0.05)


def checked(key: str) -> str:
    """A key from the command line. Raises ``Failure`` for one that is not UTF-8."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise Failure(f"key {key!r} is not UTF-8", USAGE) from None
    return key


def read_keys(file: BinaryIO, name: str) -> Iterator[str]:
    r"""The keys of a file, one a line, as a stream. A line ends with ``\n`` or ``\r\n``; empty ones are left out.

    Raises ``Failure``, which names the line, for what is not UTF-8 or longer than a mebibyte.
    """
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            raise Failure(f"{name}:{number}: longer than {LONGEST_LINE} bytes, expected one key a line", USAGE)
        if number == 1:
            content = content.removeprefix(_BOM)
        try:
            key = content.decode()
        except UnicodeDecodeError as error:
            byte = content[error.start]
            raise Failure(
                f"{name}:{number}: byte 0x{byte:02x} at column {error.start + 1} is not UTF-8", USAGE
            ) from None
        if key:
            yield key
