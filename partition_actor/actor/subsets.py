"""Finds a member's keys among those that a caller of ``get_subset`` gave, in slices so that others are served between.

Keys that come as a numpy or Arrow array are answered with an array of the same kind, any others with a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from itertools import chain, compress, islice
from typing import Any

import numpy as np

from partition_actor.core.share import Share
from partition_actor.ring import Arcs
from partition_actor.ring.byte_cache import ByteCache
from partition_actor.ring.hash_space import hash_keys, iterate_keys

SLICE = 4096
"""Keys that are looked at in one turn of the event loop: about a millisecond of work."""
KEPT_BYTES = 32 << 20
"""Of the lists that are kept, and the answers."""
_BYTES_PER_KEY = 72  # of a text, beside its characters, and of the references to it


class Subsets:
    """Finds subsets, for several callers that take turns.

    Callers ask with the same short lists again and again, so recent answers are kept.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._kept: ByteCache[tuple[Share, list[str], list[str]]] = ByteCache(KEPT_BYTES)
        """By caller: the share, the keys and those of them that are in the share."""

    async def of(self, share: Share, items: Any, caller: Hashable) -> Any:
        """Those of `items`, as ``arguments.check_keys`` allows them, that are in the share, in their order.

        Of all callers one looks at one slice in each turn of the event loop.
        """
        if share.arcs is None:
            return items[:0] if _is_array(items) else []
        if not isinstance(items, list) or len(items) > SLICE:
            return await self._of_many(share.arcs, items)
        kept = self._kept.get(caller)
        if kept is not None and kept[0] is share and kept[1] == items:
            return kept[2]
        mine = _chosen(share.arcs, items, items)
        if set(map(type, items)) == {str}:  # other keys may be equal and have another text
            self._kept.put(caller, (share, items, mine), sum(map(len, items)) + _BYTES_PER_KEY * len(items))
        return mine

    async def _of_many(self, arcs: Arcs, items: Any) -> Any:
        mine: list[Any] = []
        slices = _slices_of_array(items) if _is_array(items) else _slices(items)
        while True:
            async with self._turn:
                each = next(slices, None)
                if each is None:
                    return _joined(items, mine)
                mine.append(_chosen(arcs, *each))
                await asyncio.sleep(0)


def _is_array(items: Any) -> bool:
    return isinstance(items, np.ndarray) or hasattr(items, "to_pylist")  # as Arrow's have


def _slices(items: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each slice as it is answered, and its keys."""
    keys = iter(items)
    while chunk := list(islice(keys, SLICE)):
        yield chunk, chunk


def _slices_of_array(items: Any) -> Iterator[tuple[Any, list[Any]]]:
    for at in range(0, len(items), SLICE):
        part = items[at : at + SLICE]
        yield part, list(iterate_keys(part))


def _chosen(arcs: Arcs, part: Any, keys: list[Any]) -> Any:
    mask = arcs.contains(hash_keys(keys, arcs.function))
    if part is keys:
        return list(compress(keys, mask.tolist()))
    return part[mask] if isinstance(part, np.ndarray) else part.filter(mask)


def _joined(items: Any, parts: list[Any]) -> Any:
    if isinstance(items, np.ndarray):
        return np.concatenate([items[:0], *parts])
    if not hasattr(items, "to_pylist"):
        return list(chain.from_iterable(parts))
    import pyarrow as pa

    if isinstance(items, pa.ChunkedArray):
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], items.type)
    return pa.concat_arrays([items[:0], *parts])
