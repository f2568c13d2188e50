"""A member's keys out of many, for repeated look-ups: keys are sorted by hash once, so that an arc is a slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Generic, NamedTuple

import numpy as np
import numpy.typing as npt

from partition_actor.arguments import refuse
from partition_actor.ring.hash_space import (
    CHUNK,
    Arcs,
    Hashes,
    HashName,
    Key,
    hash_function_named,
    hash_keys,
    hash_many,
    iterate_keys,
    leading_64_bits,
)
from partition_actor.ring.ring import Ring, Withheld

# Positions are uint32, so that an index of millions of keys stays small.
_MOST_KEYS = (1 << 32) - 1
_NO_LOCK = nullcontext()


class KeyIndex(Generic[Key]):
    """All keys of a group, indexed so that finding a member's keys costs its arcs and its keys, not all keys.

    Results keep the order in which keys were given, and a key that was given twice is returned twice. The identity of a
    key is ``str(key)``, which must not change. Takes at most 24 bytes per key beyond the keys themselves (8 for the
    hash, 4 for the position, 8 for the reference, and room to grow). Any thread may look keys up at any time; threads
    that ``add`` or ``discard`` at one time must give the same ``lock``.

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
        self._held = _Held(np.empty(0, object), 0, np.empty(0, np.uint64), np.empty(0, np.uint32))
        self.add(keys)

    def __len__(self) -> int:
        return len(self._held.positions)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._look_up(lambda held: held.positions))

    def __contains__(self, key: object) -> bool:
        text = str(key)
        hashes = leading_64_bits(hash_keys([text], self._function))
        return any(str(each) == text for each in self._look_up(lambda held: held.positions[held.alike(hashes)]))

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
        return self.keys_in(ring.arcs(member, withheld))

    def keys_in(self, arcs: Arcs) -> list[Key]:
        """The keys whose hashes are in ``arcs``, which are of the same hash function."""

        def positions(held: _Held) -> npt.NDArray[np.uint32]:
            bounds = self._count_below(held, arcs.boundaries)
            if arcs.from_zero:
                bounds = np.concatenate([[0], bounds, [len(held.positions)]])
            return held.positions[_ranges(bounds[::2], bounds[1::2])]

        return self._look_up(positions)

    def gained(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that ``member`` owns on ``new`` but not on ``old``. Raises as ``subset`` does."""
        return self.subset(new, member, [(old, member)])

    def lost(self, old: Ring, new: Ring, member: str) -> list[Key]:
        """The keys that ``member`` owns on ``old`` but not on ``new``. Raises as ``subset`` does."""
        return self.subset(old, member, [(new, member)])

    def add(self, keys: Iterable[Key], lock: AbstractContextManager[Any] = _NO_LOCK) -> None:
        """Add ``keys``, each as often as it occurs. Only the new keys are hashed and sorted.

        No code of yours runs under ``lock``: ``keys`` is read, and ``str(key)`` called, before it is taken. Raises
        ``InvalidArgument`` if ``keys`` is not iterable or the index would have 2**32 keys or more.
        """
        added = list(iterate_keys(keys))
        hashes = hash_many(added, self._function)
        order = hashes.argsort(kind="stable")
        hashes = hashes[order]
        new = np.fromiter(added, object, len(added))
        while True:
            held = self._held
            after = self._with(held, hashes, order)
            with lock:
                if self._held is held:
                    after.keys[held.used : after.used] = new
                    self._held = after
                    return

    def discard(self, keys: Iterable[object], lock: AbstractContextManager[Any] = _NO_LOCK) -> None:
        """Remove every occurrence of each of ``keys``; ignore keys that are not in the index. ``lock`` as in ``add``.

        Raises ``InvalidArgument`` if ``keys`` is not iterable.
        """
        texts = {str(key) for key in iterate_keys(keys)}
        hashes = np.unique(leading_64_bits(hash_many(list(texts), self._function)))
        while True:
            held = self._held
            candidates = held.alike(hashes)
            # This list also keeps the keys until the lock is free: __del__ of a key is code of yours, too.
            alike = held.keys[held.positions[candidates]].tolist()
            gone = [at for at, key in zip(candidates.tolist(), alike, strict=True) if str(key) in texts]
            after, holes = held.without(gone), held.positions[gone]
            with lock:
                if self._held is held:
                    self._held = after
                    if after.keys is held.keys:
                        held.keys[holes] = None  # after the above, so that `_look_up` knows
                    return

    def _with(self, held: _Held, hashes: Hashes, order: npt.NDArray[np.intp]) -> _Held:
        """``held`` with the positions of new keys, whose sorted hashes and order are given; without the keys."""
        needed = held.used + len(order)
        if needed > _MOST_KEYS:
            refuse("keys", len(order), f"at most {_MOST_KEYS - held.used} more keys")
        keys, positions = held.keys, (order + held.used).astype(np.uint32)
        if needed > len(keys):
            # Grow by an eighth, as lists do, so that many small additions do not each copy everything.
            keys = np.empty(max(needed, len(keys) * 9 // 8), object)
            keys[: held.used] = held.keys[: held.used]
        leading = leading_64_bits(hashes)
        if len(held.positions):
            at = self._count_below(held, hashes)
            leading = np.insert(held.hashes, at, leading)
            positions = np.insert(held.positions, at, positions)
        return _Held(keys, needed, leading, positions)

    def _look_up(self, positions: Callable[[_Held], npt.NDArray[np.uint32]]) -> list[Key]:
        """The keys at some positions, in the order in which they were given."""
        while True:
            held = self._held
            chosen = np.sort(positions(held))
            starts = range(0, len(chosen), CHUNK)
            parts: list[list[Key]] = [held.keys.take(chosen[at : at + CHUNK]).tolist() for at in starts]
            if self._held is held:  # else a key that was discarded meanwhile may have been read as None
                return parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))

    def _count_below(self, held: _Held, bounds: Hashes) -> npt.NDArray[np.intp]:
        """The number of keys whose hash is smaller than each of ``bounds``, which are full hashes."""
        leading = leading_64_bits(bounds)
        counts: npt.NDArray[np.intp] = held.hashes.searchsorted(leading)
        if bounds.dtype == held.hashes.dtype:
            return counts
        stops = held.hashes.searchsorted(leading, side="right")
        for at in (counts < stops).nonzero()[0].tolist():
            alike = held.keys[held.positions[counts[at] : stops[at]]].tolist()
            counts[at] += (hash_keys(alike, self._function) < bounds[at]).sum()
        return counts


class _Held(NamedTuple):
    """What an index holds at one moment. Nothing of it changes later but what lies after ``used``, and new holes."""

    keys: npt.NDArray[np.object_]
    """Each key at the position at which it was given; None where one was discarded and in the room to grow.

    An array, not a list: numpy gathers scattered objects in half the time of a loop.
    """
    used: int
    """How many positions have been given."""
    hashes: npt.NDArray[np.uint64]
    """Of the keys, sorted by full hash. The leading 64 bits of an md5 distinguish nearly all keys.

    Hashing the remaining ones again is cheaper than 8 more bytes for every key.
    """
    positions: npt.NDArray[np.uint32]
    """Parallel to ``hashes``."""

    def alike(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
        """Where the keys are whose leading 64 bits are among ``hashes``."""
        return _ranges(self.hashes.searchsorted(hashes), self.hashes.searchsorted(hashes, side="right"))

    def without(self, gone: list[int]) -> _Held:
        """The same without the keys at these places of ``positions``."""
        keys, used, positions = self.keys, self.used, np.delete(self.positions, gone)
        # Up to a quarter of holes fits into the 24 bytes per key, and makes closing them cheap per discarded key.
        if used > len(positions) * 1.25:
            live = np.sort(positions)
            renumbered = np.empty(used, np.uint32)
            renumbered[live] = np.arange(len(live), dtype=np.uint32)
            keys, used, positions = keys[live], len(live), renumbered[positions]
        return _Held(keys, used, np.delete(self.hashes, gone), positions)


def _ranges(starts: npt.NDArray[np.intp], stops: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """``start, start + 1, ..., stop - 1`` for each pair, concatenated."""
    lengths = stops - starts
    ends = lengths.cumsum()
    shifted: npt.NDArray[np.intp] = np.arange(lengths.sum()) + np.repeat(stops - ends, lengths)
    return shifted
