import gc
import pickle
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_cases import HASH_FNS, hash_names, members_of_rings, probes

import partition_actor.ring.ring as ring_module
from partition_actor.errors import InvalidArgument
from partition_actor.ring import Ring, arcs_of, handovers, hash_space, ring_of


@settings(deadline=None)
@given(members_of_rings, members_of_rings, st.data(), hash_names)
def test_a_changed_ring_equals_one_built_from_its_members(members, added, data, hash_function):
    removed = data.draw(st.lists(st.sampled_from(sorted(members)), unique=True) if members else st.just([]))
    ring = Ring(members, 5, hash_function)
    owners = ring.owners_of(probes(members, 5)).tolist()
    changed = ring.with_members(added, removed)
    wanted = {member: weight for member, weight in members.items() if member not in removed} | added
    fresh = Ring(wanted, 5, hash_function)
    keys = [f"key-{i}" for i in range(50)] + probes(wanted, 5)
    assert changed == fresh
    assert hash(changed) == hash(fresh)
    assert list(changed.members) == sorted(wanted)
    assert changed.owners_of(keys).tolist() == fresh.owners_of(keys).tolist()
    assert dict(ring.members) == members
    assert ring.owners_of(probes(members, 5)).tolist() == owners


def test_a_changed_ring_hashes_only_the_newcomers_virtual_nodes(monkeypatch):
    hashed = []
    plain = hash_space.HASH_FUNCTIONS["xxh3"]

    def counting(text):
        hashed.append(text)
        return plain.of_text(text)

    spy = hash_space.HashFunction("xxh3", counting, plain.of_texts, plain.dtype)
    monkeypatch.setitem(hash_space.HASH_FUNCTIONS, "xxh3", spy)
    ring = Ring([f"worker-{i}" for i in range(50)])
    hashed.clear()
    ring.with_members(["new"], ["worker-7"])
    assert hashed == [f"new-{i}" for i in range(160)]


def test_only_the_keys_of_the_newcomer_move():
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


@settings(max_examples=50, deadline=None)
@given(members_of_rings, members_of_rings, hash_names)
def test_handovers_are_the_pairs_between_which_some_key_moves(old, new, hash_function):
    before, after = Ring(old, 3, hash_function), Ring(new, 3, hash_function)
    pairs = handovers(before, after)
    # Keys at every point of both rings reach every arc between neighbouring points.
    keys = [*probes(old, 3), *probes(new, 3)]
    expected = {(before.owner(key), after.owner(key)) for key in keys} if old and new else set()
    assert pairs == expected


def test_handovers_include_members_that_keep_keys():
    old = Ring(["a", "b"])
    assert handovers(old, old) == {("a", "a"), ("b", "b")}
    assert handovers(old, old.with_members(["c"])) == {("a", "a"), ("b", "b"), ("a", "c"), ("b", "c")}
    assert handovers(old, old.with_members(removed=["b"])) == {("a", "a"), ("b", "a")}
    assert handovers(old, Ring([])) == frozenset()
    assert handovers(old, Ring(["a", "b"])) is handovers(Ring(["b", "a"]), old)
    with pytest.raises(InvalidArgument, match="hash_function"):
        handovers(old, Ring(["a"], hash_function="md5"))


@settings(max_examples=50, deadline=None)
@given(members_of_rings, st.lists(members_of_rings.filter(bool), min_size=1, max_size=3), hash_names, st.data())
def test_withheld_keys_are_left_out(members, held_members, hash_function, data):
    ring = Ring(members, 4, hash_function)
    pairs = [(Ring(held, 4, hash_function), holder) for held in held_members for holder in held]
    withheld = data.draw(st.lists(st.sampled_from(pairs), max_size=5))
    keys = [f"key-{i}" for i in range(60)] + probes(members, 4) + probes(held_members[0], 4)
    free = [key for key in keys if all(held.owner(key) != holder for held, holder in withheld)]
    for member in members:
        assert ring.subset(member, keys, withheld) == [key for key in free if ring.owner(key) == member]


@pytest.mark.parametrize("hash_function", HASH_FNS)
def test_a_ring_unpickles_without_copying_its_arrays(hash_function, monkeypatch):
    ring = Ring([f"worker-{i}" for i in range(50)], hash_function=hash_function)
    buffers = []
    pickled = pickle.dumps(ring, protocol=5, buffer_callback=buffers.append)
    monkeypatch.setattr("partition_actor.ring.hash_space.HashRing", None)
    tracemalloc.start()
    restored = pickle.loads(pickled, buffers=buffers)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    keys = [f"key-{i}" for i in range(100)]
    assert restored == ring
    assert [restored.owner(key) for key in keys] == [ring.owner(key) for key in keys]
    assert restored.subset("worker-7", keys) == ring.subset("worker-7", keys)
    assert all(buffer.raw().readonly for buffer in buffers)
    assert allocated < sum(buffer.raw().nbytes for buffer in buffers) / 4


