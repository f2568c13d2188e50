import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.driver.machine import Measured, Reading
from jobs.poll.store import ROSTER, SAMPLES, Dataset, read, roster_of, samples_of

ROOT = Path(__file__).parents[3]
MEASURED = Measured([Reading("m", "gauge", "B", 1), Reading("n", "cumulative", "s", 2.5)], {"pid": "7"})
COMMON = {"source": "s", "cycle": 3, "agent": "agent-1", "epoch": "1.7", "project_id": "p", "user_id": None}

WRITE_FOREVER = """
import sys
from pathlib import Path
import pyarrow as pa
from jobs.driver.machine import Measured, Reading
from jobs.poll.store import SAMPLES, Dataset, samples_of
dataset = Dataset(Path(sys.argv[1]))
cycle = 0
while True:
    cycle += 1
    rows = [row for n in range(500) for row in samples_of(f"r{n}", Measured([Reading("m", "gauge", "B", n)], {}))]
    table = pa.Table.from_pylist([{**row, "cycle": cycle} for row in rows], schema=SAMPLES)
    dataset.write("s", cycle, table, None)
    print(cycle, flush=True)
"""


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path)


def table(*resources):
    rows = [row for each in resources for row in samples_of(each, MEASURED, **COMMON)]
    return pa.Table.from_pylist(rows, schema=SAMPLES)


def samples(directory):
    return read(directory, "samples", SAMPLES)


def test_samples_come_back_as_they_were_written(dataset, tmp_path):
    before = datetime.now(timezone.utc)
    dataset.write("s", 3, table("cpu:0"), None)
    found = samples(tmp_path)
    assert found.schema == SAMPLES
    rows = found.to_pylist()
    assert all(before <= row.pop("timestamp") <= datetime.now(timezone.utc) for row in rows)
    assert len({row.pop("id") for row in rows}) == 2
    common = {**COMMON, "resource_id": "cpu:0", "resource_metadata": [("pid", "7")]}
    assert rows == [
        {**common, "meter": "m", "type": "gauge", "volume": 1.0, "unit": "B"},
        {**common, "meter": "n", "type": "cumulative", "volume": 2.5, "unit": "s"},
    ]


def test_cycles_of_many_sources_make_one_dataset(dataset, tmp_path):
    for source in ("a", "b"):
        for cycle in (1, 2):
            dataset.write(source, cycle, table("x", "y"), None)
    assert samples(tmp_path).num_rows == 2 * 2 * 2 * 2


def test_a_cycle_without_samples_writes_nothing(dataset, tmp_path):
    dataset.write("s", 1, table(), None)
    assert list((tmp_path / "samples").iterdir()) == []
    assert samples(tmp_path).num_rows == read(tmp_path, "roster", ROSTER).num_rows == 0


def test_a_part_that_is_half_written_is_not_in_the_dataset(dataset, tmp_path, monkeypatch):
    dataset.write("s", 1, table("r"), None)

    def cut_off(table, path):
        Path(path).write_bytes(b"PAR1 and then the process was killed")
        raise KeyboardInterrupt

    monkeypatch.setattr(pa.parquet, "write_table", cut_off)
    with pytest.raises(KeyboardInterrupt):
        dataset.write("s", 2, table("r"), None)
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert samples(tmp_path).num_rows == 2


def test_sigkill_while_writing_leaves_whole_parts_only(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        reported = [int(child.stdout.readline()) for _ in range(20)]
        child.kill()
    rows_of = samples(tmp_path).group_by("cycle").aggregate([([], "count_all")]).to_pylist()
    assert {row["count_all"] for row in rows_of} == {500}
    assert set(reported) <= {row["cycle"] for row in rows_of}


def test_what_is_gone_at_the_end_is_counted(dataset, tmp_path):
    roster = roster_of("s", 1, [("x", True, True)])
    for cycle in (1, 2):
        dataset.write("s", cycle, table("x"), roster)
    assert dataset.missing() == 0
    (tmp_path / "samples" / "s-000001.parquet").unlink()
    assert dataset.missing() == 2
    for name in ("samples", "roster"):
        for part in (tmp_path / name).iterdir():
            part.unlink()
        (tmp_path / name).rmdir()
    assert dataset.missing() == 2 * 2 + 2


def test_a_dataset_that_is_gone_is_not_made_again(dataset, tmp_path):
    (tmp_path / "samples").rmdir()
    with pytest.raises(OSError, match="No such file"):
        dataset.write("s", 1, table("x"), None)


def test_the_roster_says_what_lived_through_and_whose_it_was(dataset, tmp_path):
    dataset.write("s", 1, table("a"), roster_of("s", 1, [("a", False, True), ("b", True, False)]))
    assert [tuple(row.values()) for row in read(tmp_path, "roster", ROSTER).to_pylist()] == [
        ("s", 1, "a", False, True),
        ("s", 1, "b", True, False),
    ]


def test_a_name_of_any_bytes_becomes_the_same_text_in_samples_and_roster(dataset, tmp_path):
    name = os.fsdecode(b"filesystem:/mnt/\xff")
    dataset.write("s", 1, table(name), roster_of("s", 1, [(name, True, True)]))
    both = [read(tmp_path, "samples", SAMPLES), read(tmp_path, "roster", ROSTER)]
    assert len({name for each in both for name in each["resource_id"].to_pylist()}) == 1
