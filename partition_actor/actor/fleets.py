"""What controllers tell of their fleets, for whoever looks. It decides nothing, and no crash need preserve it.

A status is kept pickled, as metadata is: so neither a long one nor many hold up the event loop when somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from partition_actor.arguments import check_number, check_text, refuse
from partition_actor.metadata import OpenedByReader, pickled_builtins

MAX_FLEETS = 1_000
MAX_STATUS_BYTES = 1 << 20
"""Bytes of one status, pickled. The controller tells of 500 workers, which have half of that."""
MAX_BYTES = 32 << 20
"""Bytes of all."""
FORGOTTEN_AFTER = 30.0
"""Seconds. A controller tells every 2 s."""

_NUMBER = (int, float)
_NONE = type(None)
_STATUS = {
    **dict.fromkeys(("name", "group", "update_failed"), str),
    **dict.fromkeys(("size", "serving", "version", "restarts"), int),
    **dict.fromkeys(("ready", "updating", "stopping", "over"), bool),
    **dict.fromkeys(("workers", "waiting", "events"), list),
}
_PARTS: dict[str, dict[str, Any]] = {
    "workers": {
        **dict.fromkeys(("slot", "version", "restarts"), int),
        **dict.fromkeys(("member_id", "phase", "reason"), str),
        "seconds": _NUMBER,
        "node": (str, _NONE),
        "pid": (int, _NONE),
        "load": (*_NUMBER, _NONE),
    },
    "waiting": {"slot": int, "seconds": _NUMBER, "reason": str},
    "events": {"seconds_ago": _NUMBER, "what": str},
}
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class NotedFleet:
    """The latest status of a fleet, and what metrics record of it."""

    at: float
    group: str
    size: int
    serving: int
    ready: bool
    updating: bool
    update_failed: bool
    restarts: int
    """In the life of its controller."""
    counted: int
    """Restarts since this partition actor was first told of it."""
    load: float | None
    """The mean of the workers that tell one."""
    packed: bytes


class Fleets:
    """The fleets of which somebody has told lately."""

    def __init__(self) -> None:
        self._noted: dict[str, NotedFleet] = {}
        """By name, the one longest not told of first."""
        self._bytes = 0

    def note(self, now: float, status: Any) -> None:
        """Keep a status in place of what was told before. Raises ``InvalidArgument``."""
        self._forget_old(now)
        packed = _packed(status)
        name, group = check_text("status, name", status["name"]), check_text("status, group", status["group"])
        former = self._noted.get(name)
        if status["over"]:
            self._forget(name)
            return
        if former is None and len(self._noted) >= MAX_FLEETS:
            refuse("status, name", name, f"one of the {MAX_FLEETS} fleets that are known already, which is the most")
        others = self._bytes - (len(former.packed) if former is not None else 0)
        if others + len(packed) > MAX_BYTES:
            refuse("status", status, f"at most {MAX_BYTES} bytes for all fleets together, not {others + len(packed)}")
        restarts, counted = status["restarts"], 0
        if former is not None:  # a controller that Ray has restarted begins with 0
            counted = former.counted + restarts - (former.restarts if restarts >= former.restarts else 0)
        self._forget(name)
        self._bytes += len(packed)
        self._noted[name] = NotedFleet(
            now,
            group,
            status["size"],
            status["serving"],
            status["ready"],
            status["updating"],
            bool(status["update_failed"]),
            restarts,
            counted,
            _mean_load(status["workers"]),
            packed,
        )

    def told(self, now: float, name: str | None = None) -> dict[str, Any]:
        """What was told, by name, with ``seconds_ago``; with a `name`, of that fleet only. For a reply."""
        self._forget_old(now)
        names = sorted(self._noted) if name is None else [name] if name in self._noted else []
        return {
            each: OpenedByReader(self._noted[each].packed, seconds_ago=now - self._noted[each].at) for each in names
        }

    def noted(self, now: float) -> Mapping[str, NotedFleet]:
        """All fleets by name."""
        self._forget_old(now)
        return self._noted

    def _forget_old(self, now: float) -> None:
        while self._noted and next(iter(self._noted.values())).at < now - FORGOTTEN_AFTER:
            self._forget(next(iter(self._noted)))

    def _forget(self, name: str) -> None:
        gone = self._noted.pop(name, None)
        if gone is not None:
            self._bytes -= len(gone.packed)


def _packed(status: Any) -> bytes:
    """A status, pickled, when it has all that readers need. Raises ``InvalidArgument``."""
    if not isinstance(status, dict):
        refuse("status", status, f"a dict, not {type(status).__name__}")
    try:
        packed = pickled_builtins(status)
    except Exception:
        refuse("status", status, "a dict of builtins")
    if len(packed) > MAX_STATUS_BYTES:
        refuse("status", status, f"at most {MAX_STATUS_BYTES} bytes when pickled, not {len(packed)}")
    _check("status", status, _STATUS)
    for field in ("size", "serving", "version", "restarts"):
        check_number(f"status, {field}", status[field], 0, _LARGEST)
    for part, fields in _PARTS.items():
        for each in status[part]:
            _check(f"status, {part}", each, fields)
    return packed


def _check(name: str, value: Any, fields: Mapping[str, Any]) -> None:
    if not isinstance(value, dict) or not fields.keys() <= value.keys():
        lacking = sorted(fields.keys() - value.keys()) if isinstance(value, dict) else sorted(fields)
        refuse(name, value, f"a dict with {', '.join(lacking)}")
    for field, kind in fields.items():
        found = value[field]
        is_odd = (
            isinstance(found, float) and not math.isfinite(found) and field != "load"
        )  # a load is the worker's word
        if not isinstance(found, kind) or is_odd or (isinstance(found, int) and abs(found) > _LARGEST):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            named = " or ".join("None" if each is _NONE else each.__name__ for each in kinds)
            refuse(f"{name}, {field}", found, named)


def _mean_load(workers: list[dict[str, Any]]) -> float | None:
    loads = [float(each["load"]) for each in workers if each["load"] is not None and math.isfinite(each["load"])]
    return sum(loads) / len(loads) if loads else None
