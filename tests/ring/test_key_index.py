import gc
import pickle
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from partition_actor.errors import InvalidArgument
from partition_actor.ring import KeyIndex, Ring, hash_space, key_index

HASHES = ["xxh3", "md5"]
MEMBERS = ["a", "b", "a-1", "10"]

members_of_rings = st.dictionaries(st.sampled_from(MEMBERS), st.integers(1, 3), max_size=4)
# Few distinct keys, so that repeats and discards of existing keys are common. Some hash exactly to a virtual node.
few_keys = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.text(max_size=2),
        st.sampled_from(["a-0", "a-1", "b-0", "a-1-0", "10-1", "\udcff", None, (1, 2)]),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(members_of_rings, members_of_rings, few_keys, st.sampled_from(HASHES))
def test_it_answers_as_the_rings_do(old_members, new_members, keys, hash_function):
    old, new = Ring(old_members, 4, hash_function), Ring(new_members, 4, hash_function)
    index = KeyIndex(keys, hash_function)
    for member in MEMBERS:
        mine = [key for key in keys if new.owner(key) == member]
        before = [key for key in keys if old.owner(key) == member]
        assert index.subset(new, member) == new.subset(member, keys) == mine
        assert index.gained(old, new, member) == [key for key in mine if key not in before]
        assert index.lost(old, new, member) == [key for key in before if key not in mine]
        for holder in MEMBERS:
            withheld = [(old, holder)]
            assert index.subset(new, member, withheld) == [key for key in mine if old.owner(key) != holder]
    assert index.subset(new, "nobody") == []


class AgainstAList(RuleBasedStateMachine):
    """An index that is added to and discarded from, against a plain list of the same keys."""

    hash_function = "xxh3"

    def __init__(self):
        super().__init__()
        self.keys = []
        self.index = KeyIndex([], self.hash_function)
        self.ring = Ring({"a": 1, "b": 2}, 4, self.hash_function)

    @rule(keys=few_keys)
    def add(self, keys):
        self.index.add(keys)
        self.keys += keys

    @rule(keys=few_keys)
    def discard(self, keys):
        self.index.discard(keys)
        gone = {str(key) for key in keys}
        self.keys = [key for key in self.keys if str(key) not in gone]

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def discard_one(self, data):
        self.discard([data.draw(st.sampled_from(self.keys))])

    @rule(member=st.sampled_from(["a", "b"]))
    def ask(self, member):
        assert self.index.subset(self.ring, member) == self.ring.subset(member, self.keys)

    @rule(key=few_keys.filter(bool).map(lambda keys: keys[0]))
    def look_for(self, key):
        assert (key in self.index) == (str(key) in map(str, self.keys))

    @invariant()
    def holds_the_same(self):
        assert list(self.index) == self.keys
        assert len(self.index) == len(self.keys)
        assert all(key in self.index for key in self.keys)


class AgainstAListMd5(AgainstAList):
    hash_function = "md5"


few = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = few
TestAgainstAListMd5 = AgainstAListMd5.TestCase
TestAgainstAListMd5.settings = few


class TestAgainstAListWhereHashesAreAlike(AgainstAListMd5.TestCase):
    """All hashes agree in their leading 64 bits, some in all bits."""

    settings = few

    @pytest.fixture(autouse=True)
    def weak_hash(self, monkeypatch):
        def of_text(text):
            return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass")) % 47

        def of_texts(texts):
            numbers = [of_text(text) for text in texts]
            return np.frombuffer(b"".join(number.to_bytes(16, "big") for number in numbers), "S16")

        weak = hash_space.HashFunction("md5", of_text, of_texts, np.dtype("S16"))
        monkeypatch.setitem(hash_space.HASH_FUNCTIONS, "md5", weak)


class Asking:
    """A key that does something else whenever its text is asked for."""

    def __init__(self, name, ask):
        self.name, self.ask = name, ask

    def __str__(self):
        self.ask()
        return self.name


def once(function):
    """What calls `function` when it is first called."""
    calls = iter([function])
    return lambda: next(calls, lambda: None)()


def test_changes_made_while_a_key_is_asked_for_its_text_are_not_lost():
    index = KeyIndex(["a", "b"])
    index.add([Asking("c", once(lambda: (index.add(["d"]), index.discard(["a"])))), "e"])
    assert list(map(str, index)) == ["b", "d", "c", "e"]
    stored = [Asking("x", lambda: None), Asking("y", lambda: None)]
    index.add(stored)
    stored[0].ask = once(lambda: (index.discard(["b", "d"]), index.add(["f"])))
    index.discard(["x", "e"])
    assert list(map(str, index)) == ["c", "y", "f"]


