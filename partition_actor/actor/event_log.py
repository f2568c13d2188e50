"""Writes what changes to the log: one line for each change, and one for all groups in which it happens to a session.

A line is a sentence with a stable tail of ``key=value``, as in logfmt: ``event``, ``id`` of the first change, and where
there is one ``member``, ``session``, ``node``, ``pid``, ``group`` (the first three, with commas), ``groups`` (their
number), ``lock``, ``epoch`` of the first change, ``seconds``. A value with other characters than ``A-Za-z0-9`` and
``._:/,+@-`` is written as in JSON, in the sentence too: ids are anybody's choice, and must not forge a line.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from partition_actor import clock
from partition_actor.core.events import Event, Events, What, why

log = logging.getLogger(__name__)

QUIET = 0.2
"""Seconds. A line is written when for so long nothing has been added to it: one death may take many steps."""
LONGEST = 5.0
"""Seconds. Then it is written whatever is still to come."""
AT_ONCE = 50
"""Lines that are written in one turn of the event loop: about a millisecond."""
NAMED = 3
"""Groups that a line names."""

_LEVELS: dict[What, int] = {
    "handed_over": logging.DEBUG,
    "lock_granted": logging.DEBUG,
    "slot": logging.DEBUG,
    "expired": logging.WARNING,
    "died": logging.WARNING,
    "fenced": logging.WARNING,
    "lock_lost": logging.WARNING,
    "lock_broken": logging.WARNING,
    "slot_lost": logging.WARNING,
}
"""Of all others: INFO."""
_VERBS: dict[What, str] = {
    "weight": "changed its weight",
    "drained": "was drained",
    "forgotten": "was forgotten",
    "superseded": "was superseded",
    "ending": "is ending",
    "fenced": "was fenced",
    "lock_granted": "got",
    "lock_lost": "lost",
    "lock_broken": "was made to let go of",
    "leader": "leads",
    "slot": "got a slot",
    "slot_lost": "lost a slot",
    "settings": "has new settings",
}
_PLAIN = re.compile(r"[A-Za-z0-9._:/,+@-]+")


def level(what: What) -> int:
    """The level at which a change is logged."""
    return _LEVELS.get(what, logging.INFO)


@dataclass
class _Line:
    number: int
    event: Event
    groups: list[str]
    """The first of them."""
    count: int
    began: float
    latest: float


class EventLog:
    """Follows the events of one partition actor."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._next = events.since(0)[0]
        self._lines: dict[tuple[What, str | None, str | None, str | None], _Line] = {}
        self._timer: asyncio.TimerHandle | None = None

    def follow(self) -> None:
        """Take in what has been recorded since the last call."""
        if self._next == self._events.next:
            return
        first, events = self._events.since(self._next)
        self._next, now = self._events.next, clock.now()
        for number, event in enumerate(events, first):
            if log.isEnabledFor(level(event.cause.what)):
                self._add(number, event, now)
        if self._lines and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(QUIET, self._on_timer)

    def _add(self, number: int, event: Event, now: float) -> None:
        key = (event.cause.what, event.member, event.session, event.lock)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(number, event, [], 0, now, now)
        line.latest = now
        if event.group is not None:
            line.count += 1
            if len(line.groups) < NAMED:
                line.groups.append(event.group)

    def _on_timer(self) -> None:
        now, self._timer = clock.now(), None
        due = [key for key, line in self._lines.items() if now >= line.latest + QUIET or now >= line.began + LONGEST]
        for key in due[:AT_ONCE]:
            self._write(self._lines.pop(key))
        if self._lines:
            delay = 0.0 if len(due) > AT_ONCE else QUIET
            self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)

    def flush(self) -> None:
        """Write everything now: the process is about to end."""
        for line in self._lines.values():
            self._write(line)
        self._lines.clear()

    def _write(self, line: _Line) -> None:
        log.log(level(line.event.cause.what), "%s", sentence(line.number, line.event, line.groups, line.count))


def sentence(number: int, event: Event, groups: Iterable[str], count: int) -> str:
    """The line of a change that happens in `count` groups, of which `groups` are some."""
    cause, names = event.cause, list(groups)
    what = _VERBS.get(cause.what, cause.what.replace("_", " "))
    where = f" in {_value(names[0])}" if count == 1 else f" in {count} groups" if count else ""
    if cause.what in ("lock_granted", "lock_lost", "lock_broken"):
        where = f" {_value(event.lock)}"
    who = _value(event.member) if event.member else "nobody" if cause.what == "leader" else "the partition actor"
    reason = why(cause)
    reason = reason if reason.isprintable() else json.dumps(reason)[1:-1]
    tail = {
        "event": cause.what,
        "id": number,
        "member": event.member,
        "session": event.session or None,
        "node": None if event.where is None else event.where.node,
        "pid": None if event.where is None else event.where.pid,
        "group": ",".join(names) or None,
        "groups": count or None,
        "lock": event.lock,
        "epoch": None if event.epoch is None else f"{event.epoch[0]}.{event.epoch[1]}",
        "seconds": None if cause.seconds is None else f"{cause.seconds:.3f}",
    }
    pairs = " ".join(f"{key}={_value(value)}" for key, value in tail.items() if value is not None)
    return f"{who} {what}{where}: {reason} {pairs}"


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
