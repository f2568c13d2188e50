"""What a member wants and holds of locks: the other half of ``lock_table``.

Each request has a *ticket*, a number that the session uses once. A hold is good while the lease of exclusive groups
runs; one that is seen to have lapsed is lost for good, so that nobody silently gets back what it believes to have lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from partition_actor.core.messages import LockAnswer, LockReport

LockRequestState = Literal["waiting", "held", "lost", "refused"]


@dataclass(slots=True)
class LockRequest:
    """One request and what came of it."""

    name: str
    shared: bool
    waits: bool
    token: int = 0
    state: LockRequestState = "waiting"


class LockRequests:
    """The locks that one session wants or holds, by ticket."""

    def __init__(self) -> None:
        self._requests: dict[int, LockRequest] = {}
        self._last = 0

    def add(self, name: str, *, shared: bool = False, waits: bool = True) -> int:
        """Want a lock from the next request on; returns the ticket. One that does not wait may be refused."""
        self._last += 1
        self._requests[self._last] = LockRequest(name, shared, waits)
        return self._last

    def drop(self, ticket: int) -> None:
        """Want it no more, or release it: from now on the member does not hold it."""
        self._requests.pop(ticket, None)

    def clear(self) -> None:
        """Drop everything."""
        self._requests.clear()

    def lapse(self) -> None:
        """The lease does not run: whatever was held is lost."""
        for request in self._requests.values():
            if request.state == "held":
                request.state, request.token = "lost", 0

    def state(self, ticket: int) -> LockRequestState | None:
        """What has come of a request; None for one that was dropped."""
        request = self._requests.get(ticket)
        return None if request is None else request.state

    def token(self, ticket: int) -> int:
        """The fencing token of a hold; 0 while there is none."""
        request = self._requests.get(ticket)
        return 0 if request is None else request.token

    def held(self) -> dict[int, LockRequest]:
        """What is held, by ticket."""
        return {ticket: request for ticket, request in self._requests.items() if request.state == "held"}

    def stated(self) -> dict[int, LockReport]:
        """What a request says of them."""
        return {
            ticket: {"name": request.name, "shared": request.shared, "waits": request.waits, "token": request.token}
            for ticket, request in self._requests.items()
            if request.state in ("waiting", "held")
        }

    def take(self, answers: Mapping[int, LockAnswer]) -> None:
        """Take in what a reply says."""
        for ticket, answer in answers.items():
            request = self._requests.get(ticket)
            if request is None:
                continue  # dropped since, as the next request says
            if isinstance(answer, int):
                if request.state == "waiting":
                    request.state, request.token = "held", answer
            else:
                request.state, request.token = answer, 0
