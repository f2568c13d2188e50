"""Try to break the guarantee of an exclusive group on a real cluster, and judge by the workers' logs.

Workers log ``[key, token, start, end, worker]`` of each unit of work, each to its own file. Meanwhile workers are
killed, stopped and continued, drained, restarted under their id and added, and the partition actor is killed. The logs
alone must then show that no two intervals of one key overlap, that no token of a key goes back, and that after every
fault each key was worked on again.

    python tests/chaos/ledger.py --seconds 60 --seed 1
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import Writer, make_parser, ray_and_folder, read_lines, show

import partition_actor
from partition_actor import Settings, clock

GROUP = "ledger"
KEYS = [f"key-{number}" for number in range(16)]
SETTINGS = Settings(ttl=2.0, hold=0.4, handoff_timeout=1.0, node_proof_interval=0.4, max_members=150)
LONGEST_UNIT = 0.02
"""Seconds; shorter than the margin that the partition actor adds to a lease (2 % of the ttl)."""
STOPPED = 0.2
"""A unit of work that lasted this many seconds was stopped in its middle."""
RECOVER_WITHIN = 60.0
"""Seconds within which every key is worked on after a fault; covers leases that end and a restart."""


class Worker(Writer):
    """Works on its keys in an endless loop, and logs what it did."""

    def __init__(self, worker_id: str, actor: str, path: str, exclusive: bool) -> None:
        super().__init__(worker_id, actor, path)
        self._working = threading.Lock()
        self._coordinator.partition(GROUP, KEYS).on_lost(self._finish)
        self._coordinator.join_group(GROUP, exclusive=exclusive)
        threading.Thread(target=self._work, daemon=True).start()

    def _finish(self, _lost: list[str]) -> None:
        """Wait for the unit of work in progress: when this returns, the next owner may start."""
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
        # Do not log a unit during which the process was stopped or its lease ended: no lease can prevent those, but
        # storage would refuse them by their token.
        end = clock.now()
        if end - start < STOPPED and self._coordinator.fencing_token(GROUP):
            self._write([key, token, start, end, self._id])


class Unit(NamedTuple):
    """A unit of work."""

    key: str
    token: int
    start: float
    end: float
    worker: str


def read_ledger(folder: Path) -> list[Unit]:
    """All logged units of work."""
    return [Unit(*line) for line in read_lines(folder)]


def judge(units: list[Unit]) -> dict[str, list[str]]:
    """Find units of work on one key that overlap, and tokens that go back."""
    findings: dict[str, list[str]] = {"overlaps": [], "reversals": []}
    by_key: dict[str, list[Unit]] = defaultdict(list)
    for unit in sorted(units, key=lambda unit: unit.start):
        by_key[unit.key].append(unit)
    for of_key in by_key.values():
        for before, after in itertools.pairwise(of_key):
            if after.start < before.end and after.worker != before.worker:
                findings["overlaps"].append(f"{before} and {after}")
            if after.token < before.token:
                findings["reversals"].append(f"{before} and {after}")
    return findings


class Chaos:
    """The cluster under attack."""

    worker: type[Writer] = Worker

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
        self.recovery_seconds: dict[str, list[float]] = defaultdict(list)
        for number in range(workers):
            self.add(f"worker-{number}")

    def add(self, worker_id: str) -> None:
        """Start a worker under this id, even if another one has it."""
        self.lives += 1
        path = self.folder / f"{worker_id}-{self.lives}.jsonl"
        options = ray.remote(self.worker).options(num_cpus=0, max_concurrency=4)
        worker: Any = options.remote(worker_id, self.name, str(path), self.exclusive)
        self.pids[worker_id] = ray.get(worker.pid.remote())
        self.workers[worker_id] = worker

    def any_worker(self) -> str:
        """The id of a random worker."""
        return self.dice.choice(sorted(self.workers))

    def kill(self) -> None:
        """Kill a worker, and start another one under a new id."""
        worker_id = self.any_worker()
        os.kill(self.pids.pop(worker_id), signal.SIGKILL)
        del self.workers[worker_id]
        self.add(f"worker-{self.lives + 100}")

    def restart(self) -> None:
        """Kill a worker, and at once start another one under the same id."""
        worker_id = self.any_worker()
        os.kill(self.pids[worker_id], signal.SIGKILL)
        self.add(worker_id)

    def pause(self) -> None:
        """Stop a worker for less or more than its lease while the others continue."""
        pid = self.pids[self.any_worker()]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.dice.choice([0.2, 0.8, 1.5]) * SETTINGS.ttl)
        os.kill(pid, signal.SIGCONT)

    def zombie(self) -> None:
        """Stop a worker, start another one under its id, and let the old one continue."""
        worker_id = self.any_worker()
        old, handle = self.pids[worker_id], self.workers[worker_id]
        os.kill(old, signal.SIGSTOP)
        self.add(worker_id)
        time.sleep(self.dice.choice([0.1, 1.2]) * SETTINGS.ttl)
        os.kill(old, signal.SIGCONT)
        time.sleep(SETTINGS.hold)
        ray.kill(handle)

    def ask(self, method: str, *arguments: str) -> Any:
        """Call the partition actor; repeat the call while it is being restarted."""
        until = time.monotonic() + RECOVER_WITHIN
        while True:
            try:
                return ray.get(getattr(self.handle, method).remote(*arguments), timeout=RECOVER_WITHIN)
            except ray.exceptions.ActorUnavailableError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def drain(self) -> None:
        """Drain a worker, as an operator would, and start another one."""
        worker_id = self.any_worker()
        self.ask("drain", GROUP, worker_id)
        self.pids.pop(worker_id)
        self.retired = self.workers.pop(worker_id)  # keep a handle, else Ray would end it
        self.add(f"worker-{self.lives + 100}")

    def leave(self) -> None:
        """Stop a worker in an orderly way, and start another one."""
        worker_id = self.any_worker()
        ray.get(self.workers[worker_id].stop.remote(), timeout=RECOVER_WITHIN)
        ray.kill(self.workers.pop(worker_id))
        self.pids.pop(worker_id)
        self.add(f"worker-{self.lives + 100}")

    def partition_actor(self) -> None:
        """Kill the partition actor; Ray restarts it without state."""
        os.kill(self.ask("status")["pid"], signal.SIGKILL)

    def wait_until_recovered(self, since: float) -> float:
        """Wait until each key has a unit of work that began after `since`; returns the seconds since then."""
        until = time.monotonic() + RECOVER_WITHIN
        stale = KEYS
        while time.monotonic() < until:
            begun = {unit.key for unit in read_ledger(self.folder) if unit.start > since}
            stale = sorted(set(KEYS) - begun)
            if not stale:
                return clock.now() - since
            time.sleep(0.05)
        raise SystemExit(f"{RECOVER_WITHIN} s after a fault nobody works on {stale}")

    def run(self, seconds: float) -> None:
        """One fault after another; all keys recover before the next."""
        faults: list[Callable[[], None]] = [
            self.kill, self.restart, self.pause, self.zombie, self.drain, self.leave, self.partition_actor,
        ]  # fmt: skip
        self.wait_until_recovered(clock.now())
        until = time.monotonic() + seconds
        plan: list[Callable[[], None]] = []
        while time.monotonic() < until:
            plan = plan or self.dice.sample(faults, len(faults))
            fault = plan.pop()
            began = clock.now()
            fault()
            name = fault.__name__
            self.faults[name] += 1
            self.recovery_seconds[name].append(self.wait_until_recovered(clock.now()))
            print(f"{clock.now() - began:6.2f} s  {name}", flush=True)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--plain", action="store_true", help="use a group that is not exclusive: must find overlaps")
    options = parser.parse_args()
    with ray_and_folder(options.seed) as folder:
        chaos = Chaos(folder, options.seed, options.workers, not options.plain)
        chaos.run(options.seconds)
        units = read_ledger(folder)
    print(f"faults: {dict(chaos.faults)}")
    return show(f"units of work: {len(units)}", judge(units))


if __name__ == "__main__":
    sys.exit(main())
