"""How metadata is packed, and what its reader gets."""

from __future__ import annotations

import datetime
import pickle
import threading

import pytest

from partition_actor.arguments import MAX_METADATA_BYTES
from partition_actor.errors import InvalidArgument
from partition_actor.metadata import pack_metadata, readable_metadata


def read(value):
    """What the reader of a reply gets."""
    return pickle.loads(pickle.dumps(readable_metadata(pack_metadata(value))))


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 10**100, 1.5, "é\ud800", b"\0", bytearray(b"a"), [1], (1,), {1: {}}, {"a"}, frozenset("a")],
    ids=lambda value: type(value).__name__,
)
def test_builtins_are_read_as_they_were(value):
    found = read({"a": [value]})
    assert found == {"a": [value]}
    assert type(found["a"][0]) is type(value)


@pytest.mark.parametrize(
    "value", [Text("a"), datetime.date(2026, 1, 1), 1j, int, len, lambda: 1], ids=lambda value: type(value).__name__
)
def test_anything_else_is_read_as_its_pickle(value):
    found = read({"a": [value]})
    assert isinstance(found, bytes)
    assert isinstance(pickle.loads(found)["a"][0], type(value))


def test_none_is_none():
    assert pack_metadata(None) is None
    assert readable_metadata(None) is None


def endless():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("value", [threading.Lock(), Stubborn(), endless()], ids=["lock", "stubborn", "deep"])
def test_what_cannot_be_pickled_is_refused(value):
    with pytest.raises(InvalidArgument, match=r"^metadata: got .*, expected values that can be pickled \("):
        pack_metadata({"a": value})


def test_metadata_that_is_too_large_is_refused():
    room = MAX_METADATA_BYTES - len(pack_metadata({"a": b"x" * 1000})) + 1000
    assert len(pack_metadata({"a": b"x" * room})) == MAX_METADATA_BYTES
    with pytest.raises(
        InvalidArgument, match=r"^metadata: got .*, expected at most 65536 bytes when pickled, not 65537$"
    ):
        pack_metadata({"a": b"x" * (room + 1)})


@pytest.mark.parametrize("value", ["a", {1: 2}])
def test_what_is_no_dict_with_str_keys_is_refused(value):
    with pytest.raises(InvalidArgument, match="expected None or a dict whose keys are str"):
        pack_metadata(value)
