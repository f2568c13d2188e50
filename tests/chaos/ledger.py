"""Try to break the guarantee of an exclusive group on a real cluster, and judge by what was written.

Workers append ``[key, token, start, end, worker]`` around each unit of work to files of their own, while workers are
killed, stopped and continued, drained, restarted under their id and joined, and the coordinator is killed. Afterwards,
and from the files alone: no two intervals of one key overlap, no token of a key goes back, and after every fault each
key was worked on again.

    python tests/chaos/ledger.py --seconds 60 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

import partition_actor
from partition_actor import PartitionCoordinator, Settings, clock

GROUP = "ledger"
KEYS = [f"key-{number}" for number in range(16)]
SETTINGS = Settings(ttl=2.0, hold=0.4, handoff_timeout=1.0, node_proof_interval=0.4, max_members=150)
LONGEST_UNIT = 0.02
"""Seconds; shorter than the margin that the coordinator adds to a lease (2 % of the ttl)."""
STOPPED = 0.2
"""Seconds after which a unit of work must have been stopped in its middle."""
# A fault has settled at the latest when leases have run out, the coordinator is up again and has recovered.
SETTLE_WITHIN = 60.0


@ray.remote(num_cpus=0, max_concurrency=4)
class Worker:
    """Works on its keys round and round, and writes down what it did."""

    def __init__(self, worker_id: str, actor: str, ledger: str, exclusive: bool = True) -> None:
        self._id = worker_id
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._coordinator = PartitionCoordinator(worker_id, actor=actor)
        self._coordinator.start()
        self._working = threading.Lock()
        self._coordinator.partition(GROUP, KEYS).on_lost(self._finish)
        self._coordinator.join_group(GROUP, exclusive=exclusive)
        threading.Thread(target=self._work, daemon=True).start()

    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        self._coordinator.stop()

    def _finish(self, _lost: list[str]) -> None:
        """The keys are the next owner's when this returns: wait for the unit of work in progress."""
        with self._working:
            pass

    def _work(self) -> None:
        dice = random.Random(self._id)
        while True:
            for key in KEYS:
                with self._working:
                    if self._coordinator.owns(GROUP, key):
                        self._work_on(key, dice.uniform(0.0, LONGEST_UNIT))
            time.sleep(0.002)

    def _work_on(self, key: str, seconds: float) -> None:
        token, start = self._coordinator.fencing_token(GROUP), clock.now()
        if not self._coordinator.owns(GROUP, key):
            return
        time.sleep(seconds)
        # A unit during which the process was stopped, or its lease ended, is not written: storage would refuse it by
        # its token, and no lease can prevent it.
        end = clock.now()
        if end - start < STOPPED and self._coordinator.fencing_token(GROUP):
            os.write(self._file, (json.dumps([key, token, start, end, self._id]) + "\n").encode())


@dataclass
class Findings:
    """What the files say."""

    units: int = 0
    overlaps: list[str] = field(default_factory=list)
    reversals: list[str] = field(default_factory=list)


def read_ledger(folder: Path) -> list[tuple[str, int, float, float, str]]:
    """Every whole line of every worker's file; a killed worker may leave half a line."""
    entries = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                key, token, start, end, worker = json.loads(line)
            except ValueError:
                continue
            entries.append((key, token, start, end, worker))
    return entries


def judge(entries: list[tuple[str, int, float, float, str]]) -> Findings:
    """Look for two intervals of one key that overlap, and for tokens that go back."""
    findings = Findings(units=len(entries))
    by_key: dict[str, list[tuple[str, int, float, float, str]]] = defaultdict(list)
    for entry in entries:
        by_key[entry[0]].append(entry)
    for units in by_key.values():
        units.sort(key=lambda unit: unit[2])
        for before, after in itertools.pairwise(units):
            if after[2] < before[3] and after[4] != before[4]:
                findings.overlaps.append(f"{before} and {after}")
            if after[1] < before[1]:
                findings.reversals.append(f"{before} and {after}")
    return findings


