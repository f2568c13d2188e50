"""A member's keys out of very many, again and again: hashed once, sorted once, then only looked up.

The index holds the keys' hashes in order, so that an arc of the hash space is a slice of it. Pure: no Ray, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from partition_actor.arguments import refuse
from partition_actor.ring.hash_space import (
    CHUNK,
    Arcs,
    Hashes,
    HashName,
    hash_function_named,
    hash_keys,
    hash_many,
    iterate_keys,
    leading_64_bits,
)
from partition_actor.ring.ring import Ring, Withheld

Key = TypeVar("Key")

# Positions are uint32, to keep an index of millions of keys small.
_MOST_KEYS = (1 << 32) - 1


class KeyIndex(Generic[Key]):
    """The keys of a group, arranged so that asking for a member's costs its arcs and its keys, not all keys.

    Whatever it returns is in the order in which the keys were given (those of ``add`` after those before), and a
    key that was given twice is returned twice. The identity of a key is ``str(key)``, which must not change.

    Args:
        keys: any iterable, a numpy array of one dimension or an Arrow array, as ``Ring.subset`` takes it. The index
            keeps references to the keys.
        hash_function: that of the rings which it will be asked about.

    It takes at most 24 bytes a key beyond the keys themselves: 8 for the hash, 4 for the position, 8 for the
    reference, and room to grow. Not for use by several threads while one of them calls ``add`` or ``discard``.

    Raises:
        InvalidArgument: when ``keys`` cannot be iterated, or ``hash_function`` is unknown.

    >>> from partition_actor.ring.ring import Ring
    >>> index, ring = KeyIndex(["x", "y", "z"]), Ring(["a", "b"])
    >>> sorted(index.subset(ring, "a") + index.subset(ring, "b"))
    ['x', 'y', 'z']
    """

    def __init__(self, keys: Iterable[Key] = (), hash_function: HashName = "xxh3") -> None:
        self._function = hash_function_named(hash_function)
        # Every key at the position at which it was given, with None where one was discarded and in the room to grow.
        # An array, not a list: numpy collects scattered objects in half the time of a loop, which waits for each.
        self._keys: npt.NDArray[np.object_] = np.empty(0, object)
        self._used = 0
        # Parallel arrays, in the order of the full hashes. The leading 64 bits of an md5 tell nearly all keys apart;
        # where they do not, the keys are hashed again, which is cheaper than 8 bytes more for each key.
        self._hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._positions: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        self.add(keys)

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys_at(self._positions))

    def __repr__(self) -> str:
        return f"KeyIndex({len(self)} keys, hash_function={self._function.name!r})"

    @property
    def hash_function(self) -> str:
        """The name of the hash: ``"xxh3"`` or ``"md5"``."""
        return self._function.name

    def subset(self, ring: Ring, member: str, withheld: Withheld = ()) -> list[Key]:
        """The keys that ``member`` owns by ``ring``; none when it is not on the ring.

        Args:
            ring: a ring of the index's hash function.
            member: a member's id.
            withheld: ``(ring, holder)`` pairs; a key that such a ring gives to its holder is left out.

        Raises:
            InvalidArgument: when a ring has another hash function.
        """
        if ring.hash_function != self._function.name:
            refuse("ring", ring, f"a ring whose hash_function is {self._function.name!r}")
        return self._within(ring.arcs(member, withheld))

    def gained(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that are ``member``'s in ``new`` and are not in ``old``; raises as ``subset`` does."""
        return self.subset(new, member, [(old, member)])

    def lost(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that are ``member``'s in ``old`` and are not in ``new``; raises as ``subset`` does."""
        return self.subset(old, member, [(new, member)])

    def add(self, keys: Iterable[Key]) -> None:
        """Take ``keys`` in, each as often as it is given. They are sorted and merged; the others stay sorted.

        ``InvalidArgument`` when ``keys`` cannot be iterated, or there would be 2**32 keys or more.
        """
        added = list(iterate_keys(keys))
        if self._used + len(added) > _MOST_KEYS:
            refuse("keys", len(added), f"at most {_MOST_KEYS - self._used} keys more")
        hashes = hash_many(added, self._function)
        order = hashes.argsort(kind="stable")
        hashes = hashes[order]
        positions = (order + self._used).astype(np.uint32)
        self._append(added)
        if len(self):
            places = self._count_below(hashes)
            self._hashes = np.insert(self._hashes, places, leading_64_bits(hashes))
            self._positions = np.insert(self._positions, places, positions)
        else:
            self._hashes, self._positions = leading_64_bits(hashes), positions

    def discard(self, keys: Iterable[object]) -> None:
        """Forget every occurrence of each of ``keys``; those that are not in the index do not matter.

        ``InvalidArgument`` when ``keys`` cannot be iterated.
        """
        texts = {str(key) for key in iterate_keys(keys)}
        hashes = np.unique(leading_64_bits(hash_many(list(texts), self._function)))
        starts, stops = self._hashes.searchsorted(hashes), self._hashes.searchsorted(hashes, side="right")
        candidates = _ranges(starts, stops)
        found = zip(candidates.tolist(), self._positions[candidates].tolist(), strict=True)
        gone = [at for at, position in found if str(self._keys[position]) in texts]
        self._keys[self._positions[gone]] = None
        self._hashes, self._positions = np.delete(self._hashes, gone), np.delete(self._positions, gone)
        # At a quarter, the holes stay within the 24 bytes a key and closing them is cheap by the key discarded.
        if self._used > len(self) * 1.25:
            self._close_holes()

    def _within(self, arcs: Arcs) -> list[Key]:
        bounds = self._count_below(arcs.toggles)
        if arcs.from_zero:
            bounds = np.concatenate([[0], bounds, [len(self)]])
        return self._keys_at(self._positions[_ranges(bounds[::2], bounds[1::2])])

    def _keys_at(self, positions: npt.NDArray[np.uint32]) -> list[Key]:
        positions = np.sort(positions)
        starts = range(0, len(positions), CHUNK)
        parts: list[list[Key]] = [self._keys.take(positions[at : at + CHUNK]).tolist() for at in starts]
        return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))

    def _append(self, added: list[Key]) -> None:
        needed = self._used + len(added)
        if needed > len(self._keys):
            # An eighth of room, as a list has it: many small additions do not copy everything each time.
            room = np.empty(max(needed, len(self._keys) * 9 // 8), object)
            room[: self._used] = self._keys[: self._used]
            self._keys = room
        self._keys[self._used : needed] = np.fromiter(added, object, len(added))
        self._used = needed

    def _count_below(self, bounds: Hashes) -> npt.NDArray[np.intp]:
        """For each of ``bounds`` (full hashes), how many of the index's keys have a smaller hash."""
        leading = leading_64_bits(bounds)
        counts: npt.NDArray[np.intp] = self._hashes.searchsorted(leading)
        if bounds.dtype == self._hashes.dtype:
            return counts
        stops = self._hashes.searchsorted(leading, side="right")
        for at in (counts < stops).nonzero()[0].tolist():
            alike = self._keys[self._positions[counts[at] : stops[at]]].tolist()
            counts[at] += (hash_keys(alike, self._function) < bounds[at]).sum()
        return counts

    def _close_holes(self) -> None:
        live = np.sort(self._positions)
        renumbered = np.empty(self._used, np.uint32)
        renumbered[live] = np.arange(len(live), dtype=np.uint32)
        self._keys, self._used = self._keys[live], len(live)
        self._positions = renumbered[self._positions]


def _ranges(starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """``start, start + 1, ..., stop - 1`` for each pair, one after another."""
    lengths = stops - starts
    ends = lengths.cumsum()
    shifted: npt.NDArray[np.intp] = np.arange(lengths.sum()) + np.repeat(stops - ends, lengths)
    return shifted
