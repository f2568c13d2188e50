"""What a member tells of itself, as bytes that the partition actor carries and never opens.

The member packs it when it joins. Whoever asks for it opens it in its own process: builtins at once, as any process
can; anything else is left to the reader as a pickle, because only some processes can import its class.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import ray.cloudpickle

from partition_actor.arguments import MAX_METADATA_BYTES, check_metadata, refuse

_BUILTINS = b"b"
_OTHER = b"o"


def pack_metadata(value: object) -> bytes | None:
    """None or a dict with str keys, pickled. Raises ``InvalidArgument``, also when it cannot be or is too large."""
    checked = check_metadata(value)
    if checked is None:
        return None
    try:
        packed = _BUILTINS + pickled_builtins(checked)
    except Exception:
        try:
            packed = _OTHER + ray.cloudpickle.dumps(checked)  # type: ignore[no-untyped-call]
        except Exception as error:
            refuse("metadata", checked, f"values that can be pickled ({error})")
    if len(packed) > MAX_METADATA_BYTES:
        refuse("metadata", checked, f"at most {MAX_METADATA_BYTES} bytes when pickled, not {len(packed)}")
    return packed


def readable_metadata(packed: bytes | None) -> Any:
    """What to put into a reply: its reader gets the dict if that holds builtins only, and else its pickle as bytes."""
    if packed is None:
        return None
    kind, pickled = packed[:1], packed[1:]
    return OpenedByReader(pickled) if kind == _BUILTINS else pickled


class OpenedByReader:
    """Becomes what was pickled in the process that unpickles it, which need not have this library.

    `more` are items for it, if it is a dict.
    """

    def __init__(self, pickled: bytes, **more: Any) -> None:
        self._pickled, self._more = pickled, more

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes], None, None, Iterator[tuple[str, Any]] | None]:
        return pickle.loads, (self._pickled,), None, None, iter(self._more.items()) if self._more else None


class _BuiltinsPickler(pickle.Pickler):
    """Refuses what would be pickled by the name of a class or function."""

    def reducer_override(self, value: object) -> NoReturn:
        raise pickle.PicklingError


def pickled_builtins(value: object) -> bytes:
    """`value` pickled. Raises when something in it is no builtin, among others."""
    buffer = io.BytesIO()
    _BuiltinsPickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()
