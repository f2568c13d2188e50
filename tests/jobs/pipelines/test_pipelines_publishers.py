import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from jobs.pipelines.definitions import FilePublisher, LogPublisher
from jobs.pipelines.publishers import PublishError, make_publisher, read_published
from jobs.pipelines.samples import to_record

ROOT = Path(__file__).parents[3]


def publish(publisher, *batches):
    for batch in batches:
        asyncio.run(publisher.publish(batch))
    publisher.close()


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_files_hold_what_was_published(tmp_path, sample, kind):
    samples = [sample(n / 3, n, metadata={"a": [n, None]}) for n in range(4)]
    publish(make_publisher(FilePublisher(kind), tmp_path, "a:b", "o-1"), samples[:3], samples[3:])
    found = list(read_published(tmp_path))
    assert {path for path, _ in found} == {"a:b"}
    assert [record for _, records in found for record in records] == [to_record(each) for each in samples]


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_a_second_publisher_of_a_name_changes_nothing_of_the_first(tmp_path, sample, kind):
    for n in range(2):
        publish(make_publisher(FilePublisher(kind), tmp_path, "a:b", "o-1"), [sample(1, n)])
    ids = [record["id"] for _, records in read_published(tmp_path) for record in records]
    assert sorted(ids) == ["s0", "s1"]


def test_nothing_published_is_no_file(tmp_path):
    publish(make_publisher(FilePublisher("json"), tmp_path, "a:b", "o-1"))
    assert list(tmp_path.iterdir()) == []


def test_a_line_that_was_cut_off_is_ignored(tmp_path, sample):
    publish(make_publisher(FilePublisher("json"), tmp_path, "a:b", "o-1"), [sample(1, 1), sample(2, 2)])
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-5])
    ((_, records),) = read_published(tmp_path)
    assert [record["id"] for record in records] == ["s1"]
    file.write_bytes(b'{"id"')
    assert list(read_published(tmp_path)) == [("a:b", [])]


def test_an_unfinished_part_is_not_read(tmp_path, sample, monkeypatch):
    publisher = make_publisher(FilePublisher("parquet"), tmp_path, "a:b", "o-1")

    def torn(table, path):
        path.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", torn)
    with pytest.raises(PublishError, match="No space left"):
        publish(publisher, [sample(1, 1)])
    assert list(read_published(tmp_path)) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path, sample):
    (tmp_path / "a:b").write_text("a file")
    for kind in ("json", "parquet"):
        with pytest.raises(PublishError, match="a:b: File exists"):
            publish(make_publisher(FilePublisher(kind), tmp_path, "a:b", "o-1"), [sample(1, 1)])


def test_the_log_is_visible_without_logging_set_up(tmp_path):
    program = """
import asyncio
from jobs.pipelines.definitions import LogPublisher
from jobs.pipelines.publishers import make_publisher
from jobs.pipelines.samples import Sample
sample = Sample("s1", "cpu", "gauge", "", 1.0, "r", "1970-01-01T00:00:00Z", {}, 0.0)
asyncio.run(make_publisher(LogPublisher(), None, "a:b", "o").publish([sample]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stderr.startswith('a:b {"id":"s1"')


def test_the_log_has_a_line_for_each_sample(tmp_path, sample, caplog):
    with caplog.at_level(logging.INFO, "pipelines.published"):
        publish(make_publisher(LogPublisher(), tmp_path, "a:b", "o-1"), [sample(1, 1), sample(2, 2)])
    assert [record.getMessage()[:13] for record in caplog.records] == ['a:b {"id":"s1', 'a:b {"id":"s2']
