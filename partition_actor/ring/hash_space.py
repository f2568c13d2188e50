"""The hash space that a ring divides: hashes of keys, and sets of arcs.

A hash is an integer below 2**64 (xxh3) or 2**128 (md5). Arrays of hashes have dtype ``uint64`` for xxh3 and ``S16``
(the digest, most significant byte first) for md5. numpy sorts and searches both in numeric order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from itertools import islice
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from uhashring import HashRing
from xxhash import xxh3_64_intdigest

from partition_actor.arguments import refuse

Key = TypeVar("Key")
HashName = Literal["xxh3", "md5"]
Hashes = npt.NDArray[Any]

# numpy holds the GIL while it reads an iterator. Reading ten million keys at once would block the heartbeat thread for
# seconds, and the member could lose its lease.
CHUNK = 1 << 14
_LONGEST_LIST = 1 << 15
_INT_BYTES = 48  # of a hash as an int


@dataclass(frozen=True, eq=False)
class HashFunction:
    """A hash of text: ``of_text`` returns one as an ``int``, ``of_texts`` returns many as an array of ``dtype``."""

    name: HashName
    of_text: Callable[[str], int]
    of_texts: Callable[[Sequence[str]], Hashes]
    dtype: np.dtype[Any]


def _xxh3(text: str) -> int:
    try:
        number: int = xxh3_64_intdigest(text.encode())
    except UnicodeEncodeError:
        number = xxh3_64_intdigest(_encode_all(text))
    return number


def _encode_all(text: str) -> bytes:
    # UTF-8 has no encoding of lone surrogates (as in an undecodable file name), but such a text is still a key.
    return text.encode("utf-8", "surrogatepass")


def _xxh3_all(texts: Sequence[str]) -> Hashes:
    return np.fromiter(map(xxh3_64_intdigest, map(str.encode, texts)), np.uint64, len(texts))


def _md5(text: str) -> int:
    return int.from_bytes(md5(_encode_all(text), usedforsecurity=False).digest(), "big")


def _md5_all(texts: Sequence[str]) -> Hashes:
    digests = [md5(text.encode(), usedforsecurity=False).digest() for text in texts]
    return np.frombuffer(b"".join(digests), "S16")


HASH_FUNCTIONS = {
    "xxh3": HashFunction("xxh3", _xxh3, _xxh3_all, np.dtype(np.uint64)),
    "md5": HashFunction("md5", _md5, _md5_all, np.dtype("S16")),
}


def hash_function_named(name: object) -> HashFunction:
    """The hash function called ``name``. Raises ``InvalidArgument`` if there is none."""
    if not isinstance(name, str) or name not in HASH_FUNCTIONS:
        refuse("hash_function", name, f"one of {sorted(HASH_FUNCTIONS)}")
    return HASH_FUNCTIONS[name]


def numbers_to_hashes(numbers: Sequence[int], function: HashFunction) -> Hashes:
    """``numbers`` as an array of hashes, in the same order."""
    if function.dtype.kind == "u":
        return np.array(numbers, np.uint64)
    return np.frombuffer(b"".join(number.to_bytes(16, "big") for number in numbers), "S16")


def hashes_to_numbers(hashes: Hashes) -> Sequence[int]:
    """``hashes`` as a sequence of ``int``, for ``bisect``."""
    if hashes.dtype.kind == "u":
        return int_sequence(hashes)
    raw = hashes.tobytes()
    return [int.from_bytes(raw[at : at + 16], "big") for at in range(0, len(raw), 16)]


def int_sequence(array: npt.NDArray[Any]) -> Sequence[int]:
    """An integer array as a sequence of ``int``, which Python indexes faster than the array."""
    # A list is fastest, but a large one takes milliseconds to create and 40 bytes per number.
    return array.tolist() if len(array) <= _LONGEST_LIST else array.data


def bytes_of_numbers(hashes: Hashes) -> int:
    """About how many bytes ``hashes_to_numbers`` takes beside ``hashes``."""
    return bytes_of_sequence(hashes, _INT_BYTES) if hashes.dtype.kind == "u" else (8 + _INT_BYTES) * len(hashes)


def bytes_of_sequence(array: npt.NDArray[Any], int_bytes: int) -> int:
    """About how many bytes ``int_sequence`` takes beside ``array`` if an ``int`` of it takes ``int_bytes``."""
    return (8 + int_bytes) * len(array) if len(array) <= _LONGEST_LIST else 0


def leading_64_bits(hashes: Hashes) -> npt.NDArray[np.uint64]:
    """The most significant 64 bits of each hash. For xxh3 that is the whole hash, and the array itself is returned."""
    return hashes if hashes.dtype.kind == "u" else hashes.view(">u8")[::2].astype(np.uint64)


def iterate_keys(keys: Iterable[object]) -> Iterator[Any]:
    """An iterator over ``keys``: any iterable, a one-dimensional numpy array or an Arrow array.

    Elements of Arrow arrays, and of numpy arrays of text, integers, booleans or objects, are returned as Python
    objects. Raises ``InvalidArgument`` if ``keys`` is not iterable, is a single text (nearly always a mistake) or is an
    array of more or less than one dimension.
    """
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            refuse("keys", keys, f"an array of one dimension, not of {keys.ndim}")
        # Only for these kinds is str() of the Python object always equal to str() of numpy's scalar.
        return iter(keys.tolist() if keys.dtype.kind in "UiubO" else keys)
    if isinstance(keys, (str, bytes, bytearray)) or not isinstance(keys, Iterable):
        refuse("keys", keys, f"an iterable of keys, not one {type(keys).__name__}")
    to_pylist = getattr(keys, "to_pylist", None)
    return iter(to_pylist() if callable(to_pylist) else keys)


def chunks(keys: Iterator[Any]) -> Iterator[list[Any]]:
    """``keys`` in lists short enough that hashing one does not block the process's other threads."""
    while chunk := list(islice(keys, CHUNK)):
        yield chunk


