"""Kill all of Ray on the head's host, start it again, and measure what exclusive agents on two other hosts had of it.

The GCS keeps its tables in memory, in a Redis on a host of its own, or in RocksDB on a disk that lasts. A supervisor
starts the head again after some seconds, and a worker node whenever its raylet ends. Agents are detached actors that
write the ledger of tests/chaos; it judges.

    python tests/hosts/head_failure.py --rounds 3                       every case
    python tests/hosts/head_failure.py --case "Redis, ttl 60 s"         one of them
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "chaos")]

import bed  # noqa: E402
from ledger import Tail, judge, read_ledger  # noqa: E402
from ledger_worker import KEYS_OF, Unit  # noqa: E402
from ray_hosts import HEAD, PORT, environment  # noqa: E402

from partition_actor import clock  # noqa: E402

AGENTS = ["1-a", "1-b", "2-a", "2-b"]
"""On hosts 1 and 2."""
NEW_AGENTS = ["0-a", *AGENTS]
"""Of a new cluster. The first is on the head, which is there first: the earliest that could meet a former agent."""
STORE = 3
"""The host of Redis."""
KEYS = {key for keys in KEYS_OF.values() for key in keys}
DOWN = 5.0
"""Seconds between the kill and the next `ray start --head`."""
LIMIT = 300.0
"""Seconds."""
GAP = 0.5
"""Seconds. Nobody works on a key of its own for a shorter time now and then: it has others, and waits for a core."""
RAY = f"{sys.executable} -m ray.scripts.scripts start --num-cpus=4 --object-store-memory=100000000"
KILL = """
import os, pathlib, signal
for _ in range(3):
    for pid in {int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*")} - {1, os.getpid()}:
        try:
            if b"ray" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
"""
"""For a host, whose processes see no others."""


class Case(NamedTuple):
    """Where the GCS keeps its tables, and the settings of the partition actor."""

    storage: str
    settings: dict[str, Any]
    unsafe: bool = False
    """It must find two owners of a key, or this program would find none anywhere."""


CASES = {
    "memory": Case("memory", {"new_cluster_wait": 10.0}),
    "memory, ttl 60 s": Case("memory", {"ttl": 60.0, "new_cluster_wait": 60.0}),
    "memory, ttl 60 s, no wait": Case("memory", {"ttl": 60.0}, unsafe=True),
    "Redis": Case("redis", {}),
    "Redis, ttl 60 s": Case("redis", {"ttl": 60.0}),
    "Redis, ttl 60 s, not on the head": Case("redis", {"ttl": 60.0, "pin_to_head": False}),
    "RocksDB": Case("rocksdb", {}),
    "RocksDB, ttl 60 s": Case("rocksdb", {"ttl": 60.0}),
}


class Round(NamedTuple):
    """What one death of a head did."""

    overlaps: int
    reversals: int
    moved: int
    """Keys that another agent has after it."""
    pause: float
    """Seconds: the longest in which nobody worked on some key."""
    recovered: float
    """Seconds from the kill until each key was worked on by an epoch of after it; or, if the partition actor lived on,
    until the last pause was over."""
    head_up: float
    """Seconds from the kill until `ray start --head` had returned."""
    last_old: float
    """Seconds from the kill until somebody worked by a view of before it for the last time."""
    raylets_ended: float
    """Seconds from the kill until the raylets of the other hosts had ended; 0 if they lived on."""


class Cluster:
    """Ray on hosts 0 to 2, with what starts it again."""

    def __init__(self, hosts: bed.Hosts, folder: Path, storage: str) -> None:
        self.hosts, self.folder = hosts, folder
        (folder / "ledger").mkdir()
        of_storage = {
            "memory": {},
            "redis": {"RAY_REDIS_ADDRESS": f"{bed.address(STORE)}:6379", "RAY_external_storage_namespace": "heads"},
            "rocksdb": {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(folder / "gcs")},
        }[storage]
        outlives = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"} if storage != "memory" else {}
        self.environment = environment(HERE, HERE.parent / "chaos", **of_storage, **outlives)
        (folder / "gcs").mkdir()
        if storage == "redis":
            self._start(STORE, "redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly no")
        self.start_head()
        for host in (1, 2):
            join = f"{RAY} --block --node-ip-address={bed.address(host)} --address={bed.address(HEAD)}:{PORT}"
            self._start(host, f"while :; do {join}; echo raylet ended $(cut -d ' ' -f 1 /proc/uptime); sleep 1; done")

    def start_head(self) -> None:
        """Returns once it has started."""
        head = f"{RAY} --head --port={PORT} --include-dashboard=false --node-ip-address={bed.address(HEAD)}"
        done = self.hosts.run(HEAD, ["sh", "-c", head], env=self.environment, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr

    def kill_head(self) -> float:
        """The moment."""
        began = clock.now()
        self.hosts.run(HEAD, [sys.executable, "-c", KILL])
        return began

    def start_agents(self, host: int, settings: dict[str, Any], agents: list[str]) -> str:
        """Deploys the partition actor too; its address."""
        program = [sys.executable, HERE / "head_agents.py", self.folder / "ledger", json.dumps(settings), *agents]
        done = self.hosts.run(host, program, env=self.environment, timeout=LIMIT)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout.strip())

    def raylets_ended(self) -> list[float]:
        """When raylets of worker nodes have ended."""
        logs = "".join(path.read_text() for path in self.folder.glob("host-*.log"))
        return [float(at) for at in re.findall(r"^raylet ended ([\d.]+)$", logs, re.MULTILINE)]

    def _start(self, host: int, command: str) -> None:
        log = (self.folder / f"host-{host}.log").open("a")
        self.hosts.popen(
            host, ["sh", "-c", command], env=self.environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder
        )


def wait_until(condition: Callable[[], Any], what: str) -> None:
    until = clock.now() + LIMIT
    while not condition():
        if clock.now() > until:
            raise SystemExit(f"{LIMIT} s after the head was killed: {what}")
        time.sleep(1.0)


class Owners:
    """Who works on each key, while it goes on."""

    def __init__(self, folder: Path) -> None:
        self._tail, self._folder = Tail(folder), folder

    def wait_until_served(self, since: float) -> None:
        """Until each key has been worked on since then."""

        def served() -> bool:
            self._tail.read()
            return all(self._tail.last_owned.get(key, 0.0) > since for key in KEYS)

        wait_until(served, "not every key has an owner")

    def wait_until_served_by(self, epoch_after: int) -> None:
        """Until each key has been worked on by a token above this one."""
        wait_until(lambda: tokens(self.units(), epoch_after) == KEYS, "not every key is served by a later epoch")

    def units(self) -> list[Unit]:
        """All that were worked by `owns`, in order."""
        owned = (unit for unit in read_ledger(self._folder) if unit.kind == "owns")
        return sorted(owned, key=lambda unit: unit.start)


def tokens(units: list[Unit], above: int) -> set[str]:
    return {unit.key for unit in units if unit.token > above}


def last_owner(units: list[Unit], until: float) -> dict[str, str]:
    """Of each key, the agent that worked on it last before a moment."""
    return {unit.key: unit.worker[:3] for unit in units if unit.start < until}


def measure(cluster: Cluster, case: Case) -> Round:
    """Kill the head once."""
    owners = Owners(cluster.folder / "ledger")
    actor_at = cluster.start_agents(1, case.settings, AGENTS)
    owners.wait_until_served(clock.now() + 2.0)
    token = max(unit.token for unit in owners.units())
    if actor_at == bed.address(HEAD) and not case.settings.get("pin_to_head", True):
        print("Ray has placed the partition actor on the head all the same", flush=True)
    killed = cluster.kill_head()
    time.sleep(DOWN)
    cluster.start_head()
    head_up = clock.now() - killed
    if case.storage == "memory":
        cluster.start_agents(HEAD, case.settings, NEW_AGENTS)
    if actor_at == bed.address(HEAD):
        owners.wait_until_served_by(token)
    owners.wait_until_served(max(clock.now(), killed + head_up + 20.0))
    over = clock.now()
    units, found = owners.units(), judge(read_ledger(cluster.folder / "ledger"))
    for line in [*found["overlaps"], *found["reversals"]][:5]:
        print(line, flush=True)
    before, after = last_owner(units, killed), last_owner(units, over)
    pauses, back = pauses_of(units, killed)
    by_later = [
        min(unit.start for unit in units if unit.key == key and unit.token > token) for key in tokens(units, token)
    ]
    return Round(
        len(found["overlaps"]),
        len(found["reversals"]),
        sum(before[key] != after[key] for key in KEYS),
        max(pauses.values()),
        max(by_later if len(by_later) == len(KEYS) else back) - killed,
        head_up,
        max(unit.start for unit in units if unit.token <= token) - killed,
        max([at for at in cluster.raylets_ended() if at > killed], default=killed) - killed,
    )


def pauses_of(units: list[Unit], killed: float) -> tuple[dict[str, float], list[float]]:
    """Of each key, its longest pause since then; and the ends of all pauses that are longer than `GAP`."""
    longest: dict[str, float] = defaultdict(float)
    last: dict[str, float] = {}
    ends = [killed]
    for unit in units:
        pause = unit.start - last.get(unit.key, unit.start)
        if unit.start > killed:
            longest[unit.key] = max(longest[unit.key], pause)
            if pause > GAP:
                ends.append(unit.start)
        last[unit.key] = max(unit.end, last.get(unit.key, unit.end))
    return longest, ends


@contextmanager
def cluster_of(case: Case) -> Iterator[Cluster]:
    """A cluster of its own, on hosts of its own."""
    folder = Path(tempfile.mkdtemp(prefix="head-failure-"))
    try:
        with bed.Hosts(4 if case.storage == "redis" else 3, share=[folder]) as hosts:
            yield Cluster(hosts, folder, case.storage)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spread(values: list[float]) -> str:
    """The median, and the lowest and highest."""
    digits = 0 if all(isinstance(value, int) for value in values) else 1
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", action="append", choices=CASES)
    options = parser.parse_args()
    if why_not := bed.missing():
        raise SystemExit(why_not)
    rows, wrong = [], 0
    for name in options.case or CASES:
        rounds = []
        for _ in range(options.rounds):
            with cluster_of(CASES[name]) as cluster:
                rounds.append(measure(cluster, CASES[name]))
            print(f"{name}: {rounds[-1]}", flush=True)
        overlaps = sum(each.overlaps + each.reversals for each in rounds)
        wrong += (overlaps == 0) if CASES[name].unsafe else overlaps
        fields = ("moved", "last_old", "head_up", "recovered", "pause", "raylets_ended")
        timed = [spread([getattr(each, field) for each in rounds]) for field in fields]
        rows.append(f"| {' | '.join([name, str(len(rounds)), f'{overlaps:,}', *timed])} |")
    heads = [
        "GCS and settings",
        "rounds",
        "overlaps",
        "keys moved",
        "former views end",
        "head up",
        "recovered",
        "longest pause",
    ]
    print("\n".join([f"| {' | '.join([*heads, 'raylets end'])} |", "| --- " * (len(heads) + 1) + "|", *rows]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
