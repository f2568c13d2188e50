"""A bare caller's keys out of many: the kinds that it may give, the slices, and what is kept."""

import asyncio
import enum
import itertools

import numpy as np
import pytest

from partition_actor import Ring
from partition_actor.actor import subsets
from partition_actor.actor.subsets import SLICE, Subsets
from partition_actor.core.share import Share
from partition_actor.ring.hash_space import hash_keys

RING = Ring(["a", "b", "c"])
MANY = [f"key-{number}" for number in range(2 * SLICE + 7)]


def share(member="a", ring=RING):
    return Share(member, ring.arcs(member))


def subset(items, mine=None, found=None):
    return asyncio.run((found or Subsets()).of(mine or share(), items, "caller"))


def kinds(keys):
    pa = pytest.importorskip("pyarrow")
    arrow = pa.array(keys)
    chunked = pa.chunked_array([arrow.slice(0, 5), arrow.slice(5)])
    return [np.array(keys), np.array(keys, object), arrow, chunked, arrow.dictionary_encode()]


@pytest.mark.parametrize("keys", [[], MANY[:3], MANY[:100], MANY], ids=len)
def test_an_array_is_answered_with_one_of_its_kind(keys):
    expected = RING.subset("a", keys)
    for items in kinds(keys):
        mine = subset(items)
        assert type(mine) is type(items)
        assert mine.tolist() == expected if isinstance(mine, np.ndarray) else mine.to_pylist() == expected
        assert len(subset(items, Share("a"))) == 0
        assert type(subset(items, Share("a"))) is type(items)


@pytest.mark.parametrize(
    "keys", [np.arange(9000), np.arange(9000) / 7, np.arange(9000) % 2 == 0, np.datetime64(0, "D") + np.arange(9000)]
)
def test_the_keys_of_an_array_are_those_of_the_ring(keys):
    assert subset(keys).tolist() == np.array(RING.subset("a", keys), keys.dtype).tolist()


@pytest.mark.parametrize("kind", [list, tuple, set, dict.fromkeys, iter], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("keys", [MANY, MANY[:5], []], ids=len)
def test_any_iterable_is_answered_with_a_list(kind, keys):
    mine = subset(kind(keys))
    assert sorted(mine) == sorted(RING.subset("a", keys))
    assert kind is set or mine == RING.subset("a", keys)


def test_a_series_is_answered_with_a_list():
    pd = pytest.importorskip("pandas")
    assert subset(pd.Series(MANY, index=range(7, 7 + len(MANY)))) == RING.subset("a", MANY)


class Text(str, enum.Enum):
    ONE = "key-1"

    def __str__(self):
        return "another"


@pytest.mark.parametrize(
    ("first", "second"), [([1, 0], [True, False]), (["key-1"] * 3, [Text.ONE] * 3), ([Text.ONE] * 3, ["key-1"] * 3)]
)
def test_what_is_equal_may_be_another_key(first, second):
    found = Subsets()
    for keys in (first, second, first):
        for member in RING.members:
            assert subset(keys, share(member), found) == RING.subset(member, keys)


def test_an_answer_is_kept_for_the_same_share_and_keys_alone(monkeypatch):
    hashed = []
    monkeypatch.setattr(subsets, "hash_keys", lambda keys, function: hashed.append(keys) or hash_keys(keys, function))
    found, mine = Subsets(), share()
    assert subset(MANY[:100], mine, found) == subset(MANY[:100], mine, found) == RING.subset("a", MANY[:100])
    assert len(hashed) == 1
    smaller = Ring(["a", "b"])
    assert subset(MANY[:100], share(ring=smaller), found) == smaller.subset("a", MANY[:100])
    assert subset(MANY[:99], mine, found) == RING.subset("a", MANY[:99])
    assert len(hashed) == 3


def test_callers_with_many_keys_take_turns():
    async def scenario():
        found, mine, turns = Subsets(), share(), []

        class Items(list):
            def __init__(self, name):
                super().__init__(MANY)
                self.name = name

            def __iter__(self):
                for at, key in enumerate(list.__iter__(self)):
                    if at % SLICE == 0:
                        turns.append(self.name)
                    yield key

        async def others():
            while True:
                turns.append("other")
                await asyncio.sleep(0)

        other = asyncio.ensure_future(others())
        answers = await asyncio.gather(*(found.of(mine, Items(name), name) for name in "xyz"))
        other.cancel()
        assert answers == [RING.subset("a", MANY)] * 3
        return turns

    turns = asyncio.run(scenario())
    assert [name for name in turns if name != "other"] == list("xyz") * 3
    assert all("other" in (one, two) for one, two in itertools.pairwise(turns))
