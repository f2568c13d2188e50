"""``Router.map``: sends many items to their owners in few calls."""

from __future__ import annotations

import heapq
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count, zip_longest
from typing import Any

import ray
from ray.exceptions import RayError

from partition_actor.errors import PartitionError
from partition_actor.router.retry import RetryState
from partition_actor.router.routing_table import GroupFollower, MemberActor, RoutingTable, first

CHECK_INTERVAL = 0.02
"""Seconds until a batch that has no owner, or whose owner takes no more calls, is tried again."""


@dataclass(eq=False, slots=True)
class Batch:
    """Items for one call. By `table` they have one owner; None: not grouped by owner yet."""

    items: list[Any]
    keys: list[Any]
    state: RetryState
    table: RoutingTable | None = None

    def split(self, table: RoutingTable, chunk: int) -> list[Batch]:
        """The items grouped by owner, at most `chunk` in a batch: the first batch of each owner, then the second, …"""
        assert table.ring is not None
        by_owner: dict[int, list[int]] = {}
        for index, owner in enumerate(table.ring.owners_of(self.keys).tolist()):
            by_owner.setdefault(owner, []).append(index)
        chunks = [
            [indices[start : start + chunk] for start in range(0, len(indices), chunk)] for indices in by_owner.values()
        ]
        parts = [part for row in zip_longest(*chunks) for part in row if part is not None]
        if len(parts) == 1:
            self.table = table
            return [self]
        batches = []
        for part in parts:
            keys = [self.keys[index] for index in part]
            batches.append(Batch([self.items[index] for index in part], keys, self.state.for_part(keys[0]), table))
        return batches


@contextmanager
def progress_bar(title: str, total: int, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if rich is installed. `wanted` None: only if standard error is a terminal.

    Yields a function that shows that so many more items are done.
    """
    if (wanted or (wanted is None and sys.stderr.isatty())) and find_spec("rich"):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            yield partial(bar.advance, bar.add_task(title, total=total))
    else:
        yield lambda _: None


@dataclass(eq=False)
class Batches:
    """The batches of one ``Router.map``: ready to be sent, delayed, and under way."""

    follower: GroupFollower
    retry_state: Callable[[Any], RetryState]
    """The state of a new call with this key."""
    time_for_place: Callable[[RetryState, MemberActor], float]
    """How long a call may wait for other calls at a full owner to return. Raises ``TooManyCalls``."""
    method: str
    key: Callable[[Any], object] | None
    in_flight: int
    chunk: int
    _ready: deque[Batch] = field(default_factory=deque)
    _delayed: list[tuple[float, int, Batch]] = field(default_factory=list)
    """A heap of (when to try it again, by ``time.monotonic``; a tie-breaker; the batch)."""
    _order: Iterator[int] = field(default_factory=count)
    _sent: dict[ray.ObjectRef[Any], tuple[Batch, MemberActor, RoutingTable, Any]] = field(default_factory=dict)
    """By its first result, a batch, where and by which table it was sent, and all of its results."""
    _failed: deque[tuple[list[Any], Exception]] = field(default_factory=deque)

    def run(
        self, items: list[Any], bar: AbstractContextManager[Callable[[int], None]], return_exceptions: bool
    ) -> Iterator[tuple[list[Any], Any]]:
        """Send everything, and yield what comes back; see ``Router.map``."""
        keys = items if self.key is None else [self.key(item) for item in items]
        if items:
            self._ready.append(Batch(items, keys, self.retry_state(keys[0])))
        with bar as advance:
            while self._ready or self._delayed or self._sent or self._failed:
                self._send_ready()
                for done, result in self._results(return_exceptions):
                    advance(len(done))
                    yield done, result

    def _send_ready(self) -> None:
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self._ready.append(heapq.heappop(self._delayed)[2])
        while self._ready and len(self._sent) < self.in_flight:
            batch = self._ready.popleft()
            try:
                self._send(batch, self.follower.table)
            except Exception as error:  # of this library, or an item's that cannot be serialised
                self._failed.append((batch.items, error))

    def _send(self, batch: Batch, table: RoutingTable) -> None:
        if batch.table is not table and table.ring is not None and len(table.ring.members) > 0:
            parts = batch.split(table, self.chunk)
            if len(parts) > 1:
                self._ready.extendleft(reversed(parts))
                return
        actor = batch.state.find(table)
        if actor is None:
            self._wait(batch, batch.state.time_to_wait(CHECK_INTERVAL))
        elif actor.take_place():
            sent = actor.send(self.method, (batch.items,), {})
            self._sent[first(sent)] = batch, actor, table, sent
            self.follower.counts.calls += batch.state.is_first_try
        elif any(other.member_id == actor.member_id for _, other, _, _ in self._sent.values()):
            self._delay(batch, CHECK_INTERVAL)  # at no cost of search time: it waits for calls of its own
        else:
            self._wait(batch, min(CHECK_INTERVAL, self.time_for_place(batch.state, actor)))

    def _wait(self, batch: Batch, seconds: float) -> None:
        batch.state.spend(seconds)
        self._delay(batch, seconds)

    def _delay(self, batch: Batch, seconds: float) -> None:
        heapq.heappush(self._delayed, (time.monotonic() + seconds, next(self._order), batch))

    def _results(self, return_exceptions: bool) -> Iterator[tuple[list[Any], Any]]:
        for reference in self._returned():
            batch, actor, table, sent = self._sent.pop(reference)
            actor.forget(sent)
            try:
                result = ray.get(sent)
            except RayError as error:
                self._retry(batch, error, reference, actor, table)
            else:
                yield batch.items, result
        while self._failed:
            items, failure = self._failed.popleft()
            if not return_exceptions:
                raise failure
            yield items, failure

    def _returned(self) -> list[ray.ObjectRef[Any]]:
        """Wait until a call returns or a delayed batch is due; the calls that have returned."""
        pause = max(0.0, self._delayed[0][0] - time.monotonic()) if self._delayed else None
        if self._failed or (self._ready and len(self._sent) < self.in_flight):
            pause = 0.0
        if not self._sent:
            time.sleep(pause or 0.0)
            return []
        calls = list(self._sent)
        returned, _ = ray.wait(calls, num_returns=1, timeout=pause, fetch_local=False)
        if returned:
            returned, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        return list(returned)

    def _retry(
        self, batch: Batch, error: RayError, reference: ray.ObjectRef[Any], actor: MemberActor, table: RoutingTable
    ) -> None:
        try:
            pause = batch.state.failed(error, reference, actor, table)
            self._wait(batch, batch.state.time_to_wait(pause) if pause else 0.0)
        except (PartitionError, RayError) as failure:
            self._failed.append((batch.items, failure))
