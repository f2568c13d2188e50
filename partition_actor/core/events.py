"""What has changed, when and why: the latest changes, in a ring of fixed size.

Recording one costs about a microsecond, because one death may change thousands of groups. So a change is a tuple, those
of one death share their cause, and texts are made for who asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from partition_actor.core.epochs import Epoch
from partition_actor.core.messages import SessionKey

KEPT = 10_000
"""Changes that are kept."""
AT_ONCE = 500
"""Changes that one answer tells, at most."""
IDS_A_MILLISECOND = 1024
"""Ids begin at the incarnation, which is in milliseconds, times this: so those of a partition actor are higher than its
predecessor's, and a ``float`` of JavaScript holds them."""

What = Literal[
    "started",
    "joined",
    "rejoined",
    "weight",
    "left",
    "expired",
    "died",
    "drained",
    "forgotten",
    "superseded",
    "ending",
    "fenced",
    "recovered",
    "handed_over",
    "lock_granted",
    "lock_lost",
    "lock_broken",
    "leader",
    "slot",
    "slot_lost",
    "settings",
]
"""What a change is. "ending" with a member: its process is about to end; without: the partition actor is shut down."""

BEGINS = frozenset({"joined", "rejoined"})
"""With these a session becomes a member of the published epoch."""
ENDS = frozenset({"left", "expired", "died", "drained", "forgotten", "superseded", "ending"})
"""With these it is one no more. A session that has ended so may still die or expire."""

Why = tuple[Any, ...]
"""A sentence with places for ``str.format``, and what to put there."""


@dataclass(slots=True)
class Where:
    """The process of a session, as soon as it is known."""

    node: str | None = None
    """Ray's id of the node, in hex."""
    pid: int | None = None


class Cause(NamedTuple):
    """What happened to a session, and why: the same for all its groups."""

    what: What
    why: Why = ("",)
    seconds: float | None = None
    where: Where | None = None
    """None: look the session up."""


class Event(NamedTuple):
    """One change."""

    at: float
    """Seconds on the partition actor's clock."""
    cause: Cause
    member: str | None
    session: str | None
    group: str | None
    epoch: Epoch | None
    lock: str | None
    where: Where | None


class Events:
    """The latest changes of one partition actor. `where_of` knows the processes of the sessions that live."""

    def __init__(
        self, incarnation: int, where_of: Callable[[SessionKey], Where | None] = lambda key: None, kept: int = KEPT
    ) -> None:
        self.where_of = where_of
        self._kept: deque[Event] = deque(maxlen=kept)
        self._first = incarnation * IDS_A_MILLISECOND
        self.next = self._first
        """The id of the next change: the cursor behind the latest one."""

    def record(
        self,
        at: float,
        cause: Cause,
        key: SessionKey | None = None,
        group: str | None = None,
        epoch: Epoch | None = None,
        lock: str | None = None,
    ) -> None:
        """Add a change, which drops the oldest one of a full ring."""
        member, session = key or (None, None)
        where = cause.where or (None if key is None else self.where_of(key))
        self._kept.append(Event(at, cause, member, session, group, epoch, lock, where))
        self.next += 1

    def state(self, now: float) -> dict[str, Any]:
        """What `restore` of the next partition actor needs; times are ages in seconds."""
        kept = [
            {
                **event._asdict(),
                "at": now - event.at,
                "cause": tuple(event.cause._replace(where=None)),
                "where": None if event.where is None else (event.where.node, event.where.pid),
            }
            for event in self._kept
        ]
        return {"first": self._first, "next": self.next, "kept": kept}

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with the numbers and the changes of a former partition actor."""
        self._first, self.next = state["first"], state["next"]
        for each in state["kept"]:
            where = None if each["where"] is None else Where(*each["where"])
            known = {name: each[name] for name in Event._fields}
            self._kept.append(
                Event(**{**known, "at": now - each["at"], "cause": Cause(*each["cause"]), "where": where})
            )

    def since(self, number: int) -> tuple[int, list[Event]]:
        """The changes from the one with this id on, and the id of the first of them."""
        oldest = self.next - len(self._kept)
        start = max(oldest, min(number, self.next))
        return start, list(islice(reversed(self._kept), self.next - start))[::-1]  # few of many, as a rule

    def read(self, since: int = 0, group: str | None = None, limit: int = AT_ONCE, zero: float = 0.0) -> dict[str, Any]:
        """The changes numbered `since` or later, of one `group` or of all, oldest first and at most `limit`::

            {"events": [event, ...], "next": int, "missed": int, "more": bool}

        `next` is the `since` of the next call; `more`: there are others by now. `missed`: how many are kept no more; -1
        if `since` is of a former partition actor, so that nobody knows. 0 is where this one began. `zero` is the Unix
        time, in seconds, at which the partition actor's clock showed 0.
        """
        known = since == 0 or self._first <= since <= self.next
        oldest = self.next - len(self._kept)
        start, kept = self.since(since if known else oldest)
        missed = start - max(since, self._first) if known else -1
        told: list[dict[str, Any]] = []
        for number, event in enumerate(kept, start):
            if group is not None and event.group != group:
                continue
            if len(told) == limit:
                return {"events": told, "next": number, "missed": missed, "more": True}
            told.append(_told(number, event, zero))
        return {"events": told, "next": self.next, "missed": missed, "more": False}


def why(cause: Cause) -> str:
    """The cause in one plain sentence."""
    return str(cause.why[0]).format(*cause.why[1:])


def _told(number: int, event: Event, zero: float) -> dict[str, Any]:
    where = event.where or Where()
    return {
        "id": number,
        "time": zero + event.at,
        "what": event.cause.what,
        "group": event.group,
        "epoch": event.epoch,
        "member": event.member,
        "session": event.session,
        "node": where.node,
        "pid": where.pid,
        "lock": event.lock,
        "why": why(event.cause),
        "seconds": event.cause.seconds,
    }
