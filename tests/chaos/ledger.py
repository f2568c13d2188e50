"""Try to break the guarantee of exclusive groups on a real cluster, and judge by the workers' logs.

Workers of two groups log ``[key, token, start, end, worker, kind]`` of each unit of work, each to its own file.
Meanwhile workers are killed, stopped and continued, drained, restarted under their id, started anew in their process,
forked and added, their callbacks and calls take long and call back into the library, and the partition actor is killed.
The logs alone must then show that no two intervals of one key overlap, that no token of a key goes back, that no forked
child was permitted anything, and that after every fault each key was worked on again.

    python tests/chaos/ledger.py --seconds 60 --seed 1
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import Writer, make_parser, ray_and_folder, read_lines, show
from ledger_worker import CHILD_HANGS_AFTER, KEYS_OF, SETTINGS, Unit, Worker

import partition_actor
from partition_actor import clock

RECOVER_WITHIN = 60.0
"""Seconds within which every key is worked on after a fault; covers leases that end and a restart."""


def read_ledger(folder: Path) -> list[Unit]:
    """All logged units of work."""
    return [Unit(*line) for line in read_lines(folder) if len(line) == len(Unit._fields)]


def judge(units: list[Unit]) -> dict[str, list[str]]:
    """Find units of work on one key that overlap, whatever a forked child did, and tokens that go back."""
    findings: dict[str, list[str]] = {"overlaps": [], "reversals": []}
    by_key: dict[str, list[Unit]] = defaultdict(list)
    for unit in sorted(units, key=lambda unit: unit.start):
        by_key[unit.key].append(unit)
    for of_key in by_key.values():
        running: dict[str, Unit] = {}
        """Of each session whose unit may still run, the one that ends last."""
        own: dict[str, int] = {}
        """Of each session, the highest token by which it owned the key."""
        highest: list[Unit] = []
        """The unit of the highest token, and the highest of another session."""
        for unit in of_key:
            if unit.kind == "child":
                findings["overlaps"].append(f"a forked child: {unit}")
                continue
            running = {worker: other for worker, other in running.items() if other.end > unit.start}
            for other in running.values():
                if other.worker != unit.worker:
                    findings["overlaps"].append(f"{other.kind} and {unit.kind}: {other} and {unit}")
            # Of one session a callback or a call may end a work that it began by an earlier view.
            for other in highest:
                if unit.token < other.token and other.worker != unit.worker:
                    findings["reversals"].append(f"{other.kind} and {unit.kind}: {other} and {unit}")
            if unit.kind == "owns" and unit.token < own.get(unit.worker, unit.token):
                findings["reversals"].append(f"{unit.worker} went back: {unit}")
            if unit.worker not in running or running[unit.worker].end < unit.end:
                running[unit.worker] = unit
            if unit.kind == "owns":
                own[unit.worker] = max(unit.token, own.get(unit.worker, unit.token))
            highest = _highest(unit, *highest)
    return findings


def _highest(*units: Unit) -> list[Unit]:
    """The unit of the highest token, and the highest of another session."""
    by_token = sorted(units, key=lambda unit: unit.token, reverse=True)
    return by_token[:1] + [unit for unit in by_token if unit.worker != by_token[0].worker][:1]


class Tail:
    """What workers have logged since it was last asked, so that a long run need not read everything again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.last_owned: dict[str, float] = {}
        """When the last unit of work on a key began."""
        self.ended_children: set[int] = set()

    def read(self) -> None:
        """Take in what is new."""
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().rpartition(b"\n")[0]
            if lines:
                self._read[path] = self._read.get(path, 0) + len(lines) + 1
            for line in map(json.loads, lines.splitlines()):
                self._take(line)

    def _take(self, line: list[Any]) -> None:
        if len(line) != len(Unit._fields):
            self.ended_children.add(line[1])
            return
        unit = Unit(*line)
        if unit.kind == "owns":
            self.last_owned[unit.key] = max(unit.start, self.last_owned.get(unit.key, unit.start))


