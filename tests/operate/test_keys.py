"""Files of keys."""

import io

import pytest

from partition_actor.operate.keys import LONGEST_LINE, checked, read_keys
from partition_actor.operate.options import Failure


def keys_of(content):
    return list(read_keys(io.BytesIO(content), "keys.txt"))


def test_a_key_is_a_line():
    assert keys_of("\ufeffacme\r\n\nzoë\n two words \nlast".encode()) == ["acme", "zoë", " two words ", "last"]


def test_what_is_not_utf8_is_refused_with_its_place():
    with pytest.raises(Failure, match=r"^keys.txt:2: byte 0xff at column 3 is not UTF-8$") as failure:
        keys_of(b"acme\nab\xff\n")
    assert failure.value.exit_code == 2


def test_what_is_no_list_of_keys_is_refused_early():
    with pytest.raises(Failure, match=r"^keys.txt:2: longer than"):
        keys_of(b"acme\n" + b"x" * (2 * LONGEST_LINE))


def test_keys_are_read_as_a_stream():
    def lines():
        yield b"first\n"
        raise AssertionError("read too much")

    class Stream(io.RawIOBase):
        source = lines()

        def readline(self, _size=-1):
            return next(self.source)

    assert next(read_keys(Stream(), "-")) == "first"


def test_a_key_of_the_command_line_is_text():
    assert checked("zoë") == "zoë"
    with pytest.raises(Failure, match="not UTF-8"):
        checked("a\udcff")