def hash_keys(keys: list[Any], function: HashFunction) -> Hashes:
    """The hash of ``str(key)`` for each key, as an array of ``function.dtype`` in the same order."""
    # Compare exact types: a subclass of str, such as a str enum, may override __str__.
    plain = not keys or set(map(type, keys)) == {str}
    texts: list[str] = keys if plain else list(map(str, keys))
    try:
        return function.of_texts(texts)
    except UnicodeEncodeError:
        return numbers_to_hashes([function.of_text(text) for text in texts], function)


def hash_many(keys: list[Any], function: HashFunction) -> Hashes:
    """As ``hash_keys``, in chunks: for any number of keys."""
    hashes = np.empty(len(keys), function.dtype)
    done = 0
    for chunk in chunks(iter(keys)):
        hashes[done : done + len(chunk)] = hash_keys(chunk, function)
        done += len(chunk)
    return hashes


def virtual_nodes(member: str, weight: int, vnodes: int, function: HashFunction) -> Hashes:
    """The points of the member's virtual nodes according to uhashring, unsorted."""
    ring = HashRing(nodes={member: {"weight": weight}}, vnodes=vnodes, hash_fn=function.of_text)
    return numbers_to_hashes(list(ring.ring), function)


def merge_points(
    points: Hashes, owners: npt.NDArray[np.int32], new: Hashes, new_owners: npt.NDArray[np.int32]
) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """Merge unsorted ``new`` points into sorted ``points``; returns all points and their owners in a ring's order."""
    order = new.argsort(kind="stable")
    new, new_owners = new[order], new_owners[order]
    at = points.searchsorted(new)
    shared = (new[1:] == new[:-1]).any() or (points.take(at[at < len(points)]) == new[at < len(points)]).any()
    at += np.arange(len(new))
    old = np.ones(len(points) + len(new), np.bool_)
    old[at] = False
    all_points, all_owners = np.empty(len(old), points.dtype), np.empty(len(old), np.int32)
    all_points[old], all_owners[old] = points, owners
    all_points[at], all_owners[at] = new, new_owners
    if shared:
        order = np.lexsort((-all_owners, all_points))
        return all_points[order], all_owners[order]
    return all_points, all_owners


@dataclass(frozen=True, eq=False)
class Arcs:
    """A set of hashes as a union of arcs. An arc includes the hash that it starts at and excludes the one it stops at.

    ``boundaries`` (sorted, an even number) are the starts and stops of the arcs in turn. ``from_zero`` says whether the
    hashes below the first boundary are in the set.
    """

    boundaries: Hashes
    from_zero: bool
    function: HashFunction

    def finder(self) -> Callable[[object], bool]:
        """A function that says whether the hash of a key is in the set, for one key at a time."""
        numbers, from_zero, of_text = hashes_to_numbers(self.boundaries), self.from_zero, self.function.of_text

        def has(key: object) -> bool:
            below = bisect_right(numbers, of_text(key if type(key) is str else str(key)))
            return (below & 1 == 1) != from_zero

        return has

    def subset(self, keys: Iterable[Key]) -> list[Key]:
        """Those of ``keys``, as ``iterate_keys`` takes them, whose hashes are in the set."""
        inside: list[Key] = []
        for chunk in chunks(iterate_keys(keys)):
            inside += [chunk[at] for at in self.contains(hash_keys(chunk, self.function)).nonzero()[0].tolist()]
        return inside

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Whether each hash is in the set."""
        odd = (self.boundaries.searchsorted(hashes, side="right") & 1).astype(np.bool_)
        return ~odd if self.from_zero else odd

    def minus(self, others: Sequence[Arcs]) -> Arcs:
        """This set without the hashes that are in any of ``others``."""
        if not others:
            return self
        theirs = np.concatenate([arcs.boundaries for arcs in others])
        # Skip the others' boundaries outside this set: they cannot matter, and they are nearly all.
        bounds = np.unique(np.concatenate([self.boundaries, theirs[self.contains(theirs)]]))
        inside, from_zero = self.contains(bounds), self.from_zero
        for other in others:
            inside &= ~other.contains(bounds)
            from_zero = from_zero and not other.from_zero
        before = np.concatenate([np.array([from_zero]), inside[:-1]])
        return Arcs(bounds[inside != before[: len(bounds)]], from_zero, self.function)