class Chaos:
    """The cluster under attack."""

    worker: type[Writer] = Worker
    settings = SETTINGS

    def __init__(self, folder: Path, seed: int, workers: int, exclusive: bool = True) -> None:
        self.folder = folder
        self.exclusive = exclusive
        self.dice = random.Random(seed)
        self.name = f"chaos-{os.getpid()}"
        self.handle = partition_actor.deploy(self.name, settings=self.settings)
        self.workers: dict[str, Any] = {}
        self.pids: dict[str, int] = {}
        self.lives = 0
        self.faults: dict[str, int] = defaultdict(int)
        self.recovery_seconds: dict[str, list[float]] = defaultdict(list)
        self.hanging: list[str] = []
        self.tail = Tail(folder)
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

    def add_another(self) -> str:
        """Start a worker under a new id, which is returned."""
        worker_id = f"worker-{self.lives + 100}"
        self.add(worker_id)
        return worker_id

    def tell(self, worker_id: str, method: str, *arguments: Any) -> Any:
        """Call a method of a worker."""
        return ray.get(getattr(self.workers[worker_id], method).remote(*arguments), timeout=RECOVER_WITHIN)

    def kill(self, worker_id: str = "") -> None:
        """Kill a worker, and start another one under a new id."""
        worker_id = worker_id or self.any_worker()
        os.kill(self.pids.pop(worker_id), signal.SIGKILL)
        del self.workers[worker_id]
        self.add_another()

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
        self.ask("drain", self.dice.choice([*KEYS_OF]), worker_id)
        self.pids.pop(worker_id)
        self.retired = self.workers.pop(worker_id)  # keep a handle, else Ray would end it
        self.add_another()

    def leave(self) -> None:
        """Stop a worker in an orderly way, and start another one."""
        self.end(self.any_worker())
        self.add_another()

    def end(self, worker_id: str) -> None:
        """Stop a worker in an orderly way."""
        self.tell(worker_id, "stop")
        ray.kill(self.workers.pop(worker_id))
        self.pids.pop(worker_id)

    def partition_actor(self) -> None:
        """Kill the partition actor; Ray restarts it without state."""
        os.kill(self.ask("status")["pid"], signal.SIGKILL)

    def stop_and_start(self, worker_id: str = "") -> None:
        """Stop a worker and start it again in its process, while a callback runs."""
        how = self.dice.choice(["once", "twice", "in two threads"])
        self.tell(worker_id or self.any_worker(), "stop_and_start", how, self.dice.choice([0.05, 0.5, 0.9, 3.0]))

    def slow_callback(self) -> None:
        """Let a callback take less or more than the partition actor waits, in one group and while members change."""
        self.tell(self.any_worker(), "be_slow", self.dice.choice([*KEYS_OF]), self.dice.choice([0.4, 0.8, 2.0, 4.0]))
        added = self.add_another()
        self.leave()
        if added in self.workers:
            self.end(added)

    def slow_callbacks_through_epochs(self) -> None:
        """Let every callback take long, and run the watchers, while one epoch follows the other."""
        for worker_id in self.workers:
            for group in KEYS_OF:
                self.tell(worker_id, "be_slow", group, self.dice.choice([0.3, 0.9]))
        added = [self.add_another() for _ in range(2)]
        self.kill()
        for worker_id in added:
            if worker_id in self.workers:
                self.end(worker_id)

    def long_call(self) -> None:
        """Let guarded calls take less or more than the partition actor waits, while members change."""
        for worker_id in self.workers:
            self.tell(worker_id, "call_long", self.dice.choice([0.3, 0.8, 3.0]))
        self.end(self.add_another())

    def fork(self) -> None:
        """Fork a worker; its child tries to work while the worker goes on, starts anew, or is killed."""
        worker_id = self.any_worker()
        child = self.tell(worker_id, "fork", 1.5 * SETTINGS.ttl)
        then = self.dice.choice([lambda _: None, self.stop_and_start, self.kill])
        then(worker_id)
        until = time.monotonic() + CHILD_HANGS_AFTER
        while child not in self.tail.ended_children:
            self.tail.read()
            if time.monotonic() > until:
                self.hanging.append(f"a forked child: {child} of {worker_id}")
                return
            time.sleep(0.05)

    def wait_until_recovered(self, since: float) -> float:
        """Wait until each key has a unit of work that began after `since`; returns the seconds since then."""
        until = time.monotonic() + RECOVER_WITHIN
        keys = {key for of_group in KEYS_OF.values() for key in of_group}
        stale = sorted(keys)
        while time.monotonic() < until:
            self.tail.read()
            stale = sorted(key for key in keys if self.tail.last_owned.get(key, since) <= since)
            if not stale:
                return clock.now() - since
            time.sleep(0.05)
        raise SystemExit(f"{RECOVER_WITHIN} s after a fault nobody works on {stale}")

    def run(self, seconds: float) -> None:
        """One fault after another; all keys recover before the next."""
        faults: list[Callable[[], None]] = [
            self.kill, self.restart, self.pause, self.zombie, self.drain, self.leave, self.partition_actor,
            self.stop_and_start, self.slow_callback, self.slow_callbacks_through_epochs, self.long_call, self.fork,
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
    print(f"units by kind: {dict(Counter(unit.kind for unit in units))}")
    findings = {**judge(units), "hanging": chaos.hanging}
    for kind, found in findings.items():
        print(f"{kind} by kind: {dict(Counter(line.partition(':')[0] for line in found))}")
    return show(f"units of work: {len(units)}", findings)


if __name__ == "__main__":
    sys.exit(main())
