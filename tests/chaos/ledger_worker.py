"""The workers of the ledger: they work in every way that the library permits, and log each unit of work.

A worker works on its keys in a loop that asks `owns`, in calls of `owned_by` methods, and in the callbacks for keys
that it has lost, as long as its lease goes on. Callbacks and calls run the watchers in their middle. A forked child
tries the same, and logs whatever it was permitted.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import Writer

from partition_actor import PartitionCoordinator, Settings, clock, owned_by
from partition_actor.errors import NotOwner

GROUP, SECOND = "ledger", "ledger-2"
KEYS = [f"key-{number}" for number in range(16)]
KEYS_OF = {GROUP: KEYS, SECOND: [f"other-{number}" for number in range(8)]}
SETTINGS = Settings(ttl=2.0, hold=0.4, handoff_timeout=1.0, node_proof_interval=0.4, max_members=150)
LONGEST_UNIT = 0.02
"""Seconds; shorter than the margin that the partition actor adds to a lease (2 % of the ttl)."""
LONGEST_GAP = 0.03
"""Seconds between two looks at the lease between which nobody can have taken a key over; shorter than that margin."""
STOPPED = 0.2
"""A unit of work that lasted this many seconds was stopped in its middle."""
CHILD_HANGS_AFTER = 20
"""Seconds after which the kernel ends a forked child that has not ended by itself."""


class Unit(NamedTuple):
    """A unit of work."""

    key: str
    token: int
    start: float
    end: float
    worker: str
    """The session: another life of the process, or another start in it, is another worker."""
    kind: str
    """How it was permitted: "owns", "call", "callback", or "child" for whatever a forked child was permitted."""


class Owned(NamedTuple):
    """The last time that a session was seen to own a key."""

    at: float
    token: int
    worker: str


class Lease:
    """Whether the lease has gone on since some moment, by looking often enough."""

    def __init__(self, coordinator: PartitionCoordinator) -> None:
        self._coordinator = coordinator
        self._looked = float("-inf")
        self._broken = dict.fromkeys(KEYS_OF, float("inf"))
        threading.Thread(target=self._look, daemon=True).start()

    def goes_on_since(self, group: str, moment: float) -> bool:
        """Whether nobody else can have taken over, between `moment` and now, what this session owned at `moment`."""
        token = self._coordinator.fencing_token(group)
        return token > 0 and self._broken[group] < moment and clock.now() - self._looked < LONGEST_GAP

    def _look(self) -> None:
        while True:
            begun = clock.now()
            for group in KEYS_OF:
                token = self._coordinator.fencing_token(group)
                if not token or clock.now() - self._looked > LONGEST_GAP:
                    self._broken[group] = clock.now()
            self._looked = begun
            time.sleep(0.005)


class Worker(Writer):
    """Works on its keys in an endless loop, and logs what it did."""

    def __init__(self, worker_id: str, actor: str, path: str, exclusive: bool) -> None:
        self._life, self._pid, self._session = Path(path).stem, os.getpid(), 1
        self._dice = random.Random(self._life)
        # Of every second worker `stop` returns while slow callbacks still run.
        super().__init__(worker_id, actor, path, call_timeout=0.3 if self._life[-1] in "02468" else 5.0)
        self._exclusive = exclusive
        self._working = {group: threading.Lock() for group in KEYS_OF}
        self._owned: dict[str, Owned] = {}
        self._next_callback = dict.fromkeys(KEYS_OF, 0.0)
        self._next_call = 0.0
        self._in_callbacks: set[object] = set()
        self._sure = (float("inf"), float("-inf"))
        """From when until when the partition actor cannot have ended this session's lease."""
        self._lease = Lease(self._coordinator)
        for group, keys in KEYS_OF.items():
            self._coordinator.partition(group, keys).on_lost(partial(self._finish, group))
        self._join()
        for loop in (self._work, self._make_calls):
            threading.Thread(target=loop, daemon=True).start()

    # -- what the program asks of it ----------------------------------------------------------------------------

    def be_slow(self, group: str, seconds: float) -> None:
        """Let the next callback for lost keys of this group take that long."""
        self._next_callback[group] = seconds

    def call_long(self, seconds: float) -> None:
        """Let the next call of a guarded method take that long."""
        self._next_call = seconds

    def stop_and_start(self, how: str, slow: float) -> None:
        """Stop and start in this process while a callback takes `slow` seconds.

        `how`: once, stopping twice, or in two threads.
        """
        self._be_sure()
        for group in KEYS_OF:
            self.be_slow(group, slow)
        if how == "in two threads":
            stopping = threading.Thread(target=self._coordinator.stop)
            stopping.start()
            self._coordinator.start()
            stopping.join()
        self._coordinator.stop()
        if how == "twice":
            self._coordinator.stop()
        self._session += 1
        self._coordinator.start()
        self._join()

    def fork(self, seconds: float) -> int:
        """Fork a child that tries to work for so long. Returns its pid."""
        if child := os.fork():
            return child
        signal.alarm(CHILD_HANGS_AFTER)
        try:
            self._try_as_a_child(clock.now() + seconds)
            self._write(["child", os.getpid(), "has ended"])
        finally:
            os._exit(0)

    # -- work ---------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        for group in KEYS_OF:
            self._coordinator.join_group(group, exclusive=self._exclusive)

    @property
    def _name(self) -> str:
        return f"{self._life}.{self._session}"

    def _work(self) -> None:
        while True:
            for group, keys in KEYS_OF.items():
                for key in keys:
                    with self._working[group]:
                        worker = self._name  # before it asks: a session that asks later is named no later
                        if self._coordinator.owns(group, key):
                            self._work_on(group, key, worker, self._dice.uniform(0.0, LONGEST_UNIT))
            time.sleep(0.002)

    def _work_on(self, group: str, key: str, worker: str, seconds: float) -> None:
        token, start = self._coordinator.fencing_token(group), clock.now()
        if not self._coordinator.owns(group, key):
            return
        self._owned[key] = Owned(start, token, worker)
        time.sleep(seconds)
        # Do not log a unit during which the process was stopped or its lease ended: no lease can prevent those, but
        # storage would refuse them by their token.
        end = clock.now()
        if end - start < STOPPED and self._coordinator.fencing_token(group):
            self._log("owns", [(key, token, worker)], start, end)

    def _finish(self, group: str, lost: list[str]) -> None:
        """Finish the work on lost keys, and run the watchers meanwhile. When this returns, the next owner may start."""
        running = object()
        self._in_callbacks.add(running)
        until = clock.now() + (self._next_callback[group] or self._dice.uniform(0.0, 0.03))
        self._next_callback[group] = 0.0
        with self._working[group]:  # wait for the unit of work in progress
            owned = {key: self._owned.pop(key) for key in lost if key in self._owned}
        while (start := clock.now()) < until:
            time.sleep(0.005)
            end = clock.now()
            if end - start < STOPPED:
                units = [(key, was.token, was.worker) for key, was in owned.items() if self._may_finish(group, was)]
                self._log("callback", units, start, end)
            self._coordinator.run_watchers()
        self._in_callbacks.discard(running)

    def _may_finish(self, group: str, owned: Owned) -> bool:
        """Whether nobody else can have taken a key over since it was seen to be owned."""
        since, until = self._sure
        return self._lease.goes_on_since(group, owned.at) or (owned.at >= since and clock.now() < until)

    def _be_sure(self) -> None:
        """Have the lease renewed now, and work on the keys after that.

        `stop` takes the permission away, but nobody else may have the keys before the callbacks have returned or the
        lease is over.
        """
        lock, begun, idle = self._coordinator.lock(f"renewal of {self._life}"), clock.now(), not self._in_callbacks
        if lock.acquire(timeout=0.5) and idle and not self._in_callbacks:
            self._sure = (begun, begun + 0.9 * SETTINGS.ttl)
        lock.release()
        time.sleep(0.2)

    # -- calls --------------------------------------------------------------------------------------------------

    @owned_by("key", group=GROUP)
    def _call(self, key: str, seconds: float) -> None:
        self._call_on(GROUP, key, seconds)

    @owned_by("key", group=SECOND)
    def _call_in_second(self, key: str, seconds: float) -> None:
        self._call_on(SECOND, key, seconds)

    def _call_on(self, group: str, key: str, seconds: float) -> None:
        """Work on a key for so long, although it may be lost meanwhile, and run the watchers."""
        worker, token, begun = self._name, self._coordinator.fencing_token(group), clock.now()
        while True:
            start = clock.now()
            time.sleep(0.005)
            end = clock.now()
            goes_on = token > 0 and end - start < STOPPED and self._lease.goes_on_since(group, begun)
            if goes_on or self._is_child:
                self._log("call", [(key, token, worker)], start, end)
            if end > begun + seconds:
                return
            self._coordinator.run_watchers()

    def _make_calls(self) -> None:
        dice = random.Random(f"calls of {self._life}")
        calls: dict[str, Callable[[str, float], None]] = {GROUP: self._call, SECOND: self._call_in_second}
        while True:
            group = dice.choice([*KEYS_OF])
            wanted = self._next_call
            with contextlib.suppress(NotOwner):
                calls[group](dice.choice(KEYS_OF[group]), wanted or dice.uniform(0.0, 0.1))
                if wanted:
                    self._next_call = 0.0
            time.sleep(0.01)

    # -- a forked child -----------------------------------------------------------------------------------------

    @property
    def _is_child(self) -> bool:
        return os.getpid() != self._pid

    def _try_as_a_child(self, until: float) -> None:
        """Try to work until then in every way, and log whatever is permitted."""
        calls: dict[str, Callable[[str, float], None]] = {GROUP: self._call, SECOND: self._call_in_second}
        while clock.now() < until:
            for group, keys in KEYS_OF.items():
                start = clock.now()
                permitted = {*self._coordinator.extract_my_subset(group, keys)}
                permitted |= {key for key in keys if self._coordinator.owns(group, key)}
                self._log("child", [(key, 0, self._name) for key in sorted(permitted)], start, clock.now())
                with contextlib.suppress(NotOwner):
                    calls[group](keys[0], 0.0)
            self._coordinator.heartbeat()
            self._coordinator.run_watchers()
            time.sleep(0.01)

    def _log(self, kind: str, units: list[tuple[str, int, str]], start: float, end: float) -> None:
        if units:
            kind = "child" if self._is_child else kind
            self._write(*([*Unit(key, token, start, end, worker, kind)] for key, token, worker in units))
