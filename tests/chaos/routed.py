"""Call the owners of keys while workers join, are drained, leave and are killed, and judge by the workers' logs.

Workers log ``[key, token, start, end, worker, call]`` of each call that they run, by the key of an exclusive group.
Callers note how each call ended. Afterwards the logs must show:

- No two workers ran calls of one key at the same time and no token of a key went back, so calls ran only on owners.
- Every call ended, with a result or one of the library's errors.
- A call with a result ran, and ran once if it is not safe to repeat.
- A call whose error says that it has not run, did not run.

    python tests/chaos/routed.py --calls 5000 --seed 1
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from common import Writer, make_parser, ray_and_folder, read_lines, show
from ledger import GROUP, KEYS, Chaos

from partition_actor import Router, clock, errors, owned_by

LONGEST_CALL = 0.1
"""Seconds. One call in ten takes up to that long, the others no time."""
PAUSE = 0.5
"""Seconds between two faults."""
AT_ONCE = 48
"""The number of concurrent calls."""
HANGS_AFTER = 120.0
"""Seconds after which a call counts as hanging; a call may wait for an owner for a quarter of that."""
HAS_NOT_RUN = (errors.NotOwner, errors.NoOwner, errors.TooManyCalls)
BATCH = 20
"""Items of a `map`. Each item counts as a call."""


class Worker(Writer):
    """Runs calls, and logs which, when and with what token."""

    def __init__(self, worker_id: str, actor: str, path: str, exclusive: bool) -> None:
        super().__init__(worker_id, actor, path)
        self._life = Path(path).stem
        self._coordinator.join_group(GROUP, exclusive=exclusive)

    @owned_by("key", group=GROUP)
    def once(self, key: str, call: str, seconds: float) -> str:
        self._run([(key, call)], seconds)
        return call

    @owned_by("key", group=GROUP)
    def repeated(self, key: str, call: str, seconds: float) -> str:
        self._run([(key, call)], seconds)
        return call

    @owned_by("items", group=GROUP, each=True, key=lambda item: item[0])
    def batch(self, items: list[tuple[str, str]]) -> list[str]:
        self._run(items, 0.0)
        return [call for _, call in items]

    def _run(self, items: list[tuple[str, str]], seconds: float) -> None:
        token, start = self._coordinator.fencing_token(GROUP), clock.now()
        time.sleep(seconds)
        end = clock.now()
        self._write(*([key, token, start, end, self._life, call] for key, call in items))


class Attacked(Chaos):
    """Workers of a group under attack."""

    worker = Worker

    def join(self) -> None:
        """Start one more worker, and let another leave if there are many."""
        self.add(f"worker-{self.lives + 100}")
        if len(self.workers) > 6:
            self.leave()

    def attack(self, over: threading.Event) -> None:
        """One fault after another until `over` is set."""
        faults: list[Callable[[], None]] = [
            self.kill,
            self.drain,
            self.leave,
            self.join,
            self.restart,
            self.partition_actor,
        ]
        plan: list[Callable[[], None]] = []
        while not over.wait(PAUSE):
            if not plan:
                plan = self.dice.sample(faults, len(faults))
            fault = plan.pop()
            fault()
            self.faults[fault.__name__] += 1

    @property
    def has_tried_all(self) -> bool:
        """Whether each kind of fault has happened."""
        return len(self.faults) == 6


class Callers:
    """Makes the calls, and records how each of them ended: with a result or an error."""

    def __init__(self, router: Router, seed: int, enough: Callable[[int], bool]) -> None:
        self.router = router
        self.ended: dict[str, str] = {}
        self.hanging: list[str] = []
        self.strange: list[str] = []
        self._dice = random.Random(seed)
        self._started = 0
        self._enough = enough

    async def run(self) -> None:
        """Make all calls, `AT_ONCE` at a time."""
        ways = [self._acall] * 14 + [self._get] * 4 + [self._map]

        async def caller() -> None:
            while not self._enough(self._started):
                way = self._dice.choice(ways)
                calls = [f"{way.__name__}-{self._started + at}" for at in range(BATCH if way == self._map else 1)]
                self._started += len(calls)
                try:
                    await asyncio.wait_for(way(calls), HANGS_AFTER)
                except asyncio.TimeoutError:
                    self.hanging += calls

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    def _end(self, call: str, outcome: object) -> None:
        """Record how a call ended."""
        self.ended[call] = type(outcome).__name__ if isinstance(outcome, Exception) else "result"
        if isinstance(outcome, Exception) and not isinstance(outcome, errors.PartitionError):
            self.strange.append(f"{call}: {outcome!r}")
        elif not isinstance(outcome, Exception) and outcome != call:
            self.strange.append(f"{call} has the result {outcome!r}")

    def _some_seconds(self) -> float:
        return self._dice.uniform(0.0, LONGEST_CALL) if self._dice.random() < 0.1 else 0.0

    async def _acall(self, calls: list[str]) -> None:
        key, method = self._dice.choice(KEYS), self._dice.choice(["once", "repeated"])
        calls[0] = f"{method}-{calls[0]}"
        try:
            self._end(calls[0], await self.router.acall(key, method, key, calls[0], self._some_seconds()))
        except Exception as error:
            self._end(calls[0], error)

    async def _get(self, calls: list[str]) -> None:
        key, method = self._dice.choice(KEYS), self._dice.choice(["once", "repeated"])
        calls[0] = f"{method}-{calls[0]}"
        seconds = self._some_seconds()

        def call_and_get() -> Any:
            return self.router.get(self.router.call(key, method, key, calls[0], seconds))

        try:
            self._end(calls[0], await asyncio.to_thread(call_and_get))
        except Exception as error:
            self._end(calls[0], error)

    async def _map(self, calls: list[str]) -> None:
        items = [(self._dice.choice(KEYS), f"once-{call}") for call in calls]

        def map_all() -> list[tuple[list[Any], Any]]:
            return list(self.router.map("batch", items, key=lambda item: item[0], return_exceptions=True))

        for sent, result in await asyncio.to_thread(map_all):
            for at, (_, call) in enumerate(sent):
                self._end(call, result if isinstance(result, Exception) else result[at])


class Entry(NamedTuple):
    """A call of a key that a worker ran."""

    key: str
    token: int
    start: float
    end: float
    worker: str
    call: str


def judge_owners(entries: list[Entry]) -> tuple[list[str], list[str]]:
    """Find calls of one key that two workers ran at the same time, and tokens that went back."""
    overlaps, reversals = [], []
    by_key: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_key[entry.key].append(entry)
    for key, units in by_key.items():
        until: dict[str, float] = {}
        highest = 0
        for _, token, start, end, worker, call in sorted(units, key=lambda unit: unit.start):
            others = [other for other, its_end in until.items() if other != worker and its_end > start]
            if others:
                overlaps.append(f"{call} of {key} at {worker} from {start} to {end}, and at {others}")
            if token and token < highest:  # 0: it lost the key before it read the token, and storage refuses 0
                reversals.append(f"{call} of {key} at {worker}: token {token} after {highest}")
            highest = max(highest, token)
            until[worker] = max(end, until.get(worker, end))
    return overlaps, reversals


def judge_calls(ended: dict[str, str], entries: list[Entry]) -> list[str]:
    """Find calls that ran more or less often than their outcome allows."""
    ran = Counter(entry.call for entry in entries)
    not_run = {error.__name__ for error in HAS_NOT_RUN}
    wrong = []
    for call, outcome in ended.items():
        if (
            (outcome == "result" and ran[call] == 0)
            or (call.startswith("once") and ran[call] > 1)
            or (call.startswith("once") and outcome in not_run and ran[call] > 0)
        ):
            wrong.append(f"{call} ended with {outcome} and ran {ran[call]} times")
    return wrong


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--plain", action="store_true", help="use a group that is not exclusive: must find overlaps or reversals"
    )
    options = parser.parse_args()
    with ray_and_folder(options.seed) as folder:
        chaos = Attacked(folder, options.seed, options.workers, not options.plain)
        callers = call_under_attack(chaos, options.calls, options.seed)
        entries = [Entry(*line) for line in read_lines(folder)]
    return report(chaos, callers, entries)


def call_under_attack(chaos: Attacked, calls: int, seed: int) -> Callers:
    """Make the calls while faults happen."""
    over = threading.Event()
    attack = threading.Thread(target=chaos.attack, args=(over,))
    with Router(GROUP, chaos.name, timeout=HANGS_AFTER / 4, repeatable=["repeated"]) as router:
        callers = Callers(router, seed, lambda started: started >= calls and chaos.has_tried_all)
        attack.start()
        try:
            asyncio.run(callers.run())
        finally:
            over.set()
            attack.join()
    return callers


def report(chaos: Attacked, callers: Callers, entries: list[Entry]) -> int:
    """Print the findings; returns 0 if there are none."""
    overlaps, reversals = judge_owners(entries)
    wrong = judge_calls(callers.ended, entries)
    print(f"faults: {dict(chaos.faults)}")
    print(f"ended with {dict(Counter(callers.ended.values()))}")
    findings = {
        "overlaps": overlaps,
        "reversals": reversals,
        "hanging": callers.hanging,
        "wrong": wrong,
        "strange": callers.strange,
    }
    return show(f"calls: {len(callers.ended)}", findings)


if __name__ == "__main__":
    sys.exit(main())
