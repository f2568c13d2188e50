import doctest

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ring_cases import HASH_FNS, hash_names, keys_of_any_kind, members_of_rings, probes, reference, texts

import partition_actor.ring.ring
from partition_actor.errors import InvalidArgument, MemberNotFound
from partition_actor.ring import Ring, hash_space, key_index


@pytest.fixture
def weak_hash(monkeypatch):
    """A hash with 61 values, so that members share most points."""

    def of_text(text):
        return xxhash.xxh3_64_intdigest(text.encode()) % 61

    def of_texts(texts):
        return np.array([of_text(text) for text in texts], np.uint64)

    weak = hash_space.HashFunction("xxh3", of_text, of_texts, np.dtype(np.uint64))
    monkeypatch.setitem(hash_space.HASH_FUNCTIONS, "xxh3", weak)
    monkeypatch.setitem(HASH_FNS, "xxh3", of_text)


@settings(deadline=None)
@given(members_of_rings, st.integers(1, 9), hash_names, keys_of_any_kind)
@example({}, 1, "xxh3", ["k"])
@example({"only": 1}, 1, "md5", ["k", "only-0"])
@example({"a": 1, "a-0": 2, "a-": 3}, 8, "xxh3", [])
def test_every_owner_is_uhashrings(members, vnodes, hash_function, keys):
    ring = Ring(members, vnodes, hash_function)
    peer = reference(members, vnodes, hash_function)
    ids = list(ring.members)
    keys = keys + probes(members, vnodes)
    owners = [peer.get_node(str(key)) for key in keys]

    assert [ring.owner(key) for key in keys] == owners
    assert [ids[index] if index >= 0 else None for index in ring.owners_of(keys)] == owners
    for member in ids:
        assert ring.subset(member, keys) == [key for key, owner in zip(keys, owners, strict=True) if owner == member]


@settings(deadline=None)
@given(members_of_rings.filter(bool), st.integers(1, 9), hash_names, texts, st.integers(1, 8))
def test_successors_are_uhashrings_range(members, vnodes, hash_function, key, n):
    peer = reference(members, vnodes, hash_function)
    expected = [node["nodename"] for node in peer.range(key, size=n)]
    owners = Ring(members, vnodes, hash_function).owners(key, n)
    assert owners == expected
    assert owners[0] == peer.get_node(key)
    assert len(owners) == min(n, len(members))


def test_a_large_ring_is_uhashrings():
    members = {f"worker-{i}": 1 + i % 3 for i in range(100)}
    keys = [f"key-{i}" for i in range(20_000)]
    ids = sorted(members)
    for hash_function in HASH_FNS:
        peer = reference(members, hash_function=hash_function)
        owners = Ring(members, hash_function=hash_function).owners_of(keys)
        assert [ids[index] for index in owners] == [peer.get_node(key) for key in keys]


@settings(max_examples=50, deadline=None)
@given(members_of_rings, st.integers(1, 9))
@pytest.mark.usefixtures("weak_hash")
def test_shared_points_are_resolved_as_uhashring_does(members, vnodes):
    ring, peer = Ring(members, vnodes), reference(members, vnodes)
    keys = [f"key-{i}" for i in range(200)]
    assert [ring.owner(key) for key in keys] == [peer.get_node(key) for key in keys]
    if members:
        nodes = [[node["nodename"] for node in peer.range(key)] for key in keys]
        assert [ring.owners(key, len(members)) for key in keys] == nodes
    for member in members:
        assert ring.subset(member, keys) == [key for key in keys if peer.get_node(key) == member]
        without = ring.with_members(removed=[member])
        assert without == Ring({m: w for m, w in members.items() if m != member}, vnodes)
        expected = reference(dict(without.members), vnodes)
        assert [without.owner(key) for key in keys] == [expected.get_node(key) for key in keys]
        back = without.with_members({member: members[member]})
        assert back.owners_of(keys).tolist() == ring.owners_of(keys).tolist()


