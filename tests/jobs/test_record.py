import os

import pytest

from jobs import record
from jobs.pipelines.samples import parse_sample


def read(directory):
    return {file.name: [parse_sample(line) for line in file.open("rb")] for file in directory.iterdir()}


def test_samples_of_this_machine_are_recorded_each_resource_in_one_file(tmp_path, capsys):
    out = tmp_path / "made" / "here"
    assert record.main(["--out", str(out), "--samples", "10000", "--interval", "0", "--files", "3"]) == 0
    assert capsys.readouterr().out == f"10000 samples in {out}\n"
    files = read(out)
    assert len(files) == 3
    samples = [sample for lines in files.values() for sample in lines]
    assert len({sample.id for sample in samples}) == len(samples) == 10_000
    homes = {(sample.resource_id, name) for name, lines in files.items() for sample in lines}
    assert len(homes) == len({resource for resource, _ in homes})
    mine = [s for s in samples if s.resource_id.startswith(f"process:{os.getpid()}:") and s.name == "process.cpu"]
    assert len(mine) > 1
    assert [s.at for s in mine] == sorted(s.at for s in mine)
    assert {"cpu", "machine", "net", "process"} <= {sample.resource_id.partition(":")[0] for sample in samples}
    assert {"gauge", "cumulative"} == {sample.type for sample in samples}


def test_a_second_recording_adds_files(tmp_path):
    for _ in range(2):
        assert record.main(["--out", str(tmp_path), "--samples", "10", "--files", "1"]) == 0
    files = read(tmp_path)
    assert len(files) == 2
    assert len({sample.id for lines in files.values() for sample in lines}) == 20


def test_interrupting_keeps_what_is_recorded(tmp_path, monkeypatch):
    rounds = iter(range(3))

    def sleep(_):
        if next(rounds) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(record.time, "sleep", sleep)
    assert record.main(["--out", str(tmp_path), "--samples", "0", "--files", "1"]) == 0
    ((_, samples),) = read(tmp_path).items()
    assert len([sample for sample in samples if sample.name == "load.1m"]) == 3


@pytest.mark.parametrize("options", [["--samples", "-1"], ["--files", "0"], ["--interval", "x"], ["--sample", "1"]])
def test_bad_options_are_one_line_and_status_2(tmp_path, capsys, options):
    assert record.main(["--out", str(tmp_path), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "f").write_text("")
    assert record.main(["--out", str(tmp_path / "f")]) == 1
    assert str(tmp_path / "f") in capsys.readouterr().err
