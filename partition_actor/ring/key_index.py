"""A member's keys out of many, for repeated look-ups: keys are sorted by hash once, so that an arc is a slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from partition_actor.arguments import refuse
from partition_actor.ring.hash_space import (
    CHUNK,
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

# Positions are uint32, so that an index of millions of keys stays small.
_MOST_KEYS = (1 << 32) - 1


class KeyIndex(Generic[Key]):
    """All keys of a group, indexed so that finding a member's keys costs its arcs and its keys, not all keys.

    Results keep the order in which keys were given, and a key that was given twice is returned twice. The identity of a
    key is ``str(key)``, which must not change. Takes at most 24 bytes per key beyond the keys themselves (8 for the
    hash, 4 for the position, 8 for the reference, and room to grow). Not safe to use from other threads while one
    thread calls ``add`` or ``discard``.

    Args:
        keys: any iterable, a one-dimensional numpy array or an Arrow array, as in ``Ring.subset``. The index keeps
            references to the keys.
        hash_function: must be that of the rings passed to the methods.

    Raises:
        InvalidArgument: ``keys`` is not iterable, or ``hash_function`` is unknown.

    >>> from partition_actor.ring.ring import Ring
    >>> index, ring = KeyIndex(["x", "y", "z"]), Ring(["a", "b"])
    >>> sorted(index.subset(ring, "a") + index.subset(ring, "b"))
    ['x', 'y', 'z']
    """

    def __init__(self, keys: Iterable[Key] = (), hash_function: HashName = "xxh3") -> None:
        self._function = hash_function_named(hash_function)
        # Each key at the position at which it was given; None where a key was discarded and in the room to grow.
        # An array, not a list: numpy gathers scattered objects in half the time of a loop.
        self._keys: npt.NDArray[np.object_] = np.empty(0, object)
        self._used = 0
        # Parallel arrays, sorted by full hash. The leading 64 bits of an md5 distinguish nearly all keys. Hashing the
        # remaining ones again is cheaper than 8 more bytes for every key.
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
        """The keys that ``member`` owns on ``ring``, without those ``withheld``; all arguments as in ``Ring.subset``.

        Raises ``InvalidArgument`` if a ring has another hash function than the index.
        """
        if ring.hash_function != self._function.name:
            refuse("ring", ring, f"a ring whose hash_function is {self._function.name!r}")
        arcs = ring.arcs(member, withheld)
        bounds = self._count_below(arcs.boundaries)
        if arcs.from_zero:
            bounds = np.concatenate([[0], bounds, [len(self)]])
        return self._keys_at(self._positions[_ranges(bounds[::2], bounds[1::2])])

    def gained(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that ``member`` owns on ``new`` but not on ``old``. Raises as ``subset`` does."""
        return self.subset(new, member, [(old, member)])

    def lost(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that ``member`` owns on ``old`` but not on ``new``. Raises as ``subset`` does."""
        return self.subset(old, member, [(new, member)])

    def add(self, keys: Iterable[Key]) -> None:
        """Add ``keys``, each as often as it occurs. Only the new keys are hashed and sorted.

        Raises ``InvalidArgument`` if ``keys`` is not iterable or the index would have 2**32 keys or more.
        """
        added = list(iterate_keys(keys))
        needed = self._used + len(added)
        if needed > _MOST_KEYS:
            refuse("keys", len(added), f"at most {_MOST_KEYS - self._used} more keys")
        hashes = hash_many(added, self._function)
        order = hashes.argsort(kind="stable")
        hashes = hashes[order]
        positions = (order + self._used).astype(np.uint32)
        if needed > len(self._keys):
            # Grow by an eighth, as lists do, so that many small additions do not each copy everything.
            room = np.empty(max(needed, len(self._keys) * 9 // 8), object)
            room[: self._used] = self._keys[: self._used]
            self._keys = room
        self._keys[self._used : needed] = np.fromiter(added, object, len(added))
        self._used = needed
        if len(self):
            at = self._count_below(hashes)
            self._hashes = np.insert(self._hashes, at, leading_64_bits(hashes))
            self._positions = np.insert(self._positions, at, positions)
        else:
            self._hashes, self._positions = leading_64_bits(hashes), positions

    def discard(self, keys: Iterable[object]) -> None:
        """Remove every occurrence of each of ``keys``; ignore keys that are not in the index.

        Raises ``InvalidArgument`` if ``keys`` is not iterable.
        """
        texts = {str(key) for key in iterate_keys(keys)}
        hashes = np.unique(leading_64_bits(hash_many(list(texts), self._function)))
        starts, stops = self._hashes.searchsorted(hashes), self._hashes.searchsorted(hashes, side="right")
        candidates = _ranges(starts, stops)
        found = zip(candidates.tolist(), self._positions[candidates].tolist(), strict=True)
        gone = [at for at, position in found if str(self._keys[position]) in texts]
        self._keys[self._positions[gone]] = None
        self._hashes, self._positions = np.delete(self._hashes, gone), np.delete(self._positions, gone)
        # Up to a quarter of holes fits into the 24 bytes per key, and makes closing them cheap per discarded key.
        if self._used > len(self) * 1.25:
            live = np.sort(self._positions)
            renumbered = np.empty(self._used, np.uint32)
            renumbered[live] = np.arange(len(live), dtype=np.uint32)
            self._keys, self._used = self._keys[live], len(live)
            self._positions = renumbered[self._positions]

    def _keys_at(self, positions: npt.NDArray[np.uint32]) -> list[Key]:
        positions = np.sort(positions)
        starts = range(0, len(positions), CHUNK)
        parts: list[list[Key]] = [self._keys.take(positions[at : at + CHUNK]).tolist() for at in starts]
        return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))

    def _count_below(self, bounds: Hashes) -> npt.NDArray[np.intp]:
        """The number of keys whose hash is smaller than each of ``bounds``, which are full hashes."""
        leading = leading_64_bits(bounds)
        counts: npt.NDArray[np.intp] = self._hashes.searchsorted(leading)
        if bounds.dtype == self._hashes.dtype:
            return counts
        stops = self._hashes.searchsorted(leading, side="right")
        for at in (counts < stops).nonzero()[0].tolist():
            alike = self._keys[self._positions[counts[at] : stops[at]]].tolist()
            counts[at] += (hash_keys(alike, self._function) < bounds[at]).sum()
        return counts


def _ranges(starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """``start, start + 1, ..., stop - 1`` for each pair, concatenated."""
    lengths = stops - starts
    ends = lengths.cumsum()
    shifted: npt.NDArray[np.intp] = np.arange(lengths.sum()) + np.repeat(stops - ends, lengths)
    return shifted
