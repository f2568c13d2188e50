import math
import re

import numpy as np
import pytest
import ray

from partition_actor import arguments
from partition_actor.errors import InvalidArgument, PartitionError


class Shy:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize("text", ["a", "é" * 512, "x" * 1024, "a b\n\0", "日本"])
def test_texts_that_are_taken(text):
    assert arguments.check_text("group", text) is text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "a str, not NoneType"),
        (b"a", "a str, not bytes"),
        (7, "a str, not int"),
        (["a"], "a str, not list"),
        ("", "a non-empty str"),
        ("x" * 1025, "at most 1024 bytes in UTF-8, not 1025"),
        ("é" * 513, "at most 1024 bytes in UTF-8, not 1026"),
        ("x" * 1_000_000, "at most 1024 bytes in UTF-8, not 1000000"),
        ("a\ud800", "text that UTF-8 can encode"),
    ],
)
def test_texts_that_are_refused(value, expected):
    with pytest.raises(InvalidArgument, match=f"^group: got .*, expected {re.escape(expected)}") as caught:
        arguments.check_text("group", value)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()  # can be logged and printed


def test_an_empty_text_where_it_is_allowed():
    assert arguments.check_text("group", "", empty=True) == ""


@pytest.mark.parametrize("weight", [1, 2, 1000])
def test_weights_that_are_taken(weight):
    assert arguments.check_weight(weight) == weight


@pytest.mark.parametrize("weight", [0, -1, 1001, 1.5, 2.0, math.nan, math.inf, True, None, "1", b"1", 10**100])
def test_weights_that_are_refused(weight):
    with pytest.raises(InvalidArgument, match=r"^weight: got .*, expected an int from 1 to 1000"):
        arguments.check_weight(weight)


@pytest.mark.parametrize("mode", [True, False, None])
def test_modes_that_are_taken(mode):
    assert arguments.check_mode(mode) is mode


@pytest.mark.parametrize("mode", [0, 1, "yes", "", []])
def test_modes_that_are_refused(mode):
    with pytest.raises(InvalidArgument, match=r"^exclusive: got .*, expected True, False or None"):
        arguments.check_mode(mode)


@pytest.mark.parametrize("metadata", [None, {}, {"a": object()}])
def test_metadata_that_is_taken(metadata):
    assert arguments.check_metadata(metadata) is metadata


@pytest.mark.parametrize("metadata", ["a", [("a", 1)], {1: 2}, {b"a": 1}, {"a": 1, None: 2}])
def test_metadata_that_is_refused(metadata):
    with pytest.raises(InvalidArgument, match=r"^metadata: got .*, expected None or a dict whose keys are str"):
        arguments.check_metadata(metadata)


@pytest.mark.parametrize("packed", [None, b"", b"b" * arguments.MAX_METADATA_BYTES])
def test_packed_metadata_that_is_taken(packed):
    assert arguments.check_packed_metadata(packed) is packed


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        ({"a": 1}, "None or packed metadata as bytes, not dict"),
        ("a", "None or packed metadata as bytes, not str"),
        (b"b" * (arguments.MAX_METADATA_BYTES + 1), "at most 65536 bytes, not 65537"),
    ],
)
def test_packed_metadata_that_is_refused(packed, expected):
    with pytest.raises(InvalidArgument, match=f"^metadata: got .*, expected {expected}"):
        arguments.check_packed_metadata(packed)


@pytest.mark.parametrize("items", [[], ("a",), {"a"}, {"a": 1}, range(1), iter("a"), (x for x in "a")])
def test_items_are_any_iterable_read_once(items):
    assert len(arguments.check_items(items)) <= 1


@pytest.mark.parametrize("items", [None, 7, 1.5, object(), "abc", b"abc", bytearray(b"abc"), ""])
def test_items_that_are_refused(items):
    with pytest.raises(
        InvalidArgument, match=r"^items: got .*, expected an iterable of keys or a one-dimensional array, not"
    ):
        arguments.check_items(items)


def test_keys_come_in_arrays_of_one_dimension():
    pa = pytest.importorskip("pyarrow")
    keys = ["a", "b"]
    for items in (np.array(keys), pa.array(keys), pa.chunked_array([keys])):
        assert arguments.check_keys(items) is items
    table = pa.table({"key": keys})
    for items in (np.array([keys]), np.array("a"), table, table.to_batches()[0]):
        with pytest.raises(InvalidArgument, match=r"^items: got (.|\n)*, expected .* a one-dimensional array, not"):
            arguments.check_keys(items)


def test_session_is_a_str_or_none():
    assert arguments.check_session(None) == ""
    assert arguments.check_session("one life") == "one life"
    for session in ("", 7, b"a"):
        with pytest.raises(InvalidArgument, match=r"^session: "):
            arguments.check_session(session)


@pytest.mark.parametrize("seconds", [0.001, 1, 60.0])
def test_timeouts_that_are_taken(seconds):
    assert arguments.check_seconds("timeout", seconds) == seconds


@pytest.mark.parametrize("seconds", [0, -1, None, True, math.nan, math.inf, "1", 86_401])
def test_timeouts_that_are_refused(seconds):
    with pytest.raises(InvalidArgument, match=r"^timeout: got .*, expected a number of seconds above 0"):
        arguments.check_seconds("timeout", seconds)


@pytest.mark.parametrize("callback", [print, lambda event: None, Shy])
def test_callbacks_that_are_taken(callback):
    assert arguments.check_callback(callback) is callback


@pytest.mark.parametrize("callback", [None, "print", 7])
def test_callbacks_that_are_refused(callback):
    with pytest.raises(InvalidArgument, match=r"^callback: got .*, expected a function of one argument"):
        arguments.check_callback(callback)


REFERENCE = ray.ObjectRef.nil()
IDENTITY = {"handle": None, "node": "n", "actor": "", "worker": "w", "process": "p", "owned": None}


@pytest.mark.parametrize(
    "watch",
    [
        7,
        "abcde",
        {},
        list(IDENTITY.values()),
        *({key: value for key, value in IDENTITY.items() if key != name} for name in IDENTITY),
        *({**IDENTITY, name: None} for name in ("node", "actor", "worker", "process")),
        {**IDENTITY, "actor": "a", "handle": "handle"},
        {**IDENTITY, "handle": {"anything": "x" * 1_000_000}},
        *({**IDENTITY, name: "x" * 1025} for name in ("node", "actor", "worker", "process")),
        {**IDENTITY, "owned": 7},
        {**IDENTITY, "owned": [REFERENCE, REFERENCE]},
        {**IDENTITY, "owned": ["reference"]},
    ],
)
def test_watches_that_are_refused(watch):
    with pytest.raises(InvalidArgument, match=r"^watch(, \w+)?: got .*, expected "):
        arguments.check_watch(watch)


def test_no_watch_is_fine():
    arguments.check_watch(None)
    arguments.check_watch({**IDENTITY, "new": 1})
    arguments.check_watch({**IDENTITY, "owned": [REFERENCE]})


def test_a_long_value_is_shown_shortened():
    with pytest.raises(InvalidArgument, match=r"^x: got '0{59}… \(502 characters\), expected y$"):
        arguments.refuse("x", "0" * 500, "y")


def test_a_value_whose_repr_fails_is_still_refused_in_words():
    with pytest.raises(InvalidArgument, match=r"^x: got a Shy whose repr\(\) fails, expected y$"):
        arguments.refuse("x", Shy(), "y")


def test_refusals_can_be_caught_as_value_errors_and_as_ours():
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(InvalidArgument, PartitionError)
