"""About how much memory a call's arguments take."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from types import FunctionType, ModuleType
from typing import Any

LOOKED_AT = 500
"""Of more objects than that, the others are taken to be as large on average."""
_PLAIN = frozenset({str, bytes, bytearray, int, float, bool, type(None)})


def bytes_of(values: Iterable[Any]) -> int:
    """About how many bytes these values take, with all that they refer to. Runs next to no code of their classes."""
    total = looked_at = 0
    seen: set[int] = set()
    waiting = list(values)
    while waiting and looked_at < LOOKED_AT:
        value = waiting.pop()
        looked_at += 1
        if type(value) in _PLAIN:
            total += sys.getsizeof(value)
        elif id(value) not in seen and not isinstance(value, (type, FunctionType, ModuleType)):
            seen.add(id(value))
            total += _own_bytes(value)
            waiting += gc.get_referents(value)
    return total if not waiting else total + total * len(waiting) // looked_at


def _own_bytes(value: Any) -> int:
    if hasattr(type(value), "nbytes"):  # arrays, tensors and tables
        try:
            return int(value.nbytes)
        except Exception:
            return object.__sizeof__(value)
    if type(value).__module__ in ("builtins", "array", "collections"):
        return sys.getsizeof(value)
    return object.__sizeof__(value)