def test_if_all_points_are_shared_the_last_member_owns_everything(monkeypatch):
    monkeypatch.setitem(HASH_FNS, "xxh3", lambda text: 7)
    one = hash_space.HashFunction(
        "xxh3", lambda text: 7, lambda texts: np.full(len(texts), 7, np.uint64), np.dtype("u8")
    )
    monkeypatch.setitem(hash_space.HASH_FUNCTIONS, "xxh3", one)
    ring = Ring(["a", "b", "c"], vnodes=3)
    assert ring.owner("k") == reference({"a": 1, "b": 1, "c": 1}, 3).get_node("k") == "c"
    assert ring.share() == {"a": 0.0, "b": 0.0, "c": 1.0}
    assert ring.owners("k", 3) == ["c"]
    assert ring.subset("c", ["k"]) == ["k"]
    assert ring.subset("a", ["k"]) == []


@settings(deadline=None)
@given(st.permutations(["a", "b", "a-1", "10", "9"]))
def test_the_order_of_the_members_does_not_matter(order):
    ring = Ring(order, vnodes=4)
    assert ring == Ring(["a", "b", "a-1", "10", "9"], vnodes=4)
    assert list(ring.members) == ["10", "9", "a", "a-1", "b"]


def test_lone_surrogates_are_keys_and_ids_too():
    for hash_function in HASH_FNS:
        ring = Ring(["a", "b\udc80"], 8, hash_function)
        keys = ["plain", "broken\udcff", "\ud800"] * 30
        owners = [ring.owner(key) for key in keys]
        assert [list(ring.members)[index] for index in ring.owners_of(keys)] == owners
        assert sorted(ring.subset("a", keys) + ring.subset("b\udc80", keys)) == sorted(keys)


def test_the_identity_of_a_key_is_its_str():
    class Named(str):
        def __str__(self):
            return "name"

    ring = Ring([f"m{i}" for i in range(50)])
    for key in (Named("other"), b"bytes", 5, 2.5, None, np.float32(0.1), np.str_("x")):
        owner = ring.owner(str(key))
        assert ring.owner(key) == owner
        assert ring.subset(owner, [key]) == [key]


@pytest.mark.parametrize("hash_function", HASH_FNS)
def test_shares_follow_the_weights_and_keys_follow_the_shares(hash_function):
    members = {"a": 1, "b": 2, "c": 4}
    ring = Ring(members, 500, hash_function)
    share = ring.share()
    assert sum(share.values()) == pytest.approx(1)
    assert share == pytest.approx({"a": 1 / 7, "b": 2 / 7, "c": 4 / 7}, rel=0.15)
    keys = [f"key-{i}" for i in range(50_000)]
    counted = np.bincount(ring.owners_of(keys), minlength=3) / len(keys)
    assert counted == pytest.approx(list(share.values()), abs=0.01)
    assert Ring(["only"], 1, hash_function).share() == {"only": 1.0}
    assert Ring([]).share() == {}


def test_subset_takes_any_iterable_and_keeps_order_and_repeats():
    pa = pytest.importorskip("pyarrow")
    ring = Ring(["a", "b"])
    keys = ["k3", "k1", "k2", "k1", "k9", "k1"] * 3
    mine = [key for key in keys if ring.owner(key) == "a"]
    assert 0 < len(mine) < len(keys)
    arrow = pa.array(keys)
    for given_keys in (
        keys,
        tuple(keys),
        iter(keys),
        (key for key in keys),
        np.array(keys),
        np.array(keys, object),
        arrow,
        pa.chunked_array([arrow.slice(0, 5), arrow.slice(5)]),
        arrow.dictionary_encode(),
    ):
        got = ring.subset("a", given_keys)
        assert got == mine
        assert {type(key) for key in got} == {str}
    unique = dict.fromkeys(keys)
    assert ring.subset("a", unique.keys()) == list(dict.fromkeys(mine))
    assert ring.subset("nobody", keys) == []
    assert ring.subset("a", []) == []
    assert Ring([]).subset("a", keys) == []
    assert Ring([]).owners_of(keys).tolist() == [-1] * len(keys)
    assert Ring([]).owner("k") is None
    assert Ring([]).owners("k", 2) == []
    assert ring.owners_of([]).shape == (0,)


