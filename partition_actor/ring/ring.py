"""Who owns a key: a consistent hash ring (Karger et al., STOC 1997) with the answers of uhashring at numpy's speed.

A member has ``vnodes * weight`` virtual nodes. Virtual node ``i`` lies at the hash of ``f"{member_id}-{i}"``: its
*point*, computed by uhashring. A key belongs to the member of the first point after the key's hash; after the last
point, to the member of the first one. If members share a point, it belongs to the one whose id sorts last.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any
from weakref import ref

import numpy as np
import numpy.typing as npt

from partition_actor.arguments import refuse
from partition_actor.errors import MemberNotFound
from partition_actor.ring.byte_cache import ByteCache
from partition_actor.ring.hash_space import (
    Arcs,
    Hashes,
    HashFunction,
    HashName,
    Key,
    bytes_of_numbers,
    bytes_of_sequence,
    chunks,
    hash_function_named,
    hash_keys,
    hashes_to_numbers,
    int_sequence,
    iterate_keys,
    leading_64_bits,
    merge_points,
    virtual_nodes,
)

Members = Mapping[str, int] | Iterable[str]
Withheld = Iterable[tuple["Ring", str]]
_Fields = tuple[dict[str, int], Sequence[str], int, str, Hashes, npt.NDArray[np.int32]]

# About how many bytes containers take beside what they hold: a ring and each of its members, an identity likewise, and
# a pair of ids.
_RING_BYTES, _MEMBER_BYTES = 4000, 250
_IDENTITY_BYTES, _MEMBER_IDENTITY_BYTES = 400, 200
_PAIR_BYTES = 120

_Identity = tuple[frozenset[tuple[str, int]], int, HashFunction]
"""Equal for equal rings: the members with their weights, ``vnodes``, and the hash function."""


class Ring:
    """An immutable consistent hash ring. Rings are equal if their members, weights and settings are, in any order.

    A key is any object; its identity is ``str(key)`` in UTF-8. For every key whose text is valid UTF-8, ``owner(key)``
    equals uhashring's ``HashRing(nodes=nodes, vnodes=vnodes, hash_fn=hash_fn).get_node(str(key))``, where ``nodes`` is
    ``{member: {"weight": weight} for member, weight in sorted(members.items())}`` and ``hash_fn`` is ``None`` for md5
    and ``lambda text: xxhash.xxh3_64_intdigest(text.encode())`` for xxh3. Lone surrogates are encoded with
    ``surrogatepass``.

    Args:
        members: non-empty ids with their weights (``int``, at least 1), or just ids, each of weight 1.
        vnodes: virtual nodes for each unit of weight. More make shares more even; with xxh3 each takes 12 bytes.
        hash_function: ``"xxh3"`` (64 bits) or ``"md5"`` (128 bits, uhashring's default; slower).

    Raises:
        InvalidArgument: an id, a weight, ``vnodes`` or ``hash_function`` is not as above.

    >>> ring = Ring({"a": 1, "b": 2})
    >>> ring.owner("some key") in ring.members
    True
    """

    def __init__(self, members: Members, vnodes: int = 160, hash_function: HashName = "xxh3") -> None:
        if isinstance(vnodes, bool) or not isinstance(vnodes, int) or vnodes < 1:
            refuse("vnodes", vnodes, "an int of at least 1")
        no_points = np.empty(0, hash_function_named(hash_function).dtype)
        wanted = _checked_members(members, "members")
        self._set(({}, [], vnodes, hash_function, no_points, np.empty(0, np.int32)))
        self._set(self._fields_after([], wanted))

    def _set(self, fields: _Fields) -> None:
        weights, ids, vnodes, hash_function, points, owners = fields
        self._weights, self._ids = weights, tuple(ids)
        self._members: Mapping[str, int] | None = None
        self._vnodes, self._function = vnodes, hash_function_named(hash_function)
        self._of_text = self._function.of_text
        # Every point of every member, sorted by point and then by descending member index. The owner of a shared point
        # comes first and the others' arcs are empty; if the owner leaves, the next one takes over.
        points.flags.writeable = owners.flags.writeable = False
        self._points, self._owners = points, owners
        # For `owner`: the points as numbers, and the owner of each, with the first owner repeated at the end.
        self._lookup: tuple[Sequence[int], Sequence[int]] | None = None
        self._made_identity: _Identity | None = None

    @property
    def members(self) -> Mapping[str, int]:
        """The weight of each member, sorted by id. Read-only."""
        if self._members is None:
            self._members = MappingProxyType({member: self._weights[member] for member in self._ids})
        return self._members

    @property
    def vnodes(self) -> int:
        """The number of virtual nodes for each unit of weight."""
        return self._vnodes

    @property
    def hash_function(self) -> str:
        """The name of the hash: ``"xxh3"`` or ``"md5"``."""
        return self._function.name

    @property
    def nbytes(self) -> int:
        """About how many bytes it takes, with what it makes when it is first asked."""
        index_bytes = 0 if len(self._ids) <= 257 else 32  # Python has one object for each small int
        lookup = bytes_of_numbers(self._points) + self._owners.nbytes + bytes_of_sequence(self._owners, index_bytes)
        members = sum(map(len, self._ids)) + _MEMBER_BYTES * len(self._ids)
        return self._points.nbytes + self._owners.nbytes + lookup + members + _RING_BYTES

    def owner(self, key: object) -> str | None:
        """The id of the member that owns ``key``; ``None`` if the ring is empty."""
        if not self._ids:
            return None
        points, owners = self._lookup or self._make_lookup()
        return self._ids[owners[bisect_right(points, self._of_text(key if type(key) is str else str(key)))]]

    def owners(self, key: object, n: int) -> list[str]:
        """The owner of ``key`` and the members after it on the ring, at most ``n`` distinct ones: where replicas go.

        The order is that of uhashring's ``HashRing.range(str(key), size=n)``. Raises ``InvalidArgument`` if ``n`` is
        not an ``int`` of at least 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            refuse("n", n, "an int of at least 1")
        count = len(self._points)
        points, _ = self._lookup or self._make_lookup()
        start = bisect_right(points, self._of_text(str(key)))
        found: dict[int, None] = {}
        for at in chain(range(start, count), range(start)):
            if at and self._points[at] == self._points[at - 1]:
                continue  # a shared point: it belongs to the member before
            found[int(self._owners[at])] = None
            if len(found) == n:
                break
        return [self._ids[index] for index in found]

    def owners_of(self, keys: Iterable[object]) -> npt.NDArray[np.int32]:
        """The owner of each key as an index into ``list(ring.members)``; -1 if the ring is empty.

        Takes ``keys`` as ``subset`` does. Returns an array of shape ``(number of keys,)`` in the order of ``keys``.
        Raises ``InvalidArgument`` if ``keys`` is not iterable.
        """
        owners = self._owners if self._ids else np.array([-1], np.int32)
        parts = [
            owners.take(self._points.searchsorted(hash_keys(chunk, self._function), side="right"), mode="wrap")
            for chunk in chunks(iterate_keys(keys))
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def subset(self, member: str, keys: Iterable[Key], withheld: Withheld = ()) -> list[Key]:
        """The keys that ``member`` owns, in the order of ``keys``, each as often as it occurs there.

        Args:
            member: a member's id. If it is not on the ring, the list is empty.
            keys: any iterable (read once), a one-dimensional numpy array or an Arrow array. Elements of Arrow arrays,
                and of numpy arrays of text, integers, booleans or objects, are returned as Python objects.
            withheld: ``(ring, holder)`` pairs. Keys that ``holder`` owns on its ``ring`` are left out; during a
                hand-off these are the keys that previous owners have not released yet.

        Raises:
            InvalidArgument: ``keys`` is not iterable, or a withheld ring has another hash function.
        """
        return self.arcs(member, withheld).subset(keys)

    def arcs(self, member: str, withheld: Withheld = ()) -> Arcs:
        """The part of the hash space that ``member`` owns, without what is withheld (as in ``subset``).

        Recent results are kept: a hand-off is computed once, however often subsets are asked for. Raises as ``subset``
        does.
        """
        withheld = tuple(withheld)
        key = self._identity, member, tuple((other._identity, holder) for other, holder in withheld)
        arcs = _arcs.get(key)
        if arcs is None:
            held: dict[Ring, list[str]] = {}
            for other, holder in withheld:
                _same_space(self, other)
                held.setdefault(other, []).append(holder)
            arcs = self._arcs_of([member]).minus([other._arcs_of(holders) for other, holders in held.items()])
            of_rings = _identity_bytes(self._identity, *(other._identity for other in held))
            _arcs.put(key, arcs, arcs.boundaries.nbytes + of_rings)
        return arcs

    def _arcs_of(self, members: Iterable[str]) -> Arcs:
        chosen = [bisect_left(self._ids, member) for member in members if member in self._weights]
        if not chosen:
            return Arcs(np.empty(0, self._function.dtype), False, self._function)
        theirs = self._owners == chosen[0]
        for index in chosen[1:]:
            theirs |= self._owners == index
        stops = np.empty(len(theirs), np.bool_)
        np.not_equal(theirs[:-1], theirs[1:], out=stops[:-1])
        stops[-1] = theirs[-1] != theirs[0]
        return Arcs(self._points[stops], bool(theirs[0]), self._function)

    def share(self) -> dict[str, float]:
        """The fraction of the hash space that each member owns, by id. They add up to 1, but for rounding."""
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
        """A new ring without ``removed`` (ids) and with ``added`` (as in the constructor).

        Adding a member of the ring changes its weight. Points of other members are copied, not hashed and sorted again.

        Raises:
            InvalidArgument: an id or a weight is not as the constructor expects.
            MemberNotFound: an id of ``removed`` is not on the ring.
        """
        leaving, coming = _checked_members(removed, "removed"), _checked_members(added, "added")
        for member in leaving.keys() - self._weights.keys():
            raise MemberNotFound(f"an id in removed: got {member!r}, expected a member of this ring")
        come = {member: weight for member, weight in coming.items() if self._weights.get(member) != weight}
        moved = (leaving.keys() - coming.keys()) | (come.keys() & self._weights.keys())
        return _ring(self._fields_after(moved, come))

    def _fields_after(self, gone: Collection[str], come: Mapping[str, int]) -> _Fields:
        """The fields of this ring without ``gone`` (members of it) and with ``come`` (not members)."""
        weights = self._weights.copy()
        for member in gone:
            del weights[member]
        weights.update(come)
        ids = sorted(weights)
        new_indexes = [bisect_left(ids, member) for member in come]
        stay = np.delete(np.arange(len(self._ids)), [bisect_left(self._ids, member) for member in gone])
        renumbered = np.full(len(self._ids), -1, np.int32)
        renumbered[stay] = np.delete(np.arange(len(ids)), new_indexes)
        points, owners = self._points, renumbered.take(self._owners) if self._ids else self._owners
        if gone:
            points, owners = points[owners >= 0], owners[owners >= 0]
        if come:
            new = [virtual_nodes(member, weight, self._vnodes, self._function) for member, weight in come.items()]
            new_owners = np.repeat(np.array(new_indexes, np.int32), [len(part) for part in new])
            points, owners = merge_points(points, owners, np.concatenate(new), new_owners)
        return weights, ids, self._vnodes, self._function.name, points, owners

    def _make_lookup(self) -> tuple[Sequence[int], Sequence[int]]:
        owners = np.append(self._owners, self._owners[:1])
        self._lookup = hashes_to_numbers(self._points), int_sequence(owners)
        return self._lookup

    @property
    def _identity(self) -> _Identity:
        if self._made_identity is None:
            self._made_identity = frozenset(self._weights.items()), self._vnodes, self._function
        return self._made_identity

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, Ring) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        members = f"{len(self._ids)} members" if len(self._ids) > 8 else repr(dict(self.members))
        return f"Ring({members}, vnodes={self._vnodes}, hash_function={self._function.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The arrays are pickled out of band (protocol 5), so that Ray's readers share one copy of them.
        return _ring, ((self._weights, self._ids, self._vnodes, self._function.name, self._points, self._owners),)


def _ring(fields: _Fields) -> Ring:
    ring = Ring.__new__(Ring)
    ring._set(fields)
    return ring


def _checked_members(members: Members, name: str) -> dict[str, int]:
    """``members`` as a dict of weights, sorted by id. ``InvalidArgument`` names the argument ``name`` and the entry."""
    if isinstance(members, str) or not isinstance(members, Iterable):
        refuse(name, members, "a mapping of member ids to weights, or an iterable of ids")
    pairs = members.items() if isinstance(members, Mapping) else ((member, 1) for member in members)
    checked: dict[str, int] = {}
    for member, weight in pairs:
        if not isinstance(member, str) or not member:
            refuse(f"an id in {name}", member, "a non-empty str")
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
            refuse(f"the weight of {member!r} in {name}", weight, "an int of at least 1")
        checked[member] = weight
    return dict(sorted(checked.items()))


def _same_space(ring: Ring, other: Ring) -> None:
    if ring.hash_function != other.hash_function:
        refuse("ring", other, f"a ring whose hash_function is {ring.hash_function!r}")


# What is kept for the whole process takes at most 64 MB together.
_MB = 1 << 20
_rings: ByteCache[Ring] = ByteCache(40 * _MB)
_arcs: ByteCache[Arcs] = ByteCache(16 * _MB)
_handovers: ByteCache[frozenset[tuple[str, str]]] = ByteCache(8 * _MB)
# Also rings that are kept no longer, as others may hold them: they can be had again, and changed into others.
_recent: deque[ref[Ring]] = deque(maxlen=32)


def _identity_bytes(*identities: _Identity) -> int:
    return sum(_IDENTITY_BYTES + _MEMBER_IDENTITY_BYTES * len(members) for members, _, _ in identities)


def handovers(old: Ring, new: Ring) -> frozenset[tuple[str, str]]:
    """All pairs ``(a, b)`` of ids where ``a`` owns some hash on ``old`` and ``b`` owns it on ``new``.

    Exact, and includes pairs with ``a == b``; empty if either ring is. Recent answers are kept. Raises
    ``InvalidArgument`` if the rings have different hash functions.
    """
    _same_space(old, new)
    key = old._identity, new._identity
    pairs = _handovers.get(key)
    if pairs is None:
        pairs = _handovers_of(old, new)
        _handovers.put(key, pairs, _PAIR_BYTES * len(pairs) + _identity_bytes(*key))
    return pairs


def _handovers_of(old: Ring, new: Ring) -> frozenset[tuple[str, str]]:
    if not old.members or not new.members:
        return frozenset()
    # Owners change only at points of the two rings, so checking those points covers the whole hash space.
    both = np.concatenate([old._points, new._points])
    order = both.argsort(kind="stable")
    both = both[order]
    at = np.append(both[1:] != both[:-1], True).nonzero()[0]
    old_before = (order < len(old._points)).cumsum()[at]
    found = np.zeros((len(old._ids), len(new._ids)), np.bool_)
    found[old._owners.take(old_before, mode="wrap"), new._owners.take(at + 1 - old_before, mode="wrap")] = True
    pairs = zip(*(axis.tolist() for axis in found.nonzero()), strict=True)
    return frozenset((old._ids[before], new._ids[after]) for before, after in pairs)


def owners_at_even_places(ring: Ring, count: int) -> npt.NDArray[np.int32]:
    """The owners of ``count`` hashes at even distances, in the order of the hashes: what a drawing of the ring needs.

    Each is an index into ``list(ring.members)``. Empty for an empty ring.
    """
    if not ring.members:
        return np.empty(0, np.int32)
    places = np.array([((2 * step + 1) << 63) // count for step in range(count)], np.uint64)
    return ring._owners.take(leading_64_bits(ring._points).searchsorted(places, side="right"), mode="wrap")


def place_of(ring: Ring, key: object) -> float:
    """Where ``key`` lies on the ring: its hash as a fraction of the hash space, from 0 up to 1."""
    return ring._of_text(str(key)) / 2.0 ** (8 * ring._function.dtype.itemsize)


def ring_of(members: Iterable[tuple[str, int]], vnodes: int = 160, hash_function: HashName = "xxh3") -> Ring:
    """The ring of ``members``, which are pairs of id and weight. Thread-safe.

    Recent rings are kept, and a new ring is derived from the recent one with the most members in common. Raises as
    ``Ring`` does.
    """
    return _ring_of((frozenset(members), vnodes, hash_function_named(hash_function)))


def _ring_of(identity: _Identity) -> Ring:
    ring = _rings.get(identity)
    if ring is None:
        ring = _recent_or_new(identity)
        _recent.append(ref(ring))
        _rings.put(identity, ring, ring.nbytes)
    return ring


def _recent_or_new(identity: _Identity) -> Ring:
    members, vnodes, function = identity
    wanted = _checked_members(dict(members), "members")
    alive = [ring for each in _recent.copy() if (ring := each()) is not None]
    comparable = [ring for ring in alive if ring._identity[1:] == identity[1:]]
    nearest = max(comparable, key=lambda ring: len(ring._identity[0] & members), default=None)
    if nearest is None:
        return Ring(wanted, vnodes, function.name)
    gone, come = nearest._identity[0] - members, members - nearest._identity[0]
    return _ring(nearest._fields_after(dict(gone), dict(come))) if gone or come else nearest


def arcs_of(
    members: Iterable[tuple[str, int]], holders: Iterable[str], vnodes: int = 160, hash_function: HashName = "xxh3"
) -> Arcs:
    """The part of the hash space that belongs to ``holders`` on the ring of ``members``, as ``ring_of`` takes them.

    Recent results are kept. They take far less than rings, so they outlast them. Raises as ``Ring`` does.
    """
    identity = frozenset(members), vnodes, hash_function_named(hash_function)
    key = identity, frozenset(holders)
    arcs = _arcs.get(key)
    if arcs is None:
        arcs = _ring_of(identity)._arcs_of(key[1])
        _arcs.put(key, arcs, arcs.boundaries.nbytes + _identity_bytes(identity))
    return arcs
