"""The bed itself: hosts see each other as far as the test lets them, and nothing of them is left."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import bed
import psutil
import pytest
from deployments import LIMIT, wait_until

PROBE = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 22), timeout=1.0) as connection:
        connection.recv(1)
except OSError:
    sys.exit(1)
"""


def reached(hosts, pairs):
    """Those of the pairs of hosts between which a connection can be made, which takes frames both ways."""
    tries = {(host, to): hosts.popen(host, [sys.executable, "-c", PROBE, bed.address(to)]) for host, to in pairs}
    return {pair for pair, process in tries.items() if process.wait(LIMIT) == 0}


@pytest.fixture
def hosts(make_hosts):
    return make_hosts(3)


ALL = {(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)}


def test_a_host_has_its_own_home_tmp_and_processes_and_shares_the_rest(make_hosts, tmp_path):
    hosts = make_hosts(2, share=[tmp_path])
    mine = hosts.popen(0, ["sh", "-c", f"echo x | tee ~/mine /tmp/mine {tmp_path}/ours; exec sleep 1000"])
    wait_until((tmp_path / "ours").exists)
    assert (hosts.home(0) / "mine").read_text() == (hosts.tmp(0) / "mine").read_text() == "x\n"
    assert "mine" not in hosts.run(1, ["ls", Path.home(), "/tmp"]).stdout
    assert hosts.run(1, ["cat", tmp_path / "ours"]).stdout == "x\n"
    wait_until(lambda: "sleep 1000\n" in hosts.run(0, ["ps", "ax", "-o", "args"]).stdout)
    assert "sleep 1000\n" not in hosts.run(1, ["ps", "ax", "-o", "args"]).stdout
    mine.kill()
    mine.wait(LIMIT)
    wait_until(lambda: "sleep 1000\n" not in hosts.run(0, ["ps", "ax", "-o", "args"]).stdout)


def test_ssh_leads_from_each_host_to_each(hosts):
    ssh = ["ssh", "-o", "StrictHostKeyChecking=no", bed.address(2), "hostname"]
    assert [hosts.run(host, ssh).stdout for host in range(3)] == ["host2\n"] * 3


@pytest.mark.parametrize("way", ["both", "in", "out"])
def test_a_host_is_cut_off_and_back_after_it(hosts, way):
    hosts.cut(1, way)
    assert reached(hosts, ALL) == {(0, 2), (2, 0)}
    hosts.heal(1)
    wait_until(lambda: reached(hosts, ALL) == ALL)


def test_one_way_leaves_the_other(hosts):
    """What a host sends arrives while nothing arrives at it."""
    listen = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 9)); print(flush=True); s.recv(9)"
    send = "import socket, sys; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], 9))"
    listeners = [hosts.popen(host, [sys.executable, "-c", listen], stdout=subprocess.PIPE) for host in (0, 1)]
    for listener in listeners:
        listener.stdout.readline()
    reached(hosts, {(0, 1), (1, 0)})  # so that they know each other's hardware address
    hosts.cut(1, "in")
    hosts.run(0, [sys.executable, "-c", send, bed.address(1)])
    hosts.run(1, [sys.executable, "-c", send, bed.address(0)])
    assert listeners[0].wait(LIMIT) == 0
    assert listeners[1].poll() is None
    for listener in listeners:
        listener.kill()
        listener.communicate()


def test_two_hosts_are_cut_off_from_each_other_only(hosts):
    hosts.cut_between(1, 2)
    assert reached(hosts, ALL) == ALL - {(1, 2), (2, 1)}
    hosts.heal(2)
    wait_until(lambda: reached(hosts, ALL) == ALL)


def test_a_link_is_slow_and_lossy_until_it_is_healed(hosts):
    hosts.impair(1, delay=0.1)
    began = time.monotonic()
    assert reached(hosts, {(0, 1)})
    assert time.monotonic() - began > 0.2  # there and back
    hosts.impair(1, loss=1.0)
    assert reached(hosts, ALL) == {(0, 2), (2, 0)}
    hosts.impair(1)
    hosts.cut(1, "out")
    assert reached(hosts, ALL) == {(0, 2), (2, 0)}
    hosts.heal(1)
    wait_until(lambda: reached(hosts, ALL) == ALL)


def test_everything_ends_on_a_host_that_is_powered_off(hosts):
    left_alone = hosts.popen(1, ["sleep", "1000"])
    hosts.run(1, ["sh", "-c", "sleep 1001 > /dev/null 2>&1 &"])
    with_it = [
        process
        for process in psutil.process_iter()
        if process.name() == "sleep" and process.cmdline()[1] in ("1000", "1001")
    ]
    hosts.power_off(1)
    left_alone.wait(LIMIT)
    assert psutil.wait_procs(with_it, LIMIT)[1] == []
    assert reached(hosts, {(0, 1), (0, 2)}) == {(0, 2)}


HOLD = """
import sys, time, bed
with bed.Hosts(2) as hosts:
    hosts.popen(1, ["sleep", "1000"])
    hosts.impair(1)
    print(hosts.folder, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("ends", ["the test's process", "the supervisor"])
def test_nothing_is_left_after_kill_9(make_hosts, ends):
    """Two beds side by side: the other one stays."""
    other = make_hosts(1)
    here = str(Path(__file__).parent)
    holder = psutil.Popen([sys.executable, "-c", HOLD], env={"PYTHONPATH": here, "PATH": "/usr/bin:/bin"}, stdout=-1)
    folder = Path(holder.stdout.readline().decode().strip())
    (supervisor,) = (process for process in holder.children() if str(folder) in process.cmdline())
    on_hosts, started = supervisor.children(recursive=True), holder.children(recursive=True)
    (holder if ends == "the test's process" else supervisor).kill()
    assert psutil.wait_procs(on_hosts, LIMIT)[1] == []
    holder.kill()
    holder.communicate()
    assert psutil.wait_procs(started, LIMIT)[1] == []
    if ends == "the supervisor":
        shutil.rmtree(folder)  # the one thing that nobody is there for
    assert not folder.exists()
    assert other.run(0, ["hostname"]).stdout == "host0\n"
    other.__exit__()
    assert not other.folder.exists()
