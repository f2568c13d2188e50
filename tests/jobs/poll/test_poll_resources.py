import os
import subprocess
import sys

import psutil

from jobs.poll.resources import discover, kind_of, process_id


def test_every_process_core_interface_and_disk_is_there():
    before = set(psutil.pids())
    found = discover()
    both = before & set(psutil.pids())
    pids = {int(resource.split(":")[1]) for resource in found if kind_of(resource) == "process"}
    assert both - pids == set()
    assert os.getpid() in pids
    of = {
        kind: {r.partition(":")[2] for r in found if kind_of(r) == kind}
        for kind in ("cpu", "net", "disk", "filesystem")
    }
    assert of["cpu"] == {str(core) for core in range(psutil.cpu_count())}
    assert of["net"] == set(psutil.net_io_counters(pernic=True))
    assert of["disk"] == set(psutil.disk_io_counters(perdisk=True) or {})
    assert of["filesystem"] == {partition.mountpoint for partition in psutil.disk_partitions(all=False)}


def test_ids_are_sorted_and_unique():
    found = discover(["tcp:b:1", "tcp:a:1", "tcp:a:1"])
    assert found == sorted(set(found))


def test_an_id_stays_while_the_process_lives_and_goes_with_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        resource = process_id(psutil.Process(child.pid))
        assert resource in discover()
        assert resource in discover()
    finally:
        child.communicate()
    assert resource not in discover()


def test_a_file_that_is_gone_is_left_out_and_a_remote_target_never(tmp_path):
    path = tmp_path / "f"
    path.write_text("")
    targets = [f"file:{path}", f"directory:{tmp_path}", "tcp:localhost:1", "http://localhost:1/"]
    assert set(targets) <= set(discover(targets))
    path.unlink()
    assert set(targets) - set(discover(targets)) == {f"file:{path}"}
