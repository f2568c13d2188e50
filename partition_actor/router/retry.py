"""The retry state of one call: where to send it next, and what to do when it fails."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError, RayError, RayTaskError

from partition_actor.core.epochs import Epoch
from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner, PartitionError
from partition_actor.router.call_counts import CallCounts
from partition_actor.router.routing_table import MemberActor, RoutingTable

PAUSES = (0.005, 0.25)
"""Seconds between two tries while a hand-off to the owner is in progress: about the first pause, and the longest."""


def refusal(error: BaseException, reference: ray.ObjectRef[Any], method: str | None) -> NotOwner | None:
    """The worker's ``NotOwner`` if it says that this very call did not run.

    A method that ran may fail with the refusal of another call that it made itself; the task's id and the method's
    name tell them apart. `method` is None when the call is not known.
    """
    cause = error.cause if isinstance(error, RayTaskError) else None
    if not isinstance(cause, NotOwner) or cause.task is None or cause.task != reference.task_id().hex():
        return None
    return cause if method in (None, cause.method) else None


@dataclass(eq=False)
class RetryState:
    """The tries of one call."""

    group: str
    key: object
    method: str
    search_time: float
    """Seconds that the call may wait in all for an owner that may work on the key."""
    retries: int
    """How often it may be sent to another member, or repeated after an owner's death."""
    repeatable: bool
    """Whether it may run twice."""
    counts: CallCounts = field(default_factory=CallCounts)
    """Where to count what becomes of it."""
    sent_to: str | None = None
    """The member that the last try failed at; None: there was no try, or the next one is counted already."""
    _waited: float = 0.0
    _retried: int = 0
    _needed_epoch: Epoch | None = None
    """The epoch by which a worker refused the call: an older view may name the same worker once more."""
    _problem: str = ""
    _cause: BaseException | None = None
    _pauses: int = 0

    def find(self, table: RoutingTable) -> MemberActor | None:
        """The actor to send the call to; None when there is none for now.

        Raises ``MemberHasNoActor`` and, when the owner is another member and no retry is left, the last try's error.
        """
        owner = table.owner(self.key)
        actor = None if owner is None else table.actors.get(owner)
        if self._needed_epoch is not None and (table.epoch is None or table.epoch < self._needed_epoch):
            self._problem = f"its owner has changed, and this router has not received epoch {self._needed_epoch} yet"
        elif owner is None:
            self._problem = "the group has no members" if table.epoch else "this router knows of no such group"
        elif actor is None and table.complete:
            raise self.counts.failed(
                MemberHasNoActor(f"{self}: its owner {owner!r} is a task or a driver, not an actor")
            )
        elif actor is None:
            self._problem = f"the handle of its owner {owner!r} has not arrived yet"
        elif actor.dead:
            self._problem = f"its owner {owner!r} is dead and has not been replaced yet"
        else:
            if self.sent_to not in (None, owner):
                self._check_retries()
            return actor
        return None

    def _check_retries(self) -> None:
        """Raise the last error when no retry is left."""
        if self._retried >= self.retries and self._cause is not None:
            if isinstance(self._cause, PartitionError):
                raise self.counts.failed(self._cause)
            error = CallMayHaveRun(f"{self}: its owner failed, after {self.retries} retries")
            raise self.counts.failed(error) from self._cause

    def failed(
        self, error: RayError, reference: ray.ObjectRef[Any], actor: MemberActor | None, table: RoutingTable
    ) -> float:
        """Take in a failed try; returns the seconds to wait for another table before the next try.

        Raises `error` itself unless it is a refusal or an owner's failure, ``CallMayHaveRun``, and what ends the last
        retry.
        """
        if actor is not None:
            if self.sent_to not in (None, actor.member_id):  # counted now: many an owner is found and never sent to
                self._retried += 1
                self._pauses = 0
            self.sent_to = actor.member_id
        refused = refusal(error, reference, self.method)
        if refused is not None:
            self._cause = refused
            self.counts.refusals += 1
            self.counts.retries += 1
            self._problem = f"the hand-off to its owner {self.sent_to!r} is still in progress"
            if refused.epoch is not None and (table.epoch is None or refused.epoch > table.epoch):
                self._needed_epoch = refused.epoch
                return 0.0
            return self._next_pause()
        if isinstance(error, RayTaskError) or not isinstance(error, (RayActorError, ObjectLostError)):
            raise error
        if actor is not None and isinstance(error, ActorDiedError):
            actor.dead = True
        if not self.repeatable:
            raise self.counts.failed(CallMayHaveRun(f"{self}: its owner failed during the call: {error}")) from error
        self._cause = error
        self._problem = f"its owner {self.sent_to!r} cannot be reached"
        self._check_retries()
        self._retried += 1
        self.counts.retries += 1
        self.sent_to = None
        return self._next_pause()

    def _next_pause(self) -> float:
        """Exponential backoff with jitter: nothing tells a router when a hand-off ends."""
        longest = min(PAUSES[1], PAUSES[0] * 2.0 ** min(self._pauses, 16))
        self._pauses += 1
        return longest * random.uniform(0.5, 1.0)

    def time_to_wait(self, seconds: float | None = None) -> float:
        """`seconds`, or less if less search time is left; None: all that is left. Raises ``NoOwner`` if none is."""
        if self.is_out_of_time:
            error = NoOwner(f"{self}: {self._problem} (waited {self.search_time:g} s)")
            raise self.counts.failed(error) from self._cause
        left = self.search_time - self._waited
        return left if seconds is None else min(left, seconds)

    def spend(self, seconds: float) -> None:
        """Count so many seconds of waiting."""
        if seconds > 0:
            self.counts.waits += not self._waited
            self.counts.wait_seconds += seconds
        self._waited += seconds

    @property
    def is_first_try(self) -> bool:
        """Whether no try has failed."""
        return self._cause is None

    @property
    def is_out_of_time(self) -> bool:
        """Whether no search time is left."""
        return self._waited >= self.search_time

    def for_part(self, key: object) -> RetryState:
        """A copy for a part of a batch: it has met all that the whole has."""
        return replace(self, key=key)

    def __str__(self) -> str:
        return f"{self.method} for key {self.key!r} of group {self.group!r}"
