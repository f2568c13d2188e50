"""Many items to their owners, in as few calls as there are owners: what ``Router.map`` does."""

from __future__ import annotations

import heapq
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, zip_longest
from typing import Any

import ray
from ray.exceptions import RayError

from partition_actor.errors import PartitionError
from partition_actor.router.retry import Delivery
from partition_actor.router.routing_table import GroupFollower, MemberActor, RoutingTable

AGAIN = 0.02
"""Seconds until it is looked again whether there is an owner, and whether it takes another call."""


@dataclass(eq=False, slots=True)
class Batch:
    """Items that one owner had by `routes`."""

    items: list[Any]
    keys: list[Any]
    delivery: Delivery
    routes: RoutingTable | None = None


@dataclass(eq=False, slots=True)
class Sent:
    """A batch that is under way."""

    batch: Batch
    target: MemberActor
    routes: RoutingTable


class Progress:
    """A bar on standard error, if it is wanted and rich is installed; None: where that is a terminal."""

    def __init__(self, title: str, total: int, wanted: bool | None) -> None:
        self._title, self._total = title, total
        self._bar: Any = None
        if wanted or (wanted is None and sys.stderr.isatty()):
            try:
                from rich.console import Console
                from rich.progress import Progress as Bar
            except ImportError:
                return
            self._bar = Bar(console=Console(stderr=True))

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, items: int) -> None:
        """So many more items are done."""
        if self._bar is not None:
            self._bar.advance(self._task, items)


class Batches:
    """The batches of one ``Router.map``: those to be sent, those that wait for an owner, and those under way."""

    def __init__(
        self,
        follower: GroupFollower,
        delivery: Callable[[Any], Delivery],
        method: str,
        key: Callable[[Any], object] | None,
        in_flight: int,
        chunk: int,
    ) -> None:
        self._follower = follower
        self._delivery = delivery
        self._method = method
        self._key = key
        self._in_flight = in_flight
        self._chunk = chunk
        self._ready: deque[Batch] = deque()
        self._waiting: list[tuple[float, int, Batch]] = []
        self._order = count()
        self._sent: dict[ray.ObjectRef[Any], Sent] = {}
        self._failed: deque[tuple[list[Any], Exception]] = deque()

    def run(self, items: list[Any], progress: Progress, return_exceptions: bool) -> Iterator[tuple[list[Any], Any]]:
        """Send everything, and yield what comes back; see ``Router.map``."""
        keys = items if self._key is None else [self._key(item) for item in items]
        if items:
            self._ready.append(Batch(items, keys, self._delivery(keys[0])))
        with progress:
            while self._ready or self._waiting or self._sent or self._failed:
                self._send_some()
                yield from self._take_some(progress, return_exceptions)

    # -- out ----------------------------------------------------------------------------------------------------

    def _send_some(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[2])
        while self._ready and len(self._sent) < self._in_flight:
            batch, routes = self._ready.popleft(), self._follower.routes
            try:
                self._send(batch, routes)
            except PartitionError as error:
                self._failed.append((batch.items, error))

    def _send(self, batch: Batch, routes: RoutingTable) -> None:
        if batch.routes is not routes and routes.ring is not None and len(routes.ring.members) > 0:
            pieces = self._split(batch, routes)
            if len(pieces) > 1:
                self._ready.extendleft(reversed(pieces))
                return
            batch.routes = routes
        target = batch.delivery.find(routes)
        if target is None:
            self._wait(batch, batch.delivery.allowance(AGAIN))
            return
        if target.is_full:
            target.count()
        if target.is_full:
            self._later(batch, AGAIN)
            return
        reference = target.send(self._method, (batch.items,), {})
        self._sent[reference] = Sent(batch, target, routes)

    def _split(self, batch: Batch, routes: RoutingTable) -> list[Batch]:
        """The batch's items by owner, in chunks; of all owners the first chunk, then of all the second."""
        assert routes.ring is not None
        of: dict[int, list[int]] = {}
        for at, owner in enumerate(routes.ring.owners_of(batch.keys).tolist()):
            of.setdefault(owner, []).append(at)
        chunks = [
            [places[start : start + self._chunk] for start in range(0, len(places), self._chunk)]
            for places in of.values()
        ]
        pieces = [piece for row in zip_longest(*chunks) for piece in row if piece is not None]
        if len(pieces) == 1:
            return [batch]
        return [self._piece(batch, places, routes) for places in pieces]

    def _piece(self, batch: Batch, places: list[int], routes: RoutingTable) -> Batch:
        keys = [batch.keys[at] for at in places]
        return Batch([batch.items[at] for at in places], keys, batch.delivery.for_part(keys[0]), routes)

    def _wait(self, batch: Batch, seconds: float) -> None:
        batch.delivery.spend(seconds)
        self._later(batch, seconds)

    def _later(self, batch: Batch, seconds: float) -> None:
        heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._order), batch))

    # -- and back -----------------------------------------------------------------------------------------------

    def _take_some(self, progress: Progress, return_exceptions: bool) -> Iterator[tuple[list[Any], Any]]:
        for reference in self._returned():
            sent = self._sent.pop(reference)
            sent.target.calls.pop(reference, None)
            try:
                result = ray.get(reference)
            except RayError as error:
                self._judge(sent, error, reference)
            else:
                progress.advance(len(sent.batch.items))
                yield sent.batch.items, result
        while self._failed:
            items, failure = self._failed.popleft()
            if not return_exceptions:
                raise failure
            progress.advance(len(items))
            yield items, failure

    def _returned(self) -> list[ray.ObjectRef[Any]]:
        """Wait for a call to return, or for the time at which a batch that waits is to be sent."""
        pause = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
        if self._failed or (self._ready and len(self._sent) < self._in_flight):
            pause = 0.0
        if not self._sent:
            time.sleep(pause or 0.0)
            return []
        calls = list(self._sent)
        returned, _ = ray.wait(calls, num_returns=1, timeout=pause, fetch_local=False)
        if returned:
            returned, _ = ray.wait(calls, num_returns=len(calls), timeout=0, fetch_local=False)
        return list(returned)

    def _judge(self, sent: Sent, error: RayError, reference: ray.ObjectRef[Any]) -> None:
        try:
            pause = sent.batch.delivery.failed(error, reference, sent.target, sent.routes)
            self._wait(sent.batch, sent.batch.delivery.allowance(pause) if pause else 0.0)
        except (PartitionError, RayError) as failure:
            self._failed.append((sent.batch.items, failure))