def test_numbers_in_arrays_keep_the_identity_of_their_elements():
    ring = Ring(["a", "b", "c"])
    for array in (np.arange(50), np.linspace(0, 1, 50, dtype=np.float32), np.arange(50).astype("M8[D]")):
        split = [ring.subset(member, array) for member in ring.members]
        assert split == [[key for key in array if ring.owner(key) == member] for member in ring.members]


def test_more_keys_than_one_chunk(monkeypatch):
    monkeypatch.setattr(hash_space, "CHUNK", 7)
    ring = Ring(["a", "b", "c"])
    keys = [f"key-{i}" for i in range(50)]
    owners = [ring.owner(key) for key in keys]
    assert [list(ring.members)[index] for index in ring.owners_of(keys)] == owners
    assert ring.subset("b", iter(keys)) == [key for key, owner in zip(keys, owners, strict=True) if owner == "b"]


def test_a_ring_cannot_be_changed():
    members = {"a": 1}
    ring = Ring(members)
    members["b"] = 1
    assert dict(ring.members) == {"a": 1}
    with pytest.raises(TypeError):
        ring.members["b"] = 1


@pytest.mark.parametrize("module", [partition_actor.ring.ring, key_index])
def test_the_examples_in_the_docstrings_hold(module):
    failed, attempted = doctest.testmod(module)
    assert not failed
    assert attempted


def test_equality_is_of_content():
    assert Ring(["a"]) == Ring({"a": 1})
    assert len({Ring(["a"]), Ring({"a": 1}), Ring({"a": 2}), Ring(["a"], 8), Ring(["a"], hash_function="md5")}) == 4
    assert Ring(["a"]) != "a"
    assert "'a': 1" in repr(Ring(["a"]))
    assert "9 members" in repr(Ring(["abcdefghi"] + [str(i) for i in range(8)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc",), "members: got 'abc', expected a mapping"),
        ((None,), "members: got None"),
        (([""],), "an id in members: got '', expected a non-empty str"),
        (([1],), "an id in members: got 1"),
        ((["a", ["b"]],), "an id in members: got \\['b'\\]"),
        (({"a": 0},), "the weight of 'a' in members: got 0, expected an int of at least 1"),
        (({"a": True},), "the weight of 'a' in members: got True"),
        (({"a": 1.5},), "the weight of 'a' in members: got 1.5"),
        ((["a"], 0), "vnodes: got 0, expected an int of at least 1"),
        ((["a"], True), "vnodes: got True"),
        ((["a"], 8, "sha1"), "hash_function: got 'sha1', expected one of \\['md5', 'xxh3'\\]"),
        ((["a"], 8, None), "hash_function: got None"),
        ((["a"], 8, []), "hash_function: got \\[\\]"),
    ],
)
def test_what_a_ring_refuses(arguments, message):
    with pytest.raises(InvalidArgument, match=message):
        Ring(*arguments)


def test_what_its_methods_refuse():
    ring = Ring(["a", "b"])
    for keys in (None, 5, "one text", b"bytes", np.zeros((2, 2))):
        for call in (ring.owners_of, lambda keys: ring.subset("a", keys), lambda keys: ring.subset("nobody", keys)):
            with pytest.raises(InvalidArgument, match="keys: got"):
                call(keys)
    for n in (0, -1, True, 1.0):
        with pytest.raises(InvalidArgument, match="n: got"):
            ring.owners("k", n)
    with pytest.raises(InvalidArgument, match="removed"):
        ring.with_members(removed="a")
    with pytest.raises(InvalidArgument, match="the weight of 'c' in added"):
        ring.with_members({"c": 0})
    with pytest.raises(MemberNotFound, match="'c'"):
        ring.with_members(removed=["c"])
    with pytest.raises(InvalidArgument, match="hash_function is 'xxh3'"):
        ring.subset("a", [], withheld=[(Ring(["a"], hash_function="md5"), "a")])
