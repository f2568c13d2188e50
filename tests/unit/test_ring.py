import pickle
import threading

import numpy as np
import pytest
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uhashring import HashRing

from partition_actor import hash_space
from partition_actor.errors import InvalidArgument, MemberNotFound
from partition_actor.ring import Ring, handovers, ring_of

HASH_FNS = {"xxh3": lambda text: xxhash.xxh3_64_intdigest(text.encode()), "md5": None}

# Without surrogates: there uhashring itself raises.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
odd_ids = st.one_of(
    st.sampled_from(["a", "aa", "a-", "a-0", "a-0-1", "-", "0", "1", "10", "-1", "é", "e\u0301", "日本", "\0", " "]),
    texts.filter(bool),
)
members_of_rings = st.dictionaries(odd_ids, st.integers(1, 3), max_size=6)
hash_names = st.sampled_from(["xxh3", "md5"])
keys_of_any_kind = st.lists(
    st.one_of(texts, st.integers(), st.none(), st.floats(), st.binary(max_size=4), st.tuples(st.integers())),
    max_size=30,
)


def reference(members, vnodes=160, hash_function="xxh3"):
    nodes = {member: {"weight": weight} for member, weight in sorted(members.items())}
    return HashRing(nodes=nodes, vnodes=vnodes, hash_fn=HASH_FNS[hash_function])


def probes(members, vnodes):
    """Keys whose hashes are the points themselves, where the side of the search shows."""
    return [f"{member}-{i}" for member, weight in members.items() for i in range(vnodes * weight)]


@pytest.fixture
def weak_hash(monkeypatch):
    """Only 61 hashes there are, so that most points are shared by members."""

    def of_text(text):
        return xxhash.xxh3_64_intdigest(text.encode()) % 61

    def of_texts(texts):
        return np.array([of_text(text) for text in texts], np.uint64)

    weak = hash_space.HashFunction("xxh3", of_text, of_texts, np.dtype(np.uint64))
    monkeypatch.setitem(hash_space.HASH_FUNCTIONS, "xxh3", weak)
    monkeypatch.setitem(HASH_FNS, "xxh3", of_text)


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


@settings(max_examples=50)
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


def test_with_all_points_shared_the_last_member_has_everything(monkeypatch):
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


@given(members_of_rings, members_of_rings, st.data(), hash_names)
def test_a_changed_ring_is_the_ring_made_afresh(members, added, data, hash_function):
    removed = data.draw(st.lists(st.sampled_from(sorted(members)), unique=True) if members else st.just([]))
    ring = Ring(members, 5, hash_function)
    changed = ring.with_members(added, removed)
    wanted = {member: weight for member, weight in members.items() if member not in removed} | added
    fresh = Ring(wanted, 5, hash_function)
    keys = [f"key-{i}" for i in range(50)] + probes(wanted, 5)
    assert changed == fresh
    assert hash(changed) == hash(fresh)
    assert list(changed.members) == sorted(wanted)
    assert changed.owners_of(keys).tolist() == fresh.owners_of(keys).tolist()
    assert ring == Ring(members, 5, hash_function)


def test_a_changed_ring_hashes_only_the_points_of_the_newcomer(monkeypatch):
    ring = Ring([f"worker-{i}" for i in range(50)])
    hashed = []
    plain = hash_space.HASH_FUNCTIONS["xxh3"]

    def counting(text):
        hashed.append(text)
        return plain.of_text(text)

    spy = hash_space.HashFunction("xxh3", counting, plain.of_texts, plain.dtype)
    monkeypatch.setattr(ring, "_function", spy)
    ring.with_members(["new"], ["worker-7"])
    assert hashed == [f"new-{i}" for i in range(160)]


@given(st.permutations(["a", "b", "a-1", "10", "9"]))
def test_the_order_in_which_members_come_does_not_matter(order):
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
def test_shares_follow_the_weights_and_what_keys_do(hash_function):
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


def test_only_the_keys_that_must_move_do():
    old = Ring([f"worker-{i}" for i in range(100)])
    new = old.with_members(["newcomer"])
    keys = [f"key-{i}" for i in range(100_000)]
    old_ids, new_ids = list(old.members), list(new.members)
    moved = [
        (old_ids[a], new_ids[b])
        for a, b in zip(old.owners_of(keys), new.owners_of(keys), strict=True)
        if old_ids[a] != new_ids[b]
    ]
    assert {to for _, to in moved} == {"newcomer"}
    assert len(moved) / len(keys) == pytest.approx(new.share()["newcomer"], rel=0.05)


@settings(max_examples=50)
@given(members_of_rings, members_of_rings, hash_names)
def test_handovers_are_those_that_some_key_makes(old, new, hash_function):
    before, after = Ring(old, 3, hash_function), Ring(new, 3, hash_function)
    pairs = handovers(before, after)
    # A key at each point of either ring is in every arc between neighbouring points.
    keys = [*probes(old, 3), *probes(new, 3)]
    expected = {(before.owner(key), after.owner(key)) for key in keys} if old and new else set()
    assert pairs == expected


