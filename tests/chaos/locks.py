"""Try to have a lock held twice on a real cluster, and judge by the processes' logs.

Processes race for one lock: each by two threads that share one ``Lock`` object, and by asyncio tasks that share
another and are cancelled at random moments. Who gets it logs ``["in", token, time, worker]`` to its process's file,
works for a moment, checks that it still holds the lock, logs ``["out", token, time, worker]`` and releases it.
Meanwhile holders are killed, stopped and continued, the lock is broken and the partition actor is killed. The logs
alone must then show that no two holds overlap and that tokens strictly grow; and when no process is left, nobody holds
the lock.

    python tests/chaos/locks.py --holds 1000 --seed 1
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import Writer, make_parser, ray_and_folder, read_lines, show

import partition_actor
from partition_actor import Lock, PartitionCoordinator, Settings, clock
from partition_actor.errors import PartitionActorUnavailable

LOCK = "ledger"
SETTINGS = Settings(ttl=2.0, hold=0.4, handoff_timeout=1.0, node_proof_interval=0.4, max_members=100)
LONGEST_HOLD = 0.01
STOPPED = 0.2
"""A hold that lasted this many seconds was stopped in its middle; storage would refuse it by its token."""
PROGRESS_WITHIN = 60.0
"""Seconds after a fault within which the lock is taken again."""


class Racer(Writer):
    """Takes the lock in endless loops, and logs when it held it."""

    def __init__(self, worker_id: str, actor: str, path: str) -> None:
        super().__init__(worker_id, actor, path)
        self._dice = random.Random(worker_id)
        shared = self._coordinator.lock(LOCK)
        for number in range(2):
            threading.Thread(target=self._race, args=(shared, f"{worker_id}/{number}"), daemon=True).start()
        threading.Thread(target=asyncio.run, args=(self._race_and_cancel(),), daemon=True).start()

    def _race(self, lock: Lock, who: str) -> None:
        while True:
            with lock, self._logged(lock, who):
                time.sleep(self._dice.uniform(0.0, LONGEST_HOLD))

    async def _race_and_cancel(self) -> None:
        shared = self._coordinator.lock(LOCK)

        async def take(who: str) -> None:
            async with shared:
                with self._logged(shared, who):
                    await asyncio.sleep(self._dice.uniform(0.0, LONGEST_HOLD))

        for number in itertools.count():
            tasks = [asyncio.ensure_future(take(f"{self._id}/task {number} {each}")) for each in range(2)]
            await asyncio.sleep(self._dice.uniform(0.0, 10 * LONGEST_HOLD))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.contextmanager
    def _logged(self, lock: Lock, who: str) -> Iterator[None]:
        token, start = lock.fencing_token, clock.now()
        if lock.held:
            self._write(["in", token, start, who])
        yield
        end = clock.now()
        if token and end - start < STOPPED and lock.fencing_token == token:
            self._write(["out", token, end, who])


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
        worker = last[0][3].partition("/")[0] if last else ""
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

    def end(self) -> list[str]:
        """Kill all racers; returns who is said to hold the lock, or to wait for it, a while after that."""
        for pid in self.racers.values():
            os.kill(pid, signal.SIGKILL)
        until, left = time.monotonic() + PROGRESS_WITHIN, ["?"]
        while left and time.monotonic() < until:
            with contextlib.suppress(ray.exceptions.RayError):
                locks = ray.get(self.handle.status.remote())["locks"]
                left = [f"{name}: {what}" for name, what in locks.items()]
            time.sleep(0.1)
        return left

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
        left = race.end()
        holds = read(folder)
    print(f"faults: {faults}")
    return show(f"holds: {len(holds)}", {**judge(holds), "left": left})


if __name__ == "__main__":
    sys.exit(main())