def test_a_look_up_sees_what_there_was_before_or_after_a_change():
    def of_text(text):
        return 5 if text == "a" else 7 if text == "b" else 1 << 127

    def of_texts(texts):
        return np.frombuffer(b"".join(of_text(text).to_bytes(16, "big") for text in texts), "S16")

    weak = hash_space.HashFunction("md5", of_text, of_texts, np.dtype("S16"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(hash_space.HASH_FUNCTIONS, "md5", weak)
        first, ring = Asking("a", lambda: None), Ring(["me"], 1, "md5")
        index = KeyIndex([first, "b", "z"], "md5")
        arcs = hash_space.Arcs(np.frombuffer(b"".join(n.to_bytes(16, "big") for n in (6, 8)), "S16"), False, weak)
        assert index.keys_in(arcs) == ["b"]
        # Within the look-up, which must hash "a" again as the leading 64 bits are alike:
        first.ask = once(lambda: index.discard(["b"]))
        assert index.keys_in(arcs) == []
        assert index.subset(ring, "me") == [first, "z"]


def test_nobodys_code_runs_under_the_lock_that_writers_share():
    lock, freed = threading.Lock(), []
    index = KeyIndex(range(20))  # so many that the index need not be packed anew

    def free():
        assert lock.acquire(blocking=False)
        lock.release()

    class LetGo(Asking):
        def __del__(self):
            freed.append(lock.acquire(blocking=False) and (lock.release() or True))

    def some():
        free()
        yield LetGo("b", free)
        yield LetGo("c", free)
        free()

    index.add(some(), lock)
    index.discard(some(), lock)
    assert list(index) == list(range(20))
    gc.collect()
    assert freed == [True] * 4


@pytest.mark.parametrize("change", ["add", "discard"])
def test_a_writer_that_waits_for_the_lock_takes_in_what_others_did_meanwhile(change):
    class Waits:
        def __enter__(self):
            others()

        def __exit__(self, *_):
            entered.append(self)

    entered, index = [], KeyIndex(["a", "b"])
    others = once(lambda: (index.add(["c"]), index.discard(["a"])))
    getattr(index, change)(["b"], Waits())
    assert list(index) == (["b", "c", "b"] if change == "add" else ["c"])
    assert len(entered) == 2


def test_threads_that_share_a_lock_lose_nothing():
    index, lock = KeyIndex(range(100)), threading.Lock()

    def change(part):
        for number in range(50):
            index.add([f"{part}-{number}", f"{part}-{number}-gone"], lock)
            assert f"{part}-{number}" in index
            index.discard([f"{part}-{number}-gone"], lock)
            assert None not in list(index)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(4)))
    assert sorted(map(str, index)) == sorted(
        [*map(str, range(100)), *(f"{part}-{number}" for part in range(4) for number in range(50))]
    )


