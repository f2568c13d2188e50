import pytest

from jobs.driver.command_line import InputError
from jobs.pipelines import reading
from jobs.pipelines.offsets import Offset
from jobs.pipelines.reading import LineReader, find_inputs

START = Offset()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.jsonl"


@pytest.fixture
def reader(file):
    made = []

    def reader(offset=START, follow=False):
        made.append(LineReader(file, offset, follow))
        return made[-1]

    yield reader
    for each in made:
        each.close()


def read_all(reader):
    chunks = []
    while (chunk := reader.read()) is not None:
        chunks.append(chunk)
    return chunks


def test_reading_from_any_offset_gives_the_rest(file, reader, line, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 150)
    lines = [line(id=str(n), name="m" * n) for n in range(1, 10)]
    file.write_bytes(b"\n".join(lines))
    chunks = read_all(reader())
    assert len(chunks) > 3
    found = [each for chunk in chunks for each in chunk.samples]
    assert [sample.id for _, sample in found] == [str(n) for n in range(1, 10)]
    assert [position for position, _ in found] == [sum(len(li) + 1 for li in lines[:n]) for n in range(9)]
    assert chunks[-1].end == Offset(file.stat().st_size, 9)
    for n, chunk in enumerate(chunks):
        rest = [each for chunk in chunks[n + 1 :] for each in chunk.samples]
        assert [each for chunk in read_all(reader(chunk.end)) for each in chunk.samples] == rest


def test_corrupt_and_empty_lines_are_skipped_and_counted(file, reader, line):
    file.write_bytes(
        b"\n".join([line(id="1"), b"{", b"", b"  \r", line(id="2"), b"\xff\xfe", line(id="3") + b"\r", b""])
    )
    (chunk,) = read_all(reader())
    assert [sample.id for _, sample in chunk.samples] == ["1", "2", "3"]
    assert [(each.line, each.text) for each in chunk.corrupt] == [(2, "{"), (6, "\\xff\\xfe")]
    assert all(each.reason for each in chunk.corrupt)
    assert chunk.end == Offset(file.stat().st_size, 7)


def test_a_line_that_is_too_long_is_corrupt_and_not_kept(file, reader, line, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 64)
    monkeypatch.setattr(reading, "LONGEST", 500)
    lines = [line(id="1"), b'{"x": "' + b"y" * 5000 + b'"}', line(id="2")]
    file.write_bytes(b"\n".join(lines) + b"\n")
    chunks = read_all(reader())
    found = [each for chunk in chunks for each in chunk.samples]
    assert [(position, sample.id) for position, sample in found] == [(0, "1"), (len(lines[0]) + len(lines[1]) + 2, "2")]
    (corrupt,) = [each for chunk in chunks for each in chunk.corrupt]
    assert (corrupt.line, corrupt.reason) == (2, "longer than 500 bytes")
    assert len(corrupt.text) < 600
    assert chunks[-1].end == Offset(file.stat().st_size, 3)


def test_a_followed_file_gives_whole_lines_only(file, reader, line):
    first, second = line(id="1"), line(id="2")
    file.write_bytes(first + b"\n" + second[:20])
    following = reader(follow=True)
    (chunk,) = read_all(following)
    assert [sample.id for _, sample in chunk.samples] == ["1"]
    assert chunk.end == Offset(len(first) + 1, 1)
    with file.open("ab") as out:
        out.write(second[20:] + b"\n")
    (chunk,) = read_all(following)
    assert [sample.id for _, sample in chunk.samples] == ["2"]
    assert read_all(following) == []


def test_an_empty_file_has_nothing(file, reader):
    file.touch()
    assert read_all(reader()) == []


def test_inputs_are_a_file_or_the_json_lines_of_a_tree(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.jsonl", "sub/a.jsonl", "c.txt"):
        (tmp_path / name).touch()
    inputs = find_inputs(str(tmp_path))
    assert inputs.names() == ["b.jsonl", "sub/a.jsonl"]
    (tmp_path / "d.jsonl").touch()
    assert "d.jsonl" in inputs.names()
    one = find_inputs(str(tmp_path / "c.txt"))
    assert (one.names(), one.base) == (["c.txt"], tmp_path)


def test_a_path_with_nothing_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--input .*gone: no such file or directory; python -m jobs.record records"):
        find_inputs(str(tmp_path / "gone"))