def test_handovers_keep_the_members_that_keep_keys():
    old = Ring(["a", "b"])
    assert handovers(old, old) == {("a", "a"), ("b", "b")}
    assert handovers(old, old.with_members(["c"])) == {("a", "a"), ("b", "b"), ("a", "c"), ("b", "c")}
    assert handovers(old, old.with_members(removed=["b"])) == {("a", "a"), ("b", "a")}
    assert handovers(old, Ring([])) == frozenset()
    assert handovers(old, Ring(["a", "b"])) is handovers(Ring(["b", "a"]), old)
    with pytest.raises(InvalidArgument, match="hash_function"):
        handovers(old, Ring(["a"], hash_function="md5"))


@given(members_of_rings, members_of_rings, st.lists(members_of_rings, max_size=2), hash_names)
def test_withheld_keys_are_left_out(members, first, more, hash_function):
    ring = Ring(members, 4, hash_function)
    rings = [Ring(held, 4, hash_function) for held in (first, *more)]
    keys = [f"key-{i}" for i in range(60)] + probes(members, 4) + probes(first, 4)
    for member in members:
        for holder in first:
            withheld = [(held, holder) for held in rings]
            expected = [
                key
                for key in keys
                if ring.owner(key) == member and not any(held.owner(key) == holder for held in rings)
            ]
            assert ring.subset(member, keys, withheld) == expected


def test_subset_takes_what_holds_keys_and_keeps_order_and_repeats():
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
    monkeypatch.setattr(hash_space, "_CHUNK", 7)
    ring = Ring(["a", "b", "c"])
    keys = [f"key-{i}" for i in range(50)]
    owners = [ring.owner(key) for key in keys]
    assert [list(ring.members)[index] for index in ring.owners_of(keys)] == owners
    assert ring.subset("b", iter(keys)) == [key for key, owner in zip(keys, owners, strict=True) if owner == "b"]


@pytest.mark.parametrize("hash_function", HASH_FNS)
def test_a_ring_pickles_as_its_arrays(hash_function, monkeypatch):
    ring = Ring({"a": 1, "b": 2}, hash_function=hash_function)
    buffers = []
    pickled = pickle.dumps(ring, protocol=5, buffer_callback=buffers.append)
    monkeypatch.setattr("partition_actor.ring.HashRing", None)
    restored = pickle.loads(pickled, buffers=buffers)
    keys = [f"key-{i}" for i in range(100)]
    assert restored == ring
    assert [restored.owner(key) for key in keys] == [ring.owner(key) for key in keys]
    assert restored.subset("a", keys) == ring.subset("a", keys)
    assert np.shares_memory(restored._points, ring._points)


def test_a_ring_cannot_be_changed():
    members = {"a": 1}
    ring = Ring(members)
    members["b"] = 1
    assert dict(ring.members) == {"a": 1}
    with pytest.raises(TypeError):
        ring.members["b"] = 1
    with pytest.raises(ValueError, match="read-only"):
        ring._points[0] = 0


def test_equality_is_of_content():
    assert Ring(["a"]) == Ring({"a": 1})
    assert len({Ring(["a"]), Ring({"a": 1}), Ring({"a": 2}), Ring(["a"], 8), Ring(["a"], hash_function="md5")}) == 4
    assert Ring(["a"]) != "a"
    assert "'a': 1" in repr(Ring(["a"]))
    assert "9 members" in repr(Ring(["abcdefghi"] + [str(i) for i in range(8)]))


def test_ring_of_makes_a_ring_once_and_from_the_nearest(monkeypatch):
    made = []
    points = Ring.__module__ + "._member_points"
    import partition_actor.ring as module

    plain = module._member_points
    monkeypatch.setattr(points, lambda member, *rest: made.append(member) or plain(member, *rest))
    monkeypatch.setattr(module, "_rings", module.OrderedDict())
    members = tuple((f"w{i}", 1) for i in range(5))
    rings = []
    threads = [threading.Thread(target=lambda: rings.append(ring_of(members))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ring is rings[0] for ring in rings)
    assert made == ["w0", "w1", "w2", "w3", "w4"]
    made.clear()
    changed = ring_of((*members[1:], ("w5", 1)))
    assert made == ["w5"]
    assert changed == Ring([f"w{i}" for i in range(1, 6)])
    assert ring_of(members, 8).vnodes == 8
    assert ring_of(members, 8, "md5").hash_function == "md5"
    for i in range(100):
        ring_of(((f"x{i}", 1),), 2)
    assert len(module._rings) == module._RINGS_KEPT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("abc",), "members: got 'abc', expected a mapping"),
        ((None,), "members: got None"),
        (([""],), "an id in members: got '', expected a str that is not empty"),
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
