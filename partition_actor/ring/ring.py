"""Who owns a key: a consistent hash ring that answers as ``uhashring.HashRing`` does, at the cost of numpy.

Pure: no Ray, no clock. The points come from uhashring, which hashes ``f"{member_id}-{i}"`` for ``i`` in
``range(vnodes * weight)`` (virtual nodes); a key belongs to the member of the first point *after* the key's
hash, and past the last point to that of the first. Of members that share a point, the last in order of id has
it. Consistent hashing: Karger et al., STOC 1997.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from partition_actor.arguments import refuse
from partition_actor.errors import MemberNotFound
from partition_actor.ring.hash_space import (
    Arcs,
    Hashes,
    HashFunction,
    HashName,
    chunks,
    hash_function_named,
    hash_keys,
    hashes_to_numbers,
    iterate_keys,
    leading_64_bits,
    member_points,
    merged,
    quick_to_index,
)

Key = TypeVar("Key")
Members = Mapping[str, int] | Iterable[str]
Withheld = Iterable[tuple["Ring", str]]
_State = tuple[dict[str, int], Sequence[str], int, HashFunction, Hashes, npt.NDArray[np.int32]]

_RINGS_KEPT = 32


class Ring:
    """An immutable consistent hash ring. Equal members, weights and settings make equal rings, in any order.

    A key is any object; its identity is ``str(key)`` in UTF-8. For every key whose text is valid UTF-8 (lone
    surrogates are hashed as UTF-8's ``surrogatepass`` writes them), ``owner(key)`` is
    ``HashRing(nodes=nodes, vnodes=vnodes, hash_fn=hash_fn).get_node(str(key))`` with
    ``nodes = {member: {"weight": weight} for member, weight in sorted(members.items())}`` and, for xxh3,
    ``hash_fn = lambda text: xxhash.xxh3_64_intdigest(text.encode())``; for md5, ``hash_fn = None``.

    Args:
        members: ids (not empty) with their weights (``int``, at least 1), or just ids, each of weight 1.
        vnodes: points on the ring for each unit of weight: more make shares more even, and the ring bigger
            (12 bytes a point with xxh3).
        hash_function: ``"xxh3"`` (64 bits) or ``"md5"`` (128 bits, uhashring's default; slower).

    Raises:
        InvalidArgument: when an id, a weight, ``vnodes`` or ``hash_function`` is not as above.

    >>> ring = Ring({"a": 1, "b": 2})
    >>> ring.owner("some key") in ring.members
    True
    """

    _weights: dict[str, int]
    _ids: tuple[str, ...]
    _members: Mapping[str, int] | None
    _vnodes: int
    _function: HashFunction
    # Every point of every member, by point and then by falling member index: the winner of a shared point
    # comes first and the losers' arcs are empty, so that a loser has its point at hand when the winner goes.
    _points: Hashes
    _owners: npt.NDArray[np.int32]
    # What `owner` looks into: the points as numbers, and the owner at each, with the first again after the last.
    _lookup: tuple[Sequence[int], Sequence[int]] | None
    _hash: int | None

    def __init__(self, members: Members, vnodes: int = 160, hash_function: HashName = "xxh3") -> None:
        if isinstance(vnodes, bool) or not isinstance(vnodes, int) or vnodes < 1:
            refuse("vnodes", vnodes, "an int of at least 1")
        function = hash_function_named(hash_function)
        wanted = _checked_members(members, "members")
        self._set({}, [], vnodes, function, np.empty(0, function.dtype), np.empty(0, np.int32))
        self._set(*self._changed([], wanted))

    def _set(
        self,
        weights: dict[str, int],
        ids: Sequence[str],
        vnodes: int,
        function: HashFunction,
        points: Hashes,
        owners: npt.NDArray[np.int32],
    ) -> None:
        self._weights, self._ids, self._members = weights, tuple(ids), None
        self._vnodes, self._function, self._of_text = vnodes, function, function.of_text
        points.flags.writeable = owners.flags.writeable = False
        self._points, self._owners = points, owners
        self._lookup = self._hash = None

    @property
    def members(self) -> Mapping[str, int]:
        """The weight of each member, sorted by id; read-only."""
        if self._members is None:
            self._members = MappingProxyType({member: self._weights[member] for member in self._ids})
        return self._members

    @property
    def vnodes(self) -> int:
        """Points on the ring for each unit of weight."""
        return self._vnodes

    @property
    def hash_function(self) -> str:
        """The name of the hash: ``"xxh3"`` or ``"md5"``."""
        return self._function.name

    def owner(self, key: object) -> str | None:
        """The id of the member that owns ``key``; ``None`` when the ring is empty."""
        if not self._ids:
            return None
        _, winners = self._lookup or self._make_lookup()
        return self._ids[winners[self._position(key)]]

    def owners(self, key: object, n: int) -> list[str]:
        """The first ``n`` distinct members met from ``key`` on, the owner first: where replicas go.

        It is the order of ``HashRing.range(str(key), size=n)``. The list is shorter than ``n`` when the ring
        has fewer members. ``InvalidArgument`` when ``n`` is not an ``int`` of at least 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            refuse("n", n, "an int of at least 1")
        count = len(self._points)
        start = self._position(key)
        found: dict[int, None] = {}
        for at in chain(range(start, count), range(start)):
            if at and self._points[at] == self._points[at - 1]:
                continue  # a point lost to the member before it
            found[int(self._owners[at])] = None
            if len(found) == n:
                break
        return [self._ids[index] for index in found]

    def owners_of(self, keys: Iterable[object]) -> npt.NDArray[np.int32]:
        """The owner of each of ``keys`` as an index into ``list(ring.members)``; -1 when the ring is empty.

        The array is of shape ``(number of keys,)``, in the keys' order. ``keys`` is what ``subset`` takes.
        """
        parts = [self._owners_at(hash_keys(chunk, self._function)) for chunk in chunks(iterate_keys(keys))]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def subset(self, member: str, keys: Iterable[Key], withheld: Withheld = ()) -> list[Key]:
        """Those of ``keys`` that ``member`` owns, in the order of ``keys``, each as often as it occurs there.

        Args:
            member: a member's id; for one that is not on the ring the list is empty.
            keys: any iterable (read once), a numpy array of one dimension or an Arrow array. The elements of
                Arrow arrays, and of numpy arrays of texts or integers, come back as Python objects.
            withheld: ``(ring, holder)`` pairs; a key that such a ring gives to its holder is left out.

        Raises:
            InvalidArgument: when ``keys`` cannot be iterated, or a withheld ring has another hash function.
        """
        arcs = self.arcs(member, withheld)
        mine: list[Key] = []
        for chunk in chunks(iterate_keys(keys)):
            inside = arcs.contains(hash_keys(chunk, self._function))
            mine += [chunk[at] for at in inside.nonzero()[0].tolist()]
        return mine

    def arcs(self, member: str, withheld: Withheld = ()) -> Arcs:
        """The part of the hash space that is ``member``'s here, without what is withheld (as in ``subset``).

        What was asked for last is kept, so that a hand-off is worked out once, however often keys are asked for.
        ``InvalidArgument`` when a withheld ring has another hash function.
        """
        return _arcs(self, member, tuple(withheld))

    def _arcs_of(self, members: Iterable[str]) -> Arcs:
        chosen = [self._index_of(member) for member in members if member in self._weights]
        if not chosen:
            return Arcs(np.empty(0, self._function.dtype), False)
        theirs = self._owners == chosen[0]
        for index in chosen[1:]:
            theirs |= self._owners == index
        stops = np.empty(len(theirs), np.bool_)
        np.not_equal(theirs[:-1], theirs[1:], out=stops[:-1])
        stops[-1] = theirs[-1] != theirs[0]
        return Arcs(self._points[stops], bool(theirs[0]))

    def share(self) -> dict[str, float]:
        """The fraction of the hash space that each member owns, by id; together 1, up to rounding."""
        if not self._ids:
            return {}
        leading = leading_64_bits(self._points)
        if leading[0] == leading[-1]:
            lengths = np.zeros(len(leading))
            lengths[0] = 1.0
        else:
            lengths = (leading - np.roll(leading, 1)).astype(np.float64) / 2.0**64
        shares = np.bincount(self._owners, weights=lengths, minlength=len(self._ids))
        return dict(zip(self._ids, shares.tolist(), strict=True))

    def with_members(self, added: Members = (), removed: Iterable[str] = ()) -> Ring:
        """This ring after ``removed`` (ids) left and then ``added`` (as in the constructor) came.

        A member that is added again takes the new weight. The points of members that stay as they are get
        reused: the cost is that of copying arrays, not of hashing and sorting. This ring does not change.

        Raises:
            InvalidArgument: when an id or a weight is not as the constructor expects.
            MemberNotFound: when an id of ``removed`` is not on the ring.
        """
        leaving, coming = _checked_members(removed, "removed"), _checked_members(added, "added")
        for member in leaving.keys() - self._weights.keys():
            raise MemberNotFound(f"an id in removed: got {member!r}, expected a member of this ring")
        come = {member: weight for member, weight in coming.items() if self._weights.get(member) != weight}
        moved = (leaving.keys() - coming.keys()) | (come.keys() & self._weights.keys())
        return self._with(moved, come)

    def _with(self, gone: Collection[str], come: Mapping[str, int]) -> Ring:
        ring = Ring.__new__(Ring)
        ring._set(*self._changed(gone, come))
        return ring

    def _changed(self, gone: Collection[str], come: Mapping[str, int]) -> _State:
        """What ``_set`` takes for the ring after ``gone``, who are here, left and ``come``, who then are not, came."""
        weights = self._weights.copy()
        for member in gone:
            del weights[member]
        weights.update(come)
        ids = sorted(weights)
        places = [bisect_left(ids, member) for member in come]
        stay = np.delete(np.arange(len(self._ids)), [self._index_of(member) for member in gone])
        renumbered = np.full(len(self._ids), -1, np.int32)
        renumbered[stay] = np.delete(np.arange(len(ids)), places)
        points, owners = self._points, renumbered.take(self._owners) if self._ids else self._owners
        if gone:
            points, owners = points[owners >= 0], owners[owners >= 0]
        if come:
            made = [member_points(member, weight, self._vnodes, self._function) for member, weight in come.items()]
            makers = np.repeat(np.array(places, np.int32), [len(part) for part in made])
            points, owners = merged(points, owners, np.concatenate(made), makers)
        return weights, ids, self._vnodes, self._function, points, owners

    def _index_of(self, member: str) -> int:
        return bisect_left(self._ids, member)

    def _position(self, key: object) -> int:
        numbers, _ = self._lookup or self._make_lookup()
        return bisect_right(numbers, self._of_text(key if type(key) is str else str(key)))

    def _make_lookup(self) -> tuple[Sequence[int], Sequence[int]]:
        winners = np.append(self._owners, self._owners[:1])
        self._lookup = hashes_to_numbers(self._points), quick_to_index(winners)
        return self._lookup

    def _owners_at(self, hashes: Hashes) -> npt.NDArray[np.int32]:
        if not self._ids:
            return np.full(len(hashes), -1, np.int32)
        positions = self._points.searchsorted(hashes, side="right")
        return self._owners.take(positions, mode="wrap")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ring):
            return NotImplemented
        alike = (self._vnodes, self._function.name) == (other._vnodes, other._function.name)
        return self is other or (alike and self._weights == other._weights)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash((self._ids, self._vnodes, self._function.name))
        return self._hash

    def __repr__(self) -> str:
        members = f"{len(self._ids)} members" if len(self._ids) > 8 else repr(dict(self.members))
        return f"Ring({members}, vnodes={self._vnodes}, hash_function={self._function.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The arrays travel as they are, out of band with pickle's protocol 5: Ray's readers share one copy.
        return _restored, (self._weights, self._ids, self._vnodes, self._function.name, self._points, self._owners)


def _restored(
    weights: dict[str, int], ids: tuple[str, ...], vnodes: int, name: str, points: Hashes, owners: npt.NDArray[np.int32]
) -> Ring:
    ring = Ring.__new__(Ring)
    ring._set(weights, ids, vnodes, hash_function_named(name), points, owners)
    return ring


def _checked_members(members: Members, name: str) -> dict[str, int]:
    """``members`` as a dict of weights, sorted by id; ``InvalidArgument`` says which of them is not right."""
    if isinstance(members, str) or not isinstance(members, Iterable):
        refuse(name, members, "a mapping of member ids to weights, or an iterable of ids")
    pairs = members.items() if isinstance(members, Mapping) else ((member, 1) for member in members)
    checked: dict[str, int] = {}
    for member, weight in pairs:
        if not isinstance(member, str) or not member:
            refuse(f"an id in {name}", member, "a str that is not empty")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            refuse(f"the weight of {member!r} in {name}", weight, "an int of at least 1")
        checked[member] = weight
    return dict(sorted(checked.items()))


def _same_space(ring: Ring, other: Ring) -> None:
    if ring.hash_function != other.hash_function:
        refuse("ring", other, f"a ring whose hash_function is {ring.hash_function!r}")


@lru_cache(maxsize=_RINGS_KEPT)
def _arcs(ring: Ring, member: str, withheld: tuple[tuple[Ring, str], ...]) -> Arcs:
    held: dict[Ring, list[str]] = {}
    for other, holder in withheld:
        _same_space(ring, other)
        held.setdefault(other, []).append(holder)
    return ring._arcs_of([member]).minus([other._arcs_of(holders) for other, holders in held.items()])


@lru_cache(maxsize=_RINGS_KEPT)
def handovers(old: Ring, new: Ring) -> frozenset[tuple[str, str]]:
    """The pairs ``(a, b)`` of ids such that some hash is ``a``'s in ``old`` and ``b``'s in ``new``.

    Exact, and with the pairs of a member with itself; empty when either ring is. The answers for the pairs of
    rings asked for last are kept. ``InvalidArgument`` when the rings have different hash functions.
    """
    _same_space(old, new)
    if not old.members or not new.members:
        return frozenset()
    # Between neighbouring points of the two rings no owner changes: the points stand for the whole space.
    both = np.concatenate([old._points, new._points])
    order = both.argsort(kind="stable")
    both = both[order]
    at = np.append(both[1:] != both[:-1], True).nonzero()[0]
    old_passed = (order < len(old._points)).cumsum()[at]
    met = np.zeros((len(old._ids), len(new._ids)), np.bool_)
    met[old._owners.take(old_passed, mode="wrap"), new._owners.take(at + 1 - old_passed, mode="wrap")] = True
    pairs = zip(*(axis.tolist() for axis in met.nonzero()), strict=True)
    return frozenset((old._ids[before], new._ids[after]) for before, after in pairs)


_recent: deque[Ring] = deque(maxlen=_RINGS_KEPT)


@lru_cache(maxsize=_RINGS_KEPT)
def ring_of(members: tuple[tuple[str, int], ...], vnodes: int = 160, hash_function: HashName = "xxh3") -> Ring:
    """The ring of ``members`` (pairs of id and weight, sorted by id); any thread may ask.

    The rings asked for last are kept, and a new one is made from the recent one that it has most in common with.
    Raises as ``Ring`` does.
    """
    ring = _made_from_nearest(_checked_members(dict(members), "members"), vnodes, hash_function)
    _recent.append(ring)
    return ring


def _made_from_nearest(wanted: dict[str, int], vnodes: int, hash_function: HashName) -> Ring:
    alike = [ring for ring in tuple(_recent) if (ring.vnodes, ring.hash_function) == (vnodes, hash_function)]
    nearest = max(alike, key=lambda ring: len(ring.members.items() & wanted.items()), default=None)
    if nearest is None:
        return Ring(wanted, vnodes, hash_function)
    gone = dict(nearest.members.items() - wanted.items())
    return nearest._with(gone, dict(wanted.items() - nearest.members.items()))
