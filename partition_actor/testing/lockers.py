"""What the simulated members do with locks, and what must hold of them: rule 10 of ``docs/guarantees.md``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from partition_actor.core.lock_requests import LockRequest

if TYPE_CHECKING:
    from partition_actor.testing.cluster import SimulatedCluster
    from partition_actor.testing.workers import Worker

MOST_CLAIMS = 3
"""How many locks a member wants or holds at a time."""


class Locker:
    """Takes and releases locks for one worker at random; it holds each for as long as it may, up to two leases."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._rng = random.Random(f"{worker.cluster.seed} {worker.name}")
        self._tickets: dict[int, float] = {}
        """When each is to be dropped, on the worker's clock."""
        self.act()

    def act(self) -> None:
        """Drop what is over, want something else, and come back."""
        worker, rng = self._worker, self._rng
        cluster, locks, now = worker.cluster, worker.member_state.locks, worker.clock.now()
        for ticket, until in list(self._tickets.items()):
            gone = locks.state(ticket) not in ("waiting", "held")
            if gone or now >= until or (cluster.calm and worker.member_state.holds(now, ticket)):
                self._drop(ticket)
        if len(self._tickets) < MOST_CLAIMS and not cluster.calm and rng.random() < 0.6:
            name = f"lock{rng.randrange(cluster.conditions.locks)}"
            ticket = locks.add(name, shared=rng.random() < 0.4, waits=rng.random() < 0.7)
            self._tickets[ticket] = now + cluster.settings.ttl * rng.choice((0.1, 0.5, 2.0, 30.0))
            cluster.count("lock wanted")
            self._send()
        cluster.later(rng.uniform(0.0, 0.1 if cluster.calm else 0.6), worker, self.act)

    def _drop(self, ticket: int) -> None:
        locks = self._worker.member_state.locks
        locks.drop(ticket)
        until = self._tickets.pop(ticket)
        if not self._worker.cluster.calm and self._rng.random() < 0.2:  # a leader that stands down
            self._tickets[locks.add("lock0")] = until + self._worker.cluster.settings.ttl
        self._send()

    def _send(self) -> None:
        if self._rng.random() < 0.5:
            self._worker.member_state.want_reply()
        self._worker.send_soon()

    def holds(self) -> dict[int, LockRequest]:
        """What the worker may believe to hold at this moment, were it not paused; to look at it changes nothing."""
        return self._worker.member_state.locks_held(self._worker.clock.now())


class LockChecker:
    """Compares what the members hold, and watches the tokens."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._tokens: dict[tuple[str, bool], int] = {}
        """The highest token seen of each lock, of shared holds and of the others."""
        self._seen: dict[tuple[str, int], tuple[Worker, int]] = {}

    def check(self, worker: Worker) -> str | None:
        """What is wrong now that something has happened to `worker`, or None."""
        if worker.locker is None:
            return None
        for ticket, claim in worker.locker.holds().items():
            for other in self._cluster.workers:
                if other is not worker and other.alive and not other.paused and other.locker is not None:
                    for theirs in other.locker.holds().values():
                        if theirs.name == claim.name and not (theirs.shared and claim.shared):
                            return f"{worker} and {other} both hold {claim.name}"
            wrong = self._check_token(worker, ticket, claim)
            if wrong:
                return wrong
        return None

    def _check_token(self, worker: Worker, ticket: int, claim: LockRequest) -> str | None:
        if (claim.name, claim.token) not in self._seen:
            self._cluster.count("lock held")
        holder = self._seen.setdefault((claim.name, claim.token), (worker, ticket))
        if holder != (worker, ticket):
            return f"{worker} has token {claim.token} for {claim.name}, which {holder[0]} had"
        latest = self._tokens.get((claim.name, False), 0)
        if not claim.shared:
            latest = max(latest, self._tokens.get((claim.name, True), 0))
        if claim.token < latest:
            return f"{worker} has token {claim.token} for {claim.name} after {latest}"
        kind = (claim.name, claim.shared)
        self._tokens[kind] = max(claim.token, self._tokens.get(kind, 0))
        return None

    def check_settled(self) -> str | None:
        """What is wrong once faults have stopped and nobody wants a lock any more, or None."""
        for worker in self._cluster.workers:
            if worker.alive and worker.locker is not None and worker.member_state.locks.stated():
                return f"{worker} still wants or holds {worker.member_state.locks.stated()}"
        table = self._cluster.partition_actors[-1].membership.locks
        return f"the partition actor still has {sorted(table.locks)}" if table.locks or table.unsure else None
