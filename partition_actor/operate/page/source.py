"""Where the page has its data from: the partition actor, however it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Away(Exception):
    """The partition actor cannot be asked now; the message says why, in one sentence."""


class Absent(Away):
    """There is no such partition actor, but the Ray that would have it answers."""


class Refused(Exception):
    """The partition actor has answered that it will not do this; the message is its own."""


class Source(Protocol):
    """What the page asks for. Every method raises `Away` or `Refused`."""

    async def observe(self, groups: Sequence[str], since: int) -> dict[str, Any]:
        """As ``handle.observe``."""

    async def drain(self, group: str, member_id: str) -> None:
        """As ``handle.drain``."""

    async def forget(self, group: str, member_id: str) -> None:
        """As ``handle.forget``."""
