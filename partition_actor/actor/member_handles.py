"""Keeps the handles of members that are actors, for those who want to call them.

Handles come with heartbeats, for the death watch. None of them keeps an actor alive.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from partition_actor.core.epochs import COUNTER_BITS
from partition_actor.core.group import Group
from partition_actor.core.messages import SessionKey


class MemberHandles:
    """The handle of each session that has one.

    Each registration has a number, so that a caller can ask for newer ones only. Numbers grow from one partition actor
    to the next, as incarnations do.
    """

    def __init__(self, incarnation: int) -> None:
        self._numbers = count(incarnation << COUNTER_BITS)
        self._latest = 0
        self._handles: dict[SessionKey, tuple[int, Any]] = {}

    def register(self, key: SessionKey, handle: Any) -> None:
        """Store the handle of a session's actor; None for a task or a driver, which has none."""
        if handle is not None:
            self._latest = next(self._numbers)
            self._handles[key] = (self._latest, handle)

    def forget(self, key: SessionKey) -> None:
        """Drop the handle of a session that is over."""
        self._handles.pop(key, None)

    def of(self, group: Group, since: int, *, complete: bool = True) -> dict[str, Any]:
        """The handles of a group's members with a registration number above `since`, as `get_actors` returns them."""
        sessions = dict(group.participants.keys()) if group.recovering else group.sessions
        known = {member: self._handles.get((member, session), (-1, None)) for member, session in sessions.items()}
        actors = {member: handle for member, (number, handle) in known.items() if number > since}
        return {"actors": actors, "upto": max(since, self._latest), "complete": complete and not group.recovering}