@pytest.mark.parametrize("hash_function", HASHES)
def test_it_takes_at_most_24_bytes_a_key(hash_function):
    count = 100_000
    keys = [f"key-{i}" for i in range(count)]
    more = [f"more-{i}" for i in range(count // 10)]
    KeyIndex(keys[:100], hash_function)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = KeyIndex(keys, hash_function)
        made = tracemalloc.get_traced_memory()[0] - before
        assert made <= 24 * len(index)
        index.add(more)
        index.discard(keys[: count // 5])
        changed = tracemalloc.get_traced_memory()[0] - before
        assert len(index) == count + count // 10 - count // 5
        assert changed <= 24 * len(index)
        index.discard(keys[count // 5 : count // 2])
        assert tracemalloc.get_traced_memory()[0] - before <= 24 * len(index)
    finally:
        tracemalloc.stop()


def test_looking_up_hashes_no_key(monkeypatch):
    keys = [f"key-{i}" for i in range(1000)]
    index, ring = KeyIndex(keys), Ring(["a", "b"])
    changed = ring.with_members(["c"])
    expected = [changed.subset(member, keys) for member in changed.members]
    for name in ("hash_keys", "hash_many"):
        monkeypatch.setattr(key_index, name, None)
    assert [index.subset(changed, member) for member in changed.members] == expected
    assert index.gained(ring, changed, "c") == expected[2]
    assert index.lost(ring, changed, "c") == []


def test_adding_hashes_and_sorts_only_what_is_added(monkeypatch):
    index = KeyIndex([f"key-{i}" for i in range(1000)])
    hashed = []
    plain = key_index.hash_many
    monkeypatch.setattr(key_index, "hash_many", lambda keys, function: hashed.extend(keys) or plain(keys, function))
    index.add(["x", "y"])
    index.discard(["x", "key-5"])
    assert hashed[:2] == ["x", "y"]
    assert sorted(hashed[2:]) == ["key-5", "x"]
    assert len(index) == 1000


def test_it_takes_any_iterable_of_keys():
    pa = pytest.importorskip("pyarrow")
    keys = ["k3", "k1", "k2", "k1"]
    for given_keys in (keys, tuple(keys), iter(keys), np.array(keys), pa.array(keys), KeyIndex(keys)):
        index = KeyIndex(given_keys)
        assert list(index) == keys
        index.discard(np.array(["k1", "none such"]))
        assert list(index) == ["k3", "k2"]
    index.add(index)
    assert list(index) == ["k3", "k2", "k3", "k2"]
    assert list(KeyIndex()) == []


def test_it_does_not_follow_a_list_that_changes_later():
    keys = ["x", "y"]
    index = KeyIndex(keys)
    keys.append("z")
    assert list(index) == ["x", "y"]


def test_adding_after_half_of_the_keys_were_discarded():
    keys = [f"key-{i}" for i in range(100)]
    ring = Ring(["a", "b"])
    index = KeyIndex(keys)
    index.discard(keys[:50])
    index.add(["new-1", "key-0"])
    assert index.subset(ring, "a") == ring.subset("a", [*keys[50:], "new-1", "key-0"])


def test_a_failing_key_leaves_the_index_as_it_was():
    class Bad:
        def __str__(self):
            raise OSError("no name")

    index = KeyIndex(["x"])
    with pytest.raises(OSError, match="no name"):
        index.add(["y", Bad()])
    assert list(index) == ["x"]
    assert len(index) == 1


def test_it_pickles():
    keys = [f"key-{i}" for i in range(100)]
    for hash_function in HASHES:
        ring = Ring(["a", "b"], hash_function=hash_function)
        index = pickle.loads(pickle.dumps(KeyIndex(keys, hash_function)))
        assert index.subset(ring, "a") == ring.subset("a", keys)


def test_what_it_refuses(monkeypatch):
    for keys in (None, 5, "one text", b"bytes", np.zeros((2, 2))):
        for call in (KeyIndex, KeyIndex().add, KeyIndex().discard):
            with pytest.raises(InvalidArgument, match="keys: got"):
                call(keys)
    with pytest.raises(InvalidArgument, match="hash_function: got 'sha1'"):
        KeyIndex([], "sha1")
    index, other = KeyIndex(["x"]), Ring(["a"], hash_function="md5")
    assert "1 keys, hash_function='xxh3'" in repr(index)
    with pytest.raises(InvalidArgument, match="hash_function is 'xxh3'"):
        index.subset(other, "a")
    with pytest.raises(InvalidArgument, match="hash_function is 'xxh3'"):
        index.subset(Ring(["a"]), "a", [(other, "a")])
    monkeypatch.setattr(key_index, "_MOST_KEYS", 3)
    with pytest.raises(InvalidArgument, match="keys: got 3, expected at most 2 more keys"):
        index.add(["y", "z", "u"])
    assert list(index) == ["x"]


def test_small_additions_do_not_copy_all_keys_each_time(monkeypatch):
    index = KeyIndex(range(1000))
    made = []
    plain = np.empty
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: made.append(dtype) or plain(shape, dtype))
    for i in range(100):
        index.add([f"new-{i}"])
    assert 1 <= made.count(object) <= 2
    assert len(index) == 1100


def test_more_keys_than_one_chunk(monkeypatch):
    keys = [f"key-{i}" for i in range(50)]
    ring = Ring(["a", "b"])
    monkeypatch.setattr(hash_space, "CHUNK", 3)
    monkeypatch.setattr(key_index, "CHUNK", 3)
    index = KeyIndex(keys)
    for member in ring.members:
        assert index.subset(ring, member) == [key for key in keys if ring.owner(key) == member]


def test_it_drops_its_references_to_discarded_keys():
    class Named:
        def __init__(self, name):
            self.name = name

        def __str__(self):
            return self.name

    keys = [Named(f"key-{i}") for i in range(20)]
    index = KeyIndex(keys)
    gone = weakref.ref(keys.pop(7))
    index.discard(["key-7"])
    assert gone() is None
    assert list(index) == keys
