"""Words and numbers for people, and the console that shows them."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any, NoReturn

from rich.console import Console

Epoch = Any
"""``(incarnation, counter)`` or None, as a reply has it."""

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
_WIDTH_OF_PIPES = 500
"""Columns where there is no terminal: nothing is cut off that a program might look for."""


class QuietConsole(Console):
    """Leaves a closed pipe to the command line, which ends without a word."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise what rich has caught."""
        raise BrokenPipeError


def console() -> Console:
    """The console for results. It has colours only on a terminal, and none with ``NO_COLOR``."""
    made = QuietConsole(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not made.is_terminal and not os.environ.get("COLUMNS"):
        made.width = _WIDTH_OF_PIPES
    return made


def printable(text: object) -> str:
    """`text` with escapes in place of what would move the cursor or hide something: ids are anybody's choice."""
    shown = str(text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def seconds(value: float | None) -> str:
    """A duration: ``4 ms``, ``2.1 s``, ``12 min``, ``3 h``, ``5 d``; a dash for None."""
    if value is None:
        return "-"
    for unit, name in _UNITS:
        if value >= 2 * unit:
            return f"{value / unit:.0f} {name}"
    if value >= 10:
        return f"{value:.0f} s"
    return f"{value:.1f} s" if value >= 0.0995 else f"{value * 1000:.0f} ms"


def duration(text: str) -> float | None:
    """The seconds of ``90s``, ``10m``, ``2h`` or ``1d``; None for any other text."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    factors = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
    return float(found[1]) * factors[found[2]] if found else None


def percent(share: float) -> str:
    """A share of 0 to 1."""
    return f"{100 * share:.1f}%"


def counter(epoch: Epoch, current: Epoch = None) -> str:
    """An epoch by its counter; with an apostrophe if it is of another incarnation than the `current` one."""
    if epoch is None:
        return "-"
    return f"{epoch[1]}{chr(39) if current is not None and epoch[0] != current[0] else ''}"


def short(node: str | None) -> str:
    """The first characters of an id in hex."""
    return node[:6] if node else "-"


def clock(unix_time: float) -> str:
    """Local date and time, to the millisecond."""
    whole, milliseconds = divmod(round(unix_time * 1000), 1000)
    return f"{time.strftime('%m-%d %H:%M:%S', time.localtime(whole))}.{milliseconds:03d}"


def some(names: list[str], most: int = 5, total: int | None = None) -> str:
    """Names in a row: at most `most`, and how many more there are."""
    more = (len(names) if total is None else total) - min(len(names), most)
    shown = ", ".join(map(printable, names[:most]))
    return f"{shown} and {more} more" if more > 0 else shown


def plural(number: int, noun: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def to_json(value: object, *, line: bool = False) -> str:
    """JSON in ASCII, so that no locale and no odd text can break it; on one `line` for streams."""
    return json.dumps(_plain(value), indent=None if line else 2, allow_nan=False)


def _plain(value: Any) -> Any:
    """The same of dicts, lists, text and numbers only: metadata may hold any builtin."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value), key=repr)
    if isinstance(value, (bytes, bytearray)):
        return {"hex": value.hex()}
    if isinstance(value, float) and value - value != 0:  # infinite, or not a number
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key for sorting by which ``agent-2`` comes before ``agent-10``."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]
