"""cluster.yaml on one head and two workers by Ray's cluster launcher, with only addresses, user and key changed."""

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

import bed
import pytest
from deployments import wait_until

ROOT = bed.ROOT
OPERATOR, HEAD, WORKERS = 0, 1, [2, 3]
LIMIT = 600.0
"""Seconds for what takes a minute or two on an idle machine."""
DASHBOARD = "http://127.0.0.1:8265"
PYTHON = Path.home() / "partition_actor" / "venv" / "bin" / "python"
ALIVE = """
import ray
ray.init(address="auto", log_to_driver=False, logging_level="error")
print(*sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]))
"""
pytestmark = [pytest.mark.slow_hosts, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheels():
    """A folder with all that pip needs on hosts from which no way leads to a registry."""
    folder = ROOT / "out" / "wheels"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder]
    build = re.search(r"^requires = \[(.+)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE).group(1)
    subprocess.run([*download, "--constraint", "constraints.txt", ".[jobs]"], cwd=ROOT, check=True, timeout=LIMIT)
    subprocess.run([*download, *build.replace('"', "").split(",")], cwd=ROOT, check=True, timeout=LIMIT)
    return folder


class Operator:
    """Host 0, with a checkout of the package and an edited cluster.yaml."""

    def __init__(self, hosts, folder, wheels):
        self.hosts, self.checkout = hosts, folder / "checkout"
        files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
        for path in map(Path, files):
            (self.checkout / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, self.checkout / path)
        for host in (HEAD, *WORKERS):
            pip = hosts.home(host) / ".config" / "pip" / "pip.conf"
            pip.parent.mkdir(parents=True)
            pip.write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
        self.cluster = self.checkout / "cluster.yaml"
        self.edit(
            ("192.0.2.10", bed.address(HEAD)),
            ("192.0.2.11", bed.address(WORKERS[0])),
            ("192.0.2.12", bed.address(WORKERS[1])),
            ("ssh_user: ubuntu", f"ssh_user: {getpass.getuser()}"),
        )
        variables = {"HOME": str(Path.home()), "LANG": "C.UTF-8"}
        self.environment = {**variables, "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}

    def edit(self, *replacements):
        text = self.cluster.read_text()
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        self.cluster.write_text(text)

    def popen(self, *command):
        return self.hosts.popen(OPERATOR, ["env", "-C", self.checkout, *command], env=self.environment)

    def run(self, *command):
        argv = ["env", "-C", self.checkout, *command]
        done = self.hosts.run(OPERATOR, argv, env=self.environment, timeout=LIMIT, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *command):
        return self.run("ray", "job", "submit", f"--address={DASHBOARD}", "--working-dir", ".", "--", *command)

    def alive(self):
        """The addresses of the nodes that the head counts alive; empty while there is no head."""
        done = self.hosts.run(HEAD, [PYTHON, "-c", ALIVE], env=self.environment, timeout=LIMIT)
        return done.stdout.split()


@pytest.fixture(scope="module")
def operator(can_make_hosts, wheels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("operator")
    with bed.Hosts(4, share=[folder, wheels]) as hosts:
        yield Operator(hosts, folder, wheels)


ALL = sorted(bed.address(host) for host in (HEAD, *WORKERS))


def test_ray_up_starts_all_three(operator):
    operator.run("ray", "up", "--yes", "cluster.yaml")
    wait_until(lambda: operator.alive() == ALL, LIMIT)


def test_ray_up_again_brings_new_code_to_all_three(operator):
    version = operator.checkout / "partition_actor" / "version.py"
    version.write_text(version.read_text() + "UPDATED = True\n")
    operator.run("ray", "up", "--yes", "cluster.yaml")
    wait_until(lambda: operator.alive() == ALL, LIMIT)
    look = [PYTHON, "-I", "-c", "import partition_actor.version as v; print(v.UPDATED)"]
    for host in (HEAD, *WORKERS):
        wait_until(lambda host=host: operator.hosts.run(host, look).stdout == "True\n", LIMIT)


@pytest.fixture(scope="module")
def dashboard(operator):
    forwarding = operator.popen("ray", "dashboard", "cluster.yaml")
    answers = [sys.executable, "-c", f"import urllib.request as u; u.urlopen('{DASHBOARD}/api/version')"]
    wait_until(lambda: operator.hosts.run(OPERATOR, answers).returncode == 0, LIMIT)
    yield
    forwarding.kill()
    forwarding.wait()


def test_agents_poll_on_it(operator, dashboard):
    logs = operator.submit("python", "-m", "jobs.deploy")
    assert "actor='partition-actor'" in logs
    poll = ["python", "-m", "jobs.poll", "--config", "jobs/poll.yaml"]
    poll += ["--kill", "1", "--cycles", "4", "--interval", "0"]
    assert "survivors covered everything again" in operator.submit(*poll)
    operator.submit("python", "-m", "jobs.deploy", "--down")


def test_pipelines_run_on_it(operator, dashboard):
    recorded, out = operator.checkout.parent / "recorded", operator.checkout.parent / "pipelines"
    operator.submit("python", "-m", "jobs.record", "--out", str(recorded), "--samples", "20000")
    run = ["python", "-m", "jobs.pipelines", "--input", str(recorded), "--out", str(out), "--kill", "1", "--compare"]
    assert "compared    equal" in operator.submit(*run)


def test_ray_down_ends_it(operator):
    operator.run("ray", "down", "--yes", "cluster.yaml")
    for host in (HEAD, *WORKERS):
        wait_until(lambda host=host: "raylet" not in operator.hosts.run(host, ["ps", "ax"]).stdout, LIMIT)


def test_the_default_autoscaler_still_starts_one_worker_only(operator):
    """If this fails, Ray is mended: drop RAY_enable_autoscaler_v2 from cluster.yaml, and this test."""
    for host in range(operator.hosts.number):
        shutil.rmtree(operator.hosts.tmp(host) / "ray")  # it starts all that ran before
    operator.edit(("RAY_enable_autoscaler_v2=0 ", ""))
    operator.run("ray", "up", "--yes", "cluster.yaml")
    wait_until(lambda: len(operator.alive()) == 2, LIMIT)
    with pytest.raises(pytest.fail.Exception):
        wait_until(lambda: operator.alive() == ALL, 60.0)
