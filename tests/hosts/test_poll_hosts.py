"""``jobs.poll`` on three hosts: each host's own by an agent on it, each remote target by one agent of all."""

import subprocess
import sys
from collections import defaultdict

import bed
import psutil
import pyarrow.dataset
import pytest
from ray_hosts import HEAD, PORT, RayHosts

NODES = [0, 1, 2]
TARGETS = [f"{bed.address(host)}:{port}" for host in NODES for port in range(1, 11)]
pytestmark = [pytest.mark.slow_hosts, pytest.mark.timeout(900)]


class Service:
    """``jobs.poll`` on the head, until a signal."""

    def __init__(self, rays, folder):
        cluster = f"{bed.address(HEAD)}:{PORT}"
        self.folder = folder / "out"
        config = folder / "poll.yaml"
        config.write_text(f"targets: {TARGETS}\nagents: 2\ncycles: 0\ninterval: 2.0\ntimeout: 1.0\nlimit: 20.0\n")
        self.process = rays.hosts.popen(
            HEAD,
            [sys.executable, "-m", "jobs.poll", "--config", config, "--out", self.folder, "--address", cluster],
            env=rays.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []

    def read_until(self, *texts):
        """Read lines until one has all of these texts; return it."""
        for line in self.process.stdout:
            self.lines.append(line)
            if all(text in line for text in texts):
                return line
        pytest.fail("".join(self.lines))

    def end(self):
        (program,) = psutil.Process(self.process.pid).children()  # of nsenter
        program.terminate()
        self.lines += self.process.communicate()[0].splitlines(keepends=True)
        return self.process.returncode

    def cycles(self):
        """cycle -> resource -> the agents that have samples of it, and cycle -> the names of processes by host."""
        (run,) = self.folder.iterdir()
        agents, names = defaultdict(lambda: defaultdict(set)), defaultdict(set)
        for row in pyarrow.dataset.dataset(run / "samples", format="parquet").to_table().to_pylist():
            agents[row["cycle"]][row["resource_id"]].add(row["agent"])
            host = row["resource_id"].rpartition("@")[2]
            names[row["cycle"]].add((dict(row["resource_metadata"]).get("name"), host))
        return agents, names


@pytest.fixture
def service(make_hosts, tmp_path):
    rays = RayHosts(make_hosts(3, share=[tmp_path]))
    waiting = [rays.hosts.popen(host, ["tail", "-f", "/dev/null"]) for host in NODES]
    service = Service(rays, tmp_path)
    service.hosts = rays.hosts
    yield service
    for process in [service.process, *waiting]:
        process.kill()
        process.wait()


def test_every_host_is_polled_by_its_own_agents_and_every_remote_target_by_one(service):
    service.read_until("cycle 3: ")
    service.hosts.power_off(2)
    service.read_until("agent-")  # is gone, or died
    gone = int(service.read_until("cycle ").split()[1].rstrip(":"))
    service.read_until(f"cycle {gone + 2}: ")
    assert service.end() in (0, 1)  # there may be gaps when the host is lost
    agents, names = service.cycles()
    addresses = {bed.address(host) for host in NODES}
    assert {("tail", address) for address in addresses} <= names[2]
    for cycle in (1, 2, gone + 2):
        assert all(len(of) == 1 for of in agents[cycle].values())
        assert agents[cycle].keys() >= {f"tcp:{target}" for target in TARGETS}
    of_host = {
        host: {a for each, of in agents[2].items() for a in of if each.endswith(f"@{host}")} for host in addresses
    }
    assert sorted(map(len, of_host.values())) == [2, 2, 2]
    assert len(set().union(*of_host.values())) == 6
    assert {agent for target in TARGETS for agent in agents[2][f"tcp:{target}"]} == set().union(*of_host.values())
    assert not any(each.endswith(f"@{bed.address(2)}") for each in agents[gone + 2])
    assert set().union(*agents[gone + 2].values()) <= of_host[bed.address(0)] | of_host[bed.address(1)]
