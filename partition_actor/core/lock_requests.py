"""What a member wants and holds of locks: the other half of ``locks``.

Each wish has a *ticket*, a number that the session uses once. A hold is good while the lease of exclusive groups runs;
one that is seen to have lapsed is lost for good, so that nobody gets back silently what it believes to have lost.

Pure: no clock, no threads, no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LockRequestState = Literal["waiting", "held", "lost", "refused"]


@dataclass(slots=True)
class LockRequest:
    """One wish and what came of it."""

    name: str
    shared: bool
    waits: bool
    token: int = 0
    state: LockRequestState = "waiting"


class LockRequests:
    """The locks that one session wants or holds, by ticket."""

    def __init__(self) -> None:
        self._claims: dict[int, LockRequest] = {}
        self._last = 0

    def add(self, name: str, *, shared: bool = False, waits: bool = True) -> int:
        """Want a lock from the next request on; returns the ticket. One that is not `waits` may be refused."""
        self._last += 1
        self._claims[self._last] = LockRequest(name, shared, waits)
        return self._last

    def drop(self, ticket: int) -> None:
        """Want it no more, or release it: from now on the member does not hold it."""
        self._claims.pop(ticket, None)

    def clear(self) -> None:
        """Drop everything."""
        self._claims.clear()

    def lapse(self) -> None:
        """The lease does not run: whatever was held is lost."""
        for claim in self._claims.values():
            if claim.state == "held":
                claim.state, claim.token = "lost", 0

    def state(self, ticket: int) -> LockRequestState | None:
        """What has come of a wish; None for one that was dropped."""
        claim = self._claims.get(ticket)
        return None if claim is None else claim.state

    def token(self, ticket: int) -> int:
        """The fencing token of a hold; 0 while there is none."""
        claim = self._claims.get(ticket)
        return 0 if claim is None else claim.token

    def held(self) -> dict[int, LockRequest]:
        """What is held, by ticket."""
        return {ticket: claim for ticket, claim in self._claims.items() if claim.state == "held"}

    def stated(self) -> dict[int, list[Any]]:
        """What a request says, as ``protocol`` describes it."""
        live = ((ticket, claim) for ticket, claim in self._claims.items() if claim.state in ("waiting", "held"))
        return {ticket: [claim.name, claim.shared, claim.waits, claim.token] for ticket, claim in live}

    def take(self, entries: Mapping[int, int | str]) -> None:
        """Take in what a reply says."""
        for ticket, entry in entries.items():
            claim = self._claims.get(ticket)
            if claim is None:
                continue  # it is wanted no more, as the next request says
            if isinstance(entry, int):
                if claim.state == "waiting":
                    claim.state, claim.token = "held", entry
            else:
                claim.state, claim.token = ("lost" if entry == "lost" else "refused"), 0
