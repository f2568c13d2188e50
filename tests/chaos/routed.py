"""Call the owners of keys while workers join, are drained, leave and are killed, and judge by the workers' logs.

Workers log ``[call]`` when a call begins to run, and ``[key, token, start, end, worker, call]`` when one by the key of
an exclusive group has run. Calls are awaited, cancelled, made from event loops and from threads, and sent to the wrong
worker; many ask for the result of one call; and methods call guarded ones of their own worker. Callers note how each
call ended. Afterwards the logs must show:

- No two workers ran calls of one key at the same time and no token of a key went back, so calls ran only on owners.
- Every call ended, with a result or one of the library's errors, and the same for all who asked.
- A call with a result ran, and no call ran twice that is not safe to repeat, however it ended.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from common import Writer, make_parser, ray_and_folder, read_lines, show
from ledger import Chaos
from ledger_worker import GROUP, KEYS

from partition_actor import Router, clock, errors, owned_by

LONGEST_CALL = 0.1
"""Seconds. One call in ten takes up to that long, the others no time."""
PAUSE = 0.5
"""Seconds between two faults."""
AT_ONCE = 48
"""The number of concurrent calls of the event loop."""
THREADS = 4
"""The number of threads that make calls beside it."""
ASKERS = 3
"""The number of threads that ask for the result of one call."""
MAX_CALLS = 40
"""The most calls at one owner: few enough that some have to wait."""
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

    def nested(self, key: str, call: str, inner: str) -> str:
        """Has run, whatever becomes of the call that it makes."""
        self._write([call])
        return self.once(inner, inner_call(call), 0.0)

    @owned_by("items", group=GROUP, each=True, key=lambda item: item[0])
    def batch(self, items: list[tuple[str, str]]) -> list[str]:
        self._run(items, 0.0)
        return [call for _, call in items]

    def _run(self, items: list[tuple[str, str]], seconds: float) -> None:
        self._write(*([call] for _, call in items))
        token, start = self._coordinator.fencing_token(GROUP), clock.now()
        time.sleep(seconds)
        end = clock.now()
        self._write(*([key, token, start, end, self._life, call] for key, call in items))


def inner_call(call: str) -> str:
    """What a nested call calls."""
    return f"once-within-{call}"


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

    def __init__(self, router: Router, workers: dict[str, Any], seed: int, enough: Callable[[int], bool]) -> None:
        self.router = router
        self.ended: dict[str, str] = {}
        self.hanging: list[str] = []
        self.strange: list[str] = []
        self._workers = workers
        self._dice = random.Random(seed)
        self._started = 0
        self._lock = threading.Lock()
        self._enough = enough

    def run(self) -> None:
        """Make all calls: by an event loop, `AT_ONCE` at a time, and by threads."""
        threads = [threading.Thread(target=self._by_thread, name=f"caller-{at}") for at in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(self._by_loop())
        finally:
            until = time.monotonic() + HANGS_AFTER
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            self.hanging += [thread.name for thread in threads if thread.is_alive()]

    def _by_thread(self) -> None:
        while not self._enough(self._started):
            self._get(*self._names("thread", 1))

    async def _by_loop(self) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(AT_ONCE))
        ways = [self._acall] * 10 + [self._cancelled] * 2 + [self._nested] * 3 + [self._aget] * 4 + [self._map]

        async def caller() -> None:
            while not self._enough(self._started):
                way = self._dice.choice(ways)
                calls = self._names(way.__name__, BATCH if way == self._map else 1)
                try:
                    await asyncio.wait_for(way(calls), HANGS_AFTER)
                except asyncio.TimeoutError:
                    self.hanging += calls

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    def _names(self, way: str, number: int) -> list[str]:
        with self._lock:
            self._started += number
            return [f"{way}-{self._started - at}" for at in range(number)]

    def _end(self, call: str, outcome: object, expected: str | None = None) -> None:
        """Record how a call ended; its result is its name, unless another one is expected."""
        kind = next((error for error in HAS_NOT_RUN if isinstance(outcome, error)), type(outcome))
        self.ended[call] = kind.__name__ if isinstance(outcome, BaseException) else "result"
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, (errors.PartitionError, asyncio.CancelledError)):
                self.strange.append(f"{call}: {outcome!r}")
        elif outcome != (expected or call):
            self.strange.append(f"{call} has the result {outcome!r}")

    def _some_call(self, call: str) -> tuple[str, str, str, float]:
        """The key, method and arguments of a call."""
        key, method = self._dice.choice(KEYS), self._dice.choice(["once", "repeated"])
        seconds = self._dice.uniform(0.0, LONGEST_CALL) if self._dice.random() < 0.1 else 0.0
        return key, method, f"{method}-{call}", seconds

    async def _acall(self, calls: list[str]) -> None:
        key, method, call, seconds = self._some_call(calls[0])
        try:
            self._end(call, await self.router.acall(key, method, key, call, seconds))
        except Exception as error:
            self._end(call, error)

    async def _cancelled(self, calls: list[str]) -> None:
        key, method, call, seconds = self._some_call(calls[0])
        task = asyncio.ensure_future(self.router.acall(key, method, key, call, seconds))
        await asyncio.sleep(self._dice.uniform(0.0, 0.05))
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        self._end(call, outcome)

    async def _nested(self, calls: list[str]) -> None:
        key, inner, call = self._dice.choice(KEYS), self._dice.choice(KEYS), f"once-{calls[0]}"

        def call_and_get() -> Any:
            return self.router.get(self.router.call(key, "nested", key, call, inner))

        by_get = self._dice.random() < 0.5
        way = asyncio.to_thread(call_and_get) if by_get else self.router.acall(key, "nested", key, call, inner)
        try:
            self._end(call, await way, inner_call(call))
        except Exception as error:
            self._end(call, error)

    async def _aget(self, calls: list[str]) -> None:
        await asyncio.to_thread(self._get, *calls)

    def _get(self, name: str) -> None:
        """One call, by `router.call` or sent to any worker; one or many ask for its result."""
        key, method, call, seconds = self._some_call(name)
        try:
            if self._dice.random() < 0.3:
                worker = self._dice.choice(list(self._workers.values()))
                reference = getattr(worker, method).remote(key, call, seconds)
            else:
                reference = self.router.call(key, method, key, call, seconds)
        except Exception as error:
            self._end(call, error)
            return
        askers = ASKERS if self._dice.random() < 0.5 else 1
        outcomes = [self._ask(reference)] if askers == 1 else []
        if askers > 1:
            with ThreadPoolExecutor(askers) as threads:
                outcomes += threads.map(self._ask, [reference] * askers)
            outcomes.append(self._ask(reference))
        self._end(call, outcomes[0])
        if len({str(outcome) if isinstance(outcome, str) else type(outcome) for outcome in outcomes}) > 1:
            self.strange.append(f"{call} ended with {outcomes}")

    def _ask(self, reference: ray.ObjectRef[Any]) -> Any:
        """The result or the error of a call, by as many `get`s as it takes."""
        while True:
            try:
                return self.router.get(reference, timeout=self._dice.choice([0.0, 0.003, 0.03, None]))
            except ray.exceptions.GetTimeoutError:
                time.sleep(0.001)
            except Exception as error:
                return error

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


def judge_calls(ended: dict[str, str], ran: Counter[str]) -> list[str]:
    """Find calls that ran more or less often than they may, or than their outcome allows."""
    not_run = {error.__name__ for error in HAS_NOT_RUN}
    wrong = [f"{call} ran {times} times" for call, times in ran.items() if times > 1 and call.startswith("once")]
    for call, outcome in ended.items():
        judged = {call, inner_call(call)} if "_nested" in call else {call}
        if call.startswith("once") and outcome in not_run:
            refused_within = "_nested" in call and outcome == errors.NotOwner.__name__
            wrong += [f"{each} ended with {outcome} and ran" for each in judged if ran[each] and each != call]
            wrong += [f"{call} ended with {outcome} and ran" for _ in range(ran[call]) if not refused_within]
        if outcome == "result":
            wrong += [f"{each} ended with a result and did not run" for each in judged if not ran[each]]
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
        lines = read_lines(folder)
    entries = [Entry(*line) for line in lines if len(line) > 1]
    return report(chaos, callers, entries, Counter(line[0] for line in lines if len(line) == 1))


def call_under_attack(chaos: Attacked, calls: int, seed: int) -> Callers:
    """Make the calls while faults happen."""
    over = threading.Event()
    attack = threading.Thread(target=chaos.attack, args=(over,))
    patience = HANGS_AFTER / 4
    with Router(GROUP, chaos.name, timeout=patience, repeatable=["repeated"], max_calls=MAX_CALLS) as router:
        callers = Callers(router, chaos.workers, seed, lambda started: started >= calls and chaos.has_tried_all)
        attack.start()
        try:
            callers.run()
        finally:
            over.set()
            attack.join()
    return callers


def report(chaos: Attacked, callers: Callers, entries: list[Entry], ran: Counter[str]) -> int:
    """Print the findings; returns 0 if there are none."""
    overlaps, reversals = judge_owners(entries)
    wrong = judge_calls(callers.ended, ran)
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
