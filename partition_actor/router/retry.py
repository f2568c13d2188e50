"""One call on its way to the owner of its key: whom it goes to, and what follows from a failure."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ObjectLostError, RayActorError, RayError, RayTaskError

from partition_actor.core.messages import Epoch
from partition_actor.errors import CallMayHaveRun, MemberHasNoActor, NoOwner, NotOwner, PartitionError
from partition_actor.router.routing_table import MemberActor, RoutingTable

PAUSES = (0.005, 0.25)
"""Seconds between two tries with an owner that has to wait for a hand-off: about the first, and the longest."""


def refusal(error: BaseException, reference: ray.ObjectRef[Any]) -> NotOwner | None:
    """The worker's word that this very call did not run, if that is what the error is.

    A method that ran may fail with the refusal of another call that it made itself; the task's id tells them apart.
    """
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, NotOwner) and cause.task == reference.task_id().hex() else None


class Delivery:
    """One call's tries.

    `target` is where it has been sent already. `patience` is for how many seconds in all it may look for an owner that
    may work on the key, and `retries` how often it may be sent to another owner, or again where an owner died.
    `repeatable` says that it may run more than once.
    """

    def __init__(
        self,
        group: str,
        key: object,
        method: str,
        *,
        patience: float,
        retries: int,
        repeatable: bool,
        target: MemberActor | None = None,
    ) -> None:
        self.key = key
        self.method = method
        self._group = group
        self._given = self._patience = patience
        self._retries = self._left = retries
        self._repeatable = repeatable
        self._beyond: Epoch | None = None
        self._member = None if target is None else target.member
        self._problem = ""
        self._cause: BaseException | None = None
        self._pauses = 0

    # -- where to -----------------------------------------------------------------------------------------------

    def find(self, routes: RoutingTable) -> MemberActor | None:
        """Whom to send it to; None: nobody for now. Raises ``MemberHasNoActor``, and what ended the last try."""
        owner = routes.owner(self.key)
        target = None if owner is None else routes.targets.get(owner)
        if self._beyond is not None and (routes.epoch is None or routes.epoch < self._beyond):
            self._problem = f"its owner has changed with epoch {self._beyond}, of which this router has not heard yet"
        elif owner is None:
            self._problem = "the group has no members" if routes.epoch else "there is no such group, as far as is known"
        elif target is None and routes.complete:
            raise MemberHasNoActor(f"{self}: its owner {owner!r} is no actor but a task or a driver")
        elif target is None:
            self._problem = f"the handle of its owner {owner!r} is still to come"
        elif target.lost:
            self._problem = f"its owner {owner!r} is dead, and its keys are still to be another's"
        else:
            return self._choose(target)
        return None

    def _choose(self, target: MemberActor) -> MemberActor:
        if self._member is not None and target.member != self._member:
            self._spend()
            self._pauses = 0
        self._member = target.member
        return target

    def _spend(self) -> None:
        """Use one of the retries up. Raises the last error when there is none left."""
        if self._left == 0 and self._cause is not None:
            if isinstance(self._cause, PartitionError):
                raise self._cause
            raise CallMayHaveRun(f"{self}: {self._retries} retries ended with owners dead") from self._cause
        self._left -= 1

    # -- what came of it ----------------------------------------------------------------------------------------

    def failed(
        self, error: RayError, reference: ray.ObjectRef[Any], target: MemberActor | None, routes: RoutingTable
    ) -> float:
        """What follows from the failure of a try: the seconds to wait for other routes before the next.

        Raises the error itself when it is the method's, ``CallMayHaveRun``, and what ends the last of the tries.
        """
        refused = refusal(error, reference)
        if refused is not None:
            self._cause = refused
            self._problem = f"its owner {self._member!r} has still to wait for another to hand it over"
            if refused.epoch is not None and (routes.epoch is None or refused.epoch > routes.epoch):
                self._beyond = refused.epoch
                return 0.0
            return self._pause()
        if isinstance(error, RayTaskError) or not isinstance(error, (RayActorError, ObjectLostError)):
            raise error
        if target is not None and isinstance(error, ActorDiedError):
            target.lost = True
        if not self._repeatable:
            raise CallMayHaveRun(f"{self}: its owner failed while the call was there: {error}") from error
        self._cause = error
        self._problem = f"its owner {self._member!r} cannot be reached"
        self._spend()
        self._member = None  # the next is counted already
        return self._pause()

    def _pause(self) -> float:
        """Exponential backoff with jitter: nothing tells a router when a hand-off is through."""
        longest = min(PAUSES[1], PAUSES[0] * 2.0 ** min(self._pauses, 16))
        self._pauses += 1
        return longest * random.uniform(0.5, 1.0)

    # -- how long -----------------------------------------------------------------------------------------------

    def allowance(self, seconds: float | None = None) -> float:
        """How long to wait now, of those `seconds` or of all that is left. Raises ``NoOwner`` when nothing is."""
        if self._patience <= 0:
            raise NoOwner(f"{self}: {self._problem} ({self._given:g} s long)") from self._cause
        return self._patience if seconds is None else min(self._patience, seconds)

    def waited(self, since: float) -> None:
        """Count the time from `since`, by ``time.monotonic``."""
        self.spend(time.monotonic() - since)

    def spend(self, seconds: float) -> None:
        """Count so many seconds of waiting."""
        self._patience -= seconds

    def for_part(self, key: object) -> Delivery:
        """The same for a part of what was to be sent: it has met what the whole has."""
        part = copy.copy(self)
        part.key = key
        return part

    @property
    def is_over(self) -> bool:
        """Whether it has no more time to look for an owner."""
        return self._patience <= 0

    def __str__(self) -> str:
        return f"{self.method} for key {self.key!r} of group {self._group!r}"