class Chaos:
    """The cluster under attack."""

    def __init__(self, folder: Path, seed: int, workers: int, exclusive: bool = True) -> None:
        self.folder = folder
        self.exclusive = exclusive
        self.dice = random.Random(seed)
        self.name = f"chaos-{os.getpid()}"
        self.handle = partition_actor.deploy(self.name, settings=SETTINGS)
        self.workers: dict[str, Any] = {}
        self.pids: dict[str, int] = {}
        self.lives = 0
        self.faults: dict[str, int] = defaultdict(int)
        self.healed: dict[str, list[float]] = defaultdict(list)
        for number in range(workers):
            self.add(f"worker-{number}")

    def add(self, worker_id: str) -> None:
        """Start a process under this id; there may be one already."""
        self.lives += 1
        path = self.folder / f"{worker_id}-{self.lives}.jsonl"
        worker = Worker.remote(worker_id, self.name, str(path), self.exclusive)  # type: ignore[attr-defined]
        self.pids[worker_id] = ray.get(worker.pid.remote())
        self.workers[worker_id] = worker

    def any_worker(self) -> str:
        """The id of some worker."""
        return self.dice.choice(sorted(self.workers))

    def kill(self) -> None:
        """kill -9 a worker, and start another one under a new id."""
        worker_id = self.any_worker()
        os.kill(self.pids.pop(worker_id), signal.SIGKILL)
        del self.workers[worker_id]
        self.add(f"worker-{self.lives + 100}")

    def restart(self) -> None:
        """kill -9 a worker, and start its successor under the same id at once."""
        worker_id = self.any_worker()
        os.kill(self.pids[worker_id], signal.SIGKILL)
        self.add(worker_id)

    def pause(self) -> None:
        """SIGSTOP a worker for less or for more than its lease; others go on meanwhile."""
        pid = self.pids[self.any_worker()]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.dice.choice([0.2, 0.8, 1.5]) * SETTINGS.ttl)
        os.kill(pid, signal.SIGCONT)

    def zombie(self) -> None:
        """Stop a worker, start a successor under its id, and let the old one wake up."""
        worker_id = self.any_worker()
        old, handle = self.pids[worker_id], self.workers[worker_id]
        os.kill(old, signal.SIGSTOP)
        self.add(worker_id)
        time.sleep(self.dice.choice([0.1, 1.2]) * SETTINGS.ttl)
        os.kill(old, signal.SIGCONT)
        time.sleep(SETTINGS.hold)
        ray.kill(handle)

    def ask(self, method: str, *arguments: str) -> Any:
        """Call the coordinator, again when it is just being restarted."""
        until = time.monotonic() + SETTLE_WITHIN
        while True:
            try:
                return ray.get(getattr(self.handle, method).remote(*arguments), timeout=SETTLE_WITHIN)
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def drain(self) -> None:
        """Let an operator drain a worker, and start another one."""
        worker_id = self.any_worker()
        self.ask("drain", GROUP, worker_id)
        self.pids.pop(worker_id)
        self.retired = self.workers.pop(worker_id)
        self.add(f"worker-{self.lives + 100}")

    def leave(self) -> None:
        """Stop a worker in an orderly way, and start another one."""
        worker_id = self.any_worker()
        ray.get(self.workers[worker_id].stop.remote(), timeout=SETTLE_WITHIN)
        ray.kill(self.workers.pop(worker_id))
        self.pids.pop(worker_id)
        self.add(f"worker-{self.lives + 100}")

    def coordinator(self) -> None:
        """kill -9 the coordinator; Ray restarts it with nothing."""
        os.kill(self.ask("status")["pid"], signal.SIGKILL)

    def settle(self, since: float) -> float:
        """Wait until each key has been worked on in a unit that began after `since`; the seconds it took."""
        until = time.monotonic() + SETTLE_WITHIN
        stale = KEYS
        while time.monotonic() < until:
            begun = {key for key, _, start, _, _ in read_ledger(self.folder) if start > since}
            stale = sorted(set(KEYS) - begun)
            if not stale:
                return clock.now() - since
            time.sleep(0.05)
        raise SystemExit(f"not worked on {SETTLE_WITHIN} s after a fault: {stale}")

    def run(self, seconds: float) -> None:
        """One fault after another, each settled before the next."""
        faults: list[Callable[[], None]] = [
            self.kill, self.restart, self.pause, self.zombie, self.drain, self.leave, self.coordinator,
        ]  # fmt: skip
        self.settle(clock.now())
        until, plan = time.monotonic() + seconds, []
        while time.monotonic() < until:
            plan = plan or self.dice.sample(faults, len(faults))
            fault = plan.pop()
            began = clock.now()
            fault()
            name = fault.__name__
            self.faults[name] += 1
            self.healed[name].append(self.settle(clock.now()))
            print(f"{clock.now() - began:6.2f} s  {name}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--plain", action="store_true", help="in a group that is not exclusive: this must find overlaps"
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    ray.init(address="local", num_cpus=16, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory() as folder:
            chaos = Chaos(Path(folder), options.seed, options.workers, not options.plain)
            chaos.run(options.seconds)
            findings = judge(read_ledger(Path(folder)))
    finally:
        ray.shutdown()
    print(f"faults: {dict(chaos.faults)}")
    print(f"units of work: {findings.units}, overlaps: {len(findings.overlaps)}, reversals: {len(findings.reversals)}")
    for line in (findings.overlaps + findings.reversals)[:10]:
        print("  " + line)
    return 1 if findings.overlaps or findings.reversals else 0


if __name__ == "__main__":
    sys.exit(main())
