import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.dataset
import pytest

from jobs.poll.pollers import Reading
from jobs.poll.store import SAMPLES, SampleWriter, read_roster, read_samples, write_roster

ROOT = Path(__file__).parents[3]
READINGS = [Reading("m", 1, "B"), Reading("n", 2.5, "s")]

WRITE_FOREVER = """
import sys
from jobs.poll.pollers import Reading
from jobs.poll.store import SampleWriter
cycle = 0
while True:
    cycle += 1
    writer = SampleWriter(sys.argv[1], "doomed", cycle, "1.1")
    for n in range(500):
        writer.add(f"r{n}", [Reading("m", n, "B")])
    writer.flush()
    print(cycle, flush=True)
"""


def test_samples_come_back_as_they_were_written(tmp_path):
    writer = SampleWriter(tmp_path, "agent-1", 3, "1.7")
    before = datetime.now(timezone.utc)
    writer.add("cpu:0", READINGS)
    writer.flush()
    table = read_samples(tmp_path)
    assert table.schema == SAMPLES
    assert table.column_names == [
        "timestamp",
        "cycle",
        "resource_id",
        "meter",
        "volume",
        "unit",
        "agent",
        "epoch",
    ]
    rows = table.to_pylist()
    assert all(before <= row.pop("timestamp") <= datetime.now(timezone.utc) for row in rows)
    common = {"cycle": 3, "resource_id": "cpu:0", "agent": "agent-1", "epoch": "1.7"}
    assert rows == [
        {**common, "meter": "m", "volume": 1.0, "unit": "B"},
        {**common, "meter": "n", "volume": 2.5, "unit": "s"},
    ]


def test_flushes_of_many_agents_and_cycles_make_one_dataset(tmp_path):
    for agent in ("a", "b"):
        for cycle in (1, 2):
            writer = SampleWriter(tmp_path, agent, cycle, "1.1")
            for part in range(3):
                writer.add(f"{agent}{cycle}{part}", READINGS)
                writer.flush()
    assert read_samples(tmp_path).num_rows == 2 * 2 * 3 * len(READINGS)


def test_a_flush_of_nothing_writes_nothing(tmp_path):
    writer = SampleWriter(tmp_path, "a", 1, "1.1")
    writer.flush()
    writer.add("r", READINGS)
    writer.flush()
    writer.flush()
    assert len(list((tmp_path / "samples").iterdir())) == 1


def test_a_run_without_samples_is_an_empty_table(tmp_path):
    assert read_samples(tmp_path).num_rows == 0
    assert read_roster(tmp_path).num_rows == 0


def test_a_part_that_is_half_written_is_not_in_the_dataset(tmp_path, monkeypatch):
    whole = SampleWriter(tmp_path, "a", 1, "1.1")
    whole.add("r", READINGS)
    whole.flush()

    def cut_off(table, path):
        Path(path).write_bytes(b"PAR1 and then the process was killed")
        raise KeyboardInterrupt

    monkeypatch.setattr(pyarrow.parquet, "write_table", cut_off)
    writer = SampleWriter(tmp_path, "a", 2, "1.1")
    writer.add("r", READINGS)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert read_samples(tmp_path)["cycle"].to_pylist() == [1, 1]


def test_sigkill_while_writing_leaves_whole_parts_only(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as child:
        reported = [int(child.stdout.readline()) for _ in range(20)]
        child.kill()
    rows_of = read_samples(tmp_path).group_by("cycle").aggregate([([], "count_all")]).to_pylist()
    assert {row["count_all"] for row in rows_of} == {500}
    assert set(reported) <= {row["cycle"] for row in rows_of}


def test_the_roster_knows_what_lived_through(tmp_path):
    write_roster(tmp_path, 1, ["a", "b"], ["b", "c"])
    write_roster(tmp_path, 2, ["b"], [])
    assert [tuple(row.values()) for row in read_roster(tmp_path).to_pylist()] == [
        (1, "a", False),
        (1, "b", True),
        (2, "b", False),
    ]


def test_a_name_of_any_bytes_becomes_the_same_text_in_samples_and_roster(tmp_path):
    name = os.fsdecode(b"filesystem:/mnt/\xff")
    writer = SampleWriter(tmp_path, "a", 1, "1.1")
    writer.add(name, READINGS)
    writer.flush()
    write_roster(tmp_path, 1, [name], [name])
    assert set(read_samples(tmp_path)["resource_id"].to_pylist()) == set(
        read_roster(tmp_path)["resource_id"].to_pylist()
    )
