import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tooz")

ROOT = Path(__file__).parents[2]


def run(program, *arguments):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, str(ROOT / "benchmarks" / program), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    printed = run("ring.py", "--quick", "--out", out)
    return printed, out / "ring.json"


def test_the_benchmark_compares_all_on_the_same_keys_and_members(measured):
    printed, path = measured
    document = json.loads(path.read_text())
    assert "Promises" in printed
    assert document["quick"] is True
    rows = document["first_subset"]
    sizes = {}
    for row in rows:
        sizes.setdefault(row["who"], set()).add((row["members"], row["keys"]))
    assert {"partition_actor", "uhashring xxh3", "uhashring md5", "tooz HashRing", "tooz Partitioner"} <= set(sizes)
    assert len({frozenset(size) for size in sizes.values()}) == 1
    assert "Ray Serve" in sizes or document["left_out"]
    assert document["machine"]["cores"]
    assert document["machine"]["packages"]["uhashring"]


def test_promises_that_do_not_depend_on_time_are_met(measured):
    targets = {target["what"]: target for target in json.loads(measured[1].read_text())["targets"]}
    for what, target in targets.items():
        if "B/key" in target["unit"] or "stayed" in what:
            assert target["met"], target


def test_the_plots_are_drawn_from_the_benchmarks_json(measured, tmp_path):
    run("_plot_ring.py", measured[1], tmp_path)
    for name in ("ring-speed.png", "ring-balance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
