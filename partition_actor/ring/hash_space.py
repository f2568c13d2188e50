"""The hash space that a ring divides: the hash of a key, and sets of arcs of that space.

A hash is a number below 2**64 (xxh3) or 2**128 (md5). Arrays of hashes are ``uint64`` for xxh3 and ``S16``
(the digest, most significant byte first) for md5: numpy sorts and searches both in the order of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from uhashring import HashRing
from xxhash import xxh3_64_intdigest

from partition_actor.arguments import refuse

HashName = Literal["xxh3", "md5"]
Hashes = npt.NDArray[Any]

# numpy keeps the interpreter's lock while it draws from an iterator: in one go, ten million keys would keep a
# heartbeat thread out for seconds, and a member would lose its lease by counting its own keys.
CHUNK = 1 << 14
_LISTED = 1 << 15


@dataclass(frozen=True)
class HashFunction:
    """A hash of text, one at a time for uhashring and many at a time for numpy.

    ``of_text`` gives an ``int``; ``of_texts`` gives an array of ``dtype`` with the same numbers.
    """

    name: str
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
    # A lone surrogate (an undecodable file name, say) is no valid UTF-8, yet it is a key like any other.
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
    """The hash function called ``name``; ``InvalidArgument`` when there is none."""
    if not isinstance(name, str) or name not in HASH_FUNCTIONS:
        refuse("hash_function", name, f"one of {sorted(HASH_FUNCTIONS)}")
    return HASH_FUNCTIONS[name]


def numbers_to_hashes(numbers: Sequence[int], function: HashFunction) -> Hashes:
    """The array of hashes that stands for ``numbers``, in their order."""
    if function.dtype.kind == "u":
        return np.array(numbers, np.uint64)
    return np.frombuffer(b"".join(number.to_bytes(16, "big") for number in numbers), "S16")


def hashes_to_numbers(hashes: Hashes) -> Sequence[int]:
    """``hashes`` as a sequence of ``int`` to bisect."""
    if hashes.dtype.kind == "u":
        return quick_to_index(hashes)
    raw = hashes.tobytes()
    return [int.from_bytes(raw[at : at + 16], "big") for at in range(0, len(raw), 16)]


def quick_to_index(array: npt.NDArray[Any]) -> Sequence[int]:
    """``array``, of integers, as a sequence of ``int``: Python indexes an array itself slowly."""
    # A list is the quickest, but a large one takes milliseconds to make, and 40 bytes a number.
    return array.tolist() if len(array) <= _LISTED else array.data


def leading_64_bits(hashes: Hashes) -> npt.NDArray[np.uint64]:
    """The most significant 64 bits of each of ``hashes``: for xxh3 all there is, the array itself."""
    return hashes if hashes.dtype.kind == "u" else hashes.view(">u8")[::2].astype(np.uint64)


def iterate_keys(keys: Iterable[object]) -> Iterator[Any]:
    """An iterator over ``keys``, which may be any iterable, a one-dimensional numpy array or an Arrow array.

    The elements of Arrow arrays, and of numpy arrays of texts or integers, come as Python objects.
    Raises ``InvalidArgument`` when ``keys`` cannot be iterated, is one text (nearly always a mistake), or is
    an array of other than one dimension.
    """
    if isinstance(keys, np.ndarray):
        if keys.ndim != 1:
            refuse("keys", keys, f"an array of one dimension, not of {keys.ndim}")
        # Only for these kinds is the str of the Python object sure to be the str of numpy's own scalar.
        return iter(keys.tolist() if keys.dtype.kind in "UiubO" else keys)
    if isinstance(keys, (str, bytes, bytearray)) or not isinstance(keys, Iterable):
        refuse("keys", keys, f"an iterable of keys, not one {type(keys).__name__}")
    to_pylist = getattr(keys, "to_pylist", None)
    return iter(to_pylist() if callable(to_pylist) else keys)


def chunks(keys: Iterator[Any]) -> Iterator[list[Any]]:
    """``keys`` in lists short enough that hashing one does not hold up the process's other threads."""
    while chunk := list(islice(keys, CHUNK)):
        yield chunk


def hash_keys(keys: list[Any], function: HashFunction) -> Hashes:
    """The hash of ``str(key)`` for each of ``keys``: an array of ``function.dtype``, in their order."""
    # The exact type: a subclass of str, such as a str enum, may have another __str__.
    plain = not keys or set(map(type, keys)) == {str}
    texts: list[str] = keys if plain else list(map(str, keys))
    try:
        return function.of_texts(texts)
    except UnicodeEncodeError:
        return numbers_to_hashes([function.of_text(text) for text in texts], function)


def hash_many(keys: list[Any], function: HashFunction) -> Hashes:
    """What ``hash_keys`` gives, for any number of keys."""
    hashes = np.empty(len(keys), function.dtype)
    done = 0
    for chunk in chunks(iter(keys)):
        hashes[done : done + len(chunk)] = hash_keys(chunk, function)
        done += len(chunk)
    return hashes


def member_points(member: str, weight: int, vnodes: int, function: HashFunction) -> Hashes:
    """The points that uhashring gives ``member``, in no order."""
    ring = HashRing(nodes={member: {"weight": weight}}, vnodes=vnodes, hash_fn=function.of_text)
    return numbers_to_hashes(list(ring.ring), function)


def merged(
    points: Hashes, owners: npt.NDArray[np.int32], made: Hashes, makers: npt.NDArray[np.int32]
) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """``points``, which are in a ring's order, and ``made``, which are in any, in a ring's order; so their owners."""
    order = made.argsort(kind="stable")
    made, makers = made[order], makers[order]
    at = points.searchsorted(made)
    shared = (made[1:] == made[:-1]).any() or (points.take(at[at < len(points)]) == made[at < len(points)]).any()
    at += np.arange(len(made))
    old = np.ones(len(points) + len(made), np.bool_)
    old[at] = False
    all_points, all_owners = np.empty(len(old), points.dtype), np.empty(len(old), np.int32)
    all_points[old], all_owners[old] = points, owners
    all_points[at], all_owners[at] = made, makers
    if shared:
        order = np.lexsort((-all_owners, all_points))
        return all_points[order], all_owners[order]
    return all_points, all_owners


class Arcs(NamedTuple):
    """A set of hashes made of arcs, each from one hash up to, and without, another.

    ``toggles`` (sorted, an even number of them) are where arcs start and stop; ``from_zero`` says whether the
    hashes below the first toggle are in the set.
    """

    toggles: Hashes
    from_zero: bool

    def contains(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """For each of ``hashes``, whether it is in the set."""
        odd = (self.toggles.searchsorted(hashes, side="right") & 1).astype(np.bool_)
        return ~odd if self.from_zero else odd

    def minus(self, others: Sequence[Arcs]) -> Arcs:
        """What of this set is in none of ``others``."""
        if not others:
            return self
        theirs = np.concatenate([arcs.toggles for arcs in others])
        # What others do outside of this set does not matter, and that is nearly all of it.
        bounds = np.unique(np.concatenate([self.toggles, theirs[self.contains(theirs)]]))
        inside, from_zero = self.contains(bounds), self.from_zero
        for other in others:
            inside &= ~other.contains(bounds)
            from_zero = from_zero and not other.from_zero
        before = np.concatenate([np.array([from_zero]), inside[:-1]])
        return Arcs(bounds[inside != before[: len(bounds)]], from_zero)
