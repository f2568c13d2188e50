"""What this machine has, and what that measures."""

import os
import subprocess
import sys

import psutil
import pytest

from jobs.driver.machine import DISCOVERED, METERS, GoneError, discover, kind_of, measure, process_id


def volumes(resource):
    return {reading.meter: reading.volume for reading in measure(resource).readings}


def test_every_process_core_interface_and_disk_is_there():
    before = set(psutil.pids())
    found = list(discover())
    assert len(found) == len(set(found))
    of = {kind: {r.partition(":")[2] for r in found if kind_of(r) == kind} for kind in METERS}
    pids = {int(name.split(":")[0]) for name in of["process"]}
    assert before & set(psutil.pids()) - pids == set()
    assert os.getpid() in pids
    assert of["cpu"] == {str(core) for core in range(psutil.cpu_count())}
    assert of["net"] == set(psutil.net_io_counters(pernic=True))
    assert of["disk"] == set(psutil.disk_io_counters(perdisk=True) or {})
    assert of["filesystem"] == {partition.mountpoint for partition in psutil.disk_partitions(all=False)}
    assert "machine" in found


def test_only_what_is_asked_for_is_discovered():
    assert {kind_of(resource) for resource in discover(["cores", "machine"])} == {"cpu", "machine"}
    assert set(DISCOVERED) == {"processes", "disks", "filesystems", "interfaces", "cores", "machine"}


def test_everything_can_be_measured_and_has_the_meters_that_are_said():
    for resource in discover():
        try:
            measured = measure(resource)
        except GoneError:
            assert resource.startswith("process:")
            assert resource not in discover()
        else:
            assert measured.readings
            assert {reading.meter for reading in measured.readings} <= set(METERS[kind_of(resource)])
            assert all(isinstance(reading.volume, (int, float)) for reading in measured.readings)
            assert {reading.type for reading in measured.readings} <= {"gauge", "cumulative"}


def test_an_id_stays_while_the_process_lives_and_goes_with_it():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        resource = process_id(child.pid)
        assert resource in discover()
        assert process_id(child.pid) == resource
    finally:
        child.communicate()
    assert resource not in discover()


def test_an_id_does_not_depend_on_when_the_machine_seems_to_have_started(monkeypatch):
    # Two agents that each ask psutil once, before and after the clock was corrected, must agree.
    before = process_id(os.getpid())
    boot = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 5)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot + 5)
    assert process_id(os.getpid()) == before


def test_a_process():
    measured = measure(process_id(os.getpid()))
    assert {reading.meter for reading in measured.readings} >= {"process.uptime", "process.cpu", "process.threads"}
    (memory,) = (reading for reading in measured.readings if reading.meter == "process.memory.rss")
    assert memory.volume > 1_000_000
    assert (memory.unit, memory.type) == ("B", "gauge")
    assert measured.metadata["pid"] == str(os.getpid())


def test_a_reused_pid_counts_as_gone():
    kind, pid, started = process_id(os.getpid()).split(":")
    with pytest.raises(GoneError):
        measure(f"{kind}:{pid}:{int(started) - 60}")


@pytest.mark.parametrize(
    "resource",
    [
        "process:999999999:0",
        "disk:none",
        "net:none",
        "cpu:99999",
        "filesystem:/none",
        "file:/none",
        "directory:/none",
    ],
)
def test_what_is_not_there_is_gone(resource):
    with pytest.raises(GoneError):
        measure(resource)


def test_a_zombie_is_discovered_and_has_a_reading():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        resource = process_id(child.pid)
        assert resource in discover()
        assert "process.uptime" in volumes(resource)


def test_a_process_that_hides_its_numbers_is_still_up(monkeypatch):
    def refuse(self):
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "num_threads", refuse)
    assert "process.uptime" in volumes(process_id(os.getpid()))


def test_a_file(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    os.utime(path, (0, 0))
    found = volumes(f"file:{path}")
    assert found["file.size"] == 5
    assert found["file.age"] > 1e9


def test_a_directory(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    (tmp_path / "d").mkdir()
    assert volumes(f"directory:{tmp_path}") == {"directory.entries": 2, "directory.size": 5}
