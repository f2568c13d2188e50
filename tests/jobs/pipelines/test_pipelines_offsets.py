import json

import pytest

from jobs.pipelines.offsets import Corrupt, Offset, Offsets, write_corrupt


@pytest.fixture
def offsets(tmp_path):
    opened = Offsets(tmp_path / "o.sqlite")
    yield opened
    opened.close()


def test_an_offset_is_kept(offsets, tmp_path):
    assert offsets.get("a") == Offset()
    offsets.acknowledge("a", Offset(100, 3), [])
    again = Offsets(tmp_path / "o.sqlite")
    assert again.get("a") == Offset(100, 3)
    assert again.all() == {"a": Offset(100, 3)}
    again.close()


def test_it_never_goes_back(offsets):
    offsets.acknowledge("a", Offset(100, 3, True), [])
    offsets.acknowledge("a", Offset(50, 2), [])
    offsets.acknowledge("a", Offset(100, 3), [])
    assert offsets.get("a") == Offset(100, 3, True)
    offsets.acknowledge("a", Offset(150, 4), [])
    assert offsets.get("a") == Offset(150, 4, False), "the input has grown"


def test_a_corrupt_line_is_set_aside_once(offsets, tmp_path):
    offsets.acknowledge("d/a", Offset(9, 2), [Corrupt(2, "not JSON", "{"), Corrupt(1, "no id", "{}")])
    offsets.acknowledge("d/a", Offset(9, 2), [Corrupt(2, "not JSON", "{")])
    assert offsets.corrupt() == 2
    file = tmp_path / "corrupt.jsonl"
    assert write_corrupt(offsets, tmp_path / "in", file) == 2
    assert [json.loads(line) for line in file.open()] == [
        {"at": f"{tmp_path}/in/d/a:1", "reason": "no id", "line": "{}"},
        {"at": f"{tmp_path}/in/d/a:2", "reason": "not JSON", "line": "{"},
    ]


def test_without_corrupt_lines_there_is_no_file(offsets, tmp_path):
    assert write_corrupt(offsets, tmp_path, tmp_path / "corrupt.jsonl") == 0
    assert not (tmp_path / "corrupt.jsonl").exists()


def test_the_first_fingerprint_stays(offsets):
    assert offsets.made_with("x") == "x"
    assert offsets.made_with("y") == "x"