def test_ring_of_builds_a_ring_once_and_derives_it_from_the_nearest(monkeypatch):
    made = []
    plain = ring_module.virtual_nodes
    monkeypatch.setattr(ring_module, "virtual_nodes", lambda member, *rest: made.append(member) or plain(member, *rest))
    members = tuple((f"w{i}", 1) for i in range(5))
    assert ring_of(members, 17) is ring_of(members, 17)  # no other test has rings of 17 virtual nodes
    assert made == ["w0", "w1", "w2", "w3", "w4"]
    made.clear()
    changed, fresh = ring_of((*members[1:], ("w5", 1)), 17), Ring([f"w{i}" for i in range(1, 6)], 17)
    assert made == ["w5", "w1", "w2", "w3", "w4", "w5"]
    assert changed == fresh
    assert changed.owners_of(range(100)).tolist() == fresh.owners_of(range(100)).tolist()
    assert ring_of(members, 8).vnodes == 8
    assert ring_of(members, 8, "md5").hash_function == "md5"


def test_ring_of_answers_many_threads_that_ask_for_many_rings():
    wanted = [tuple((f"w{i}", 1) for i in range(number + 2)) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        rings = list(pool.map(ring_of, wanted * 5))
    fresh = [Ring(dict(members)) for members in wanted] * 5
    assert rings == fresh
    assert [ring.owners_of(range(50)).tolist() for ring in rings] == [
        ring.owners_of(range(50)).tolist() for ring in fresh
    ]


def test_a_ring_that_somebody_holds_is_not_made_again(monkeypatch):
    members = [(f"held-{i}", 1) for i in range(5)]
    held = ring_of(members)
    for i in range(10):
        ring_of([(f"large-{j}", 30 + i) for j in range(100)])  # together more than is kept
    monkeypatch.setattr(ring_module, "virtual_nodes", None)
    assert ring_of(members[::-1]) is held


def test_arcs_of_are_those_of_the_ring_and_outlast_it(monkeypatch):
    members = [(f"w{i}", 1) for i in range(5)]
    keys = [f"key-{i}" for i in range(500)]
    ring = Ring(dict(members), 11)
    theirs = [key for key in keys if ring.owner(key) in ("w1", "w3")]
    assert arcs_of(members, ["w3", "w1"], 11).subset(keys) == theirs
    assert arcs_of(members, ["w3", "nobody"], 11).subset(keys) == ring.subset("w3", keys)
    assert arcs_of(members, [], 11).subset(keys) == []
    for i in range(40):
        ring_of([(f"x{i}", 1)], 400 * 160)  # together more than is kept
    monkeypatch.setattr(ring_module, "virtual_nodes", None)
    assert arcs_of(members, ["w1", "w3"], 11).subset(keys) == theirs


SIZES = [(1, 1, 1), (3, 1, 8), (10, 1, 160), (200, 1, 160), (1000, 1, 1), (300, 4, 160)]


@pytest.mark.parametrize("hash_function", HASH_FNS)
@pytest.mark.parametrize(("members", "weight", "vnodes"), SIZES)
def test_a_ring_knows_about_how_many_bytes_it_takes(members, weight, vnodes, hash_function):
    Ring(["a"], 1, hash_function).owner("x")
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ring = Ring({f"worker-{i}": weight for i in range(members)}, vnodes, hash_function)
        for ask in (ring.owner, hash):
            assert ask(ring)  # which makes what is made when it is first asked for
        assert ring.members
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.9 * taken <= ring.nbytes <= 1.4 * taken


def test_the_rings_kept_take_a_limited_number_of_bytes():
    def weigh(number, weight):
        ring = ring_of([(f"member-{i}", weight) for i in range(number)])
        made.append(weakref.ref(ring))

    made = []
    for number in range(30, 70):
        weigh(number, 30)
    for number in range(1, 200):
        weigh(number, 1)
    gc.collect()
    alive = {id(ring): ring for each in made if (ring := each()) is not None}
    assert 10 << 20 < sum(ring.nbytes for ring in alive.values()) <= 40 << 20


def test_what_is_kept_of_hand_offs_holds_no_ring():
    old, new = Ring(["a", "b"], 19), Ring(["b", "c"], 19)
    assert handovers(old, new)
    assert new.subset("b", ["x"], [(old, "a")]) in (["x"], [])
    gone = [weakref.ref(old), weakref.ref(new)]
    del old, new
    gc.collect()
    assert [each() for each in gone] == [None, None]
