"""Try to have a lock held twice on a real cluster, and judge by the processes' logs.

Processes race for one lock. The one that gets it logs ``["in", token, time, worker]`` to its own file, works for a
moment, checks that it still holds the lock, logs ``["out", token, time, worker]`` and releases it. Meanwhile holders
are killed, stopped and continued, the lock is broken and the partition actor is killed. The logs alone must then show
that no two holds overlap and that tokens strictly grow.

    python tests/chaos/locks.py --holds 1000 --seed 1
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import Writer, make_parser, ray_and_folder, read_lines, show

import partition_actor
from partition_actor import PartitionCoordinator, Settings, clock
from partition_actor.errors import PartitionActorUnavailable

LOCK = "ledger"
SETTINGS = Settings(ttl=2.0, hold=0.4, handoff_timeout=1.0, node_proof_interval=0.4, max_members=100)
LONGEST_HOLD = 0.01
STOPPED = 0.2
"""A hold that lasted this many seconds was stopped in its middle; storage would refuse it by its token."""
PROGRESS_WITHIN = 60.0
"""Seconds after a fault within which the lock is taken again."""


class Racer(Writer):
    """Takes the lock in an endless loop, and logs when it held it."""

    def __init__(self, worker_id: str, actor: str, path: str) -> None:
        super().__init__(worker_id, actor, path)
        threading.Thread(target=self._race, daemon=True).start()

    def _race(self) -> None:
        dice, lock = random.Random(self._id), self._coordinator.lock(LOCK)
        while True:
            with lock:
                token, start = lock.fencing_token, clock.now()
                if not lock.held:
                    continue
                self._write(["in", token, start, self._id])
                time.sleep(dice.uniform(0.0, LONGEST_HOLD))
                end = clock.now()
                if end - start < STOPPED and lock.fencing_token == token:
                    self._write(["out", token, end, self._id])


def read(folder: Path) -> list[tuple[int, float, float, str]]:
    """``(token, start, end, worker)`` of every hold. One without an "out" ends when it began."""
    holds: dict[tuple[int, str], list[float]] = {}
    for _, token, moment, worker in read_lines(folder):
        holds.setdefault((token, worker), []).append(moment)
    return sorted((token, times[0], times[-1], worker) for (token, worker), times in holds.items())


def judge(holds: list[tuple[int, float, float, str]]) -> dict[str, list[str]]:
    """Find holds that overlap, and tokens that do not grow."""
    by_time = sorted(holds, key=lambda hold: hold[1])
    pairs = list(itertools.pairwise(by_time))
    return {
        "overlaps": [f"{before} and {after}" for before, after in pairs if after[1] < before[2]],
        "reversals": [f"{before} and {after}" for before, after in pairs if after[0] <= before[0]],
    }


class Race:
    """The racers, under attack."""

    def __init__(self, folder: Path, seed: int, racers: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.name = f"race-{os.getpid()}"
        self.handle = partition_actor.deploy(self.name, settings=SETTINGS)
        self.lives = 0
        self.racers: dict[str, int] = {}
        self.handles: list[object] = []
        self.breaker = PartitionCoordinator("breaker", actor=self.name)
        self.breaker.start()
        for _ in range(racers):
            self.add()

    def add(self) -> None:
        """Start another racer."""
        self.lives += 1
        worker_id = f"racer-{self.lives}"
        options = ray.remote(Racer).options(num_cpus=0, max_concurrency=2)
        racer: Any = options.remote(worker_id, self.name, str(self.folder / f"{worker_id}.jsonl"))
        self.racers[worker_id] = ray.get(racer.pid.remote())
        self.handles.append(racer)

    def holder(self) -> str:
        """The last holder of the lock, if it still runs; else a random racer."""
        last = read(self.folder)[-1:]
        worker = last[0][3] if last else ""
        return worker if worker in self.racers else self.dice.choice(sorted(self.racers))

    def kill(self) -> None:
        """Kill the holder, and start another process."""
        os.kill(self.racers.pop(self.holder()), signal.SIGKILL)
        self.add()

    def stop(self) -> None:
        """Stop the holder for less or more than its lease."""
        pid = self.racers[self.holder()]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.dice.choice([0.2, 1.5]) * SETTINGS.ttl)
        os.kill(pid, signal.SIGCONT)

    def break_(self) -> None:
        """Break the lock, whoever holds it."""
        with contextlib.suppress(PartitionActorUnavailable):  # its holder is stopped and cannot release it yet
            self.breaker.lock(LOCK).break_()

    def partition_actor(self) -> None:
        """Kill the partition actor; Ray restarts it without state."""
        with contextlib.suppress(ray.exceptions.ActorUnavailableError):  # it is dead already
            os.kill(ray.get(self.handle.status.remote())["pid"], signal.SIGKILL)

    def wait_for_holds(self) -> int:
        """Wait until the lock has been taken three more times; returns the number of holds so far."""
        before, until = len(read(self.folder)), time.monotonic() + PROGRESS_WITHIN
        while (now := len(read(self.folder))) < before + 3:
            if time.monotonic() > until:
                raise SystemExit(f"nobody took the lock for {PROGRESS_WITHIN} s")
            time.sleep(0.05)
        return now

    def run(self, holds: int) -> dict[str, int]:
        """One fault after another, most of them kills; the lock is taken again before the next."""
        faults = [self.kill, self.kill, self.kill, self.kill, self.stop, self.break_, self.break_, self.partition_actor]
        done: dict[str, int] = {}
        plan: list[int] = []
        while self.wait_for_holds() < holds or sum(done.values()) < len(faults):
            plan = plan or self.dice.sample(range(len(faults)), len(faults))
            fault = faults[plan.pop()]
            fault()
            done[fault.__name__] = done.get(fault.__name__, 0) + 1
            print(f"{len(read(self.folder)):6} holds, {fault.__name__}", flush=True)
        return done


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--holds", type=int, default=1000)
    parser.add_argument("--racers", type=int, default=2)
    options = parser.parse_args()
    with ray_and_folder(options.seed, num_cpus=4) as folder:
        race = Race(folder, options.seed, options.racers)
        faults = race.run(options.holds)
        race.breaker.stop()
        holds = read(folder)
    print(f"faults: {faults}")
    return show(f"holds: {len(holds)}", judge(holds))


if __name__ == "__main__":
    sys.exit(main())
