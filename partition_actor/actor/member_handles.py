"""The handles of the members that are actors, at the partition actor, for those who want to call them.

They come with heartbeats, for the death watch; none of them keeps an actor alive. Pure, but for what a handle is.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from partition_actor.core.epochs import COUNTER_BITS
from partition_actor.core.group import Group
from partition_actor.core.messages import SessionKey


class MemberHandles:
    """The handle of each session that has one.

    Each registration has a number, so that whoever asks again is told of what is new alone. Numbers grow from one
    partition actor to the next, as its incarnations do.
    """

    def __init__(self, incarnation: int) -> None:
        self._numbers = count(incarnation << COUNTER_BITS)
        self._latest = 0
        self._handles: dict[SessionKey, tuple[int, Any]] = {}

    def register(self, key: SessionKey, handle: Any) -> None:
        """Note the handle of the actor that a session lives in; None where it is a task or a driver."""
        if handle is None:
            return
        self._latest = next(self._numbers)
        self._handles[key] = (self._latest, handle)

    def forget(self, key: SessionKey) -> None:
        """The session is over."""
        self._handles.pop(key, None)

    def of(self, group: Group, since: int) -> dict[str, Any]:
        """The handles of a group's members that were registered after number `since`, as `get_actors` returns them."""
        sessions = dict(group.participants.keys()) if group.recovering else group.sessions
        known = {member: self._handles.get((member, session), (-1, None)) for member, session in sessions.items()}
        actors = {member: handle for member, (number, handle) in known.items() if number > since}
        return {"actors": actors, "upto": max(since, self._latest), "complete": not group.recovering}
