"""What a member wants and holds of locks: the other half of ``lock_table``.

Each request has a *ticket*, a number that the session uses once. A hold is good while the lease of exclusive groups
runs; one that is seen to have lapsed is lost for good, so that nobody silently gets back what it believes to have lost.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from partition_actor.core.messages import LockAnswer, LockReport, slot_name, slot_of

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
    """The locks that one session wants or holds, by ticket.

    A request tells only what has changed since the latest request that is known to have arrived, its *base*.
    """

    def __init__(self) -> None:
        self._requests: dict[int, LockRequest] = {}
        self._last = 0
        self._version = 0
        """Grows with every change of what is stated."""
        self._changed: dict[int, int] = {}
        """By ticket, the version of its last change since the base, in ascending order."""
        self._base = 0
        """The `seq` of the base; 0: state everything."""
        self._sent = (0, 0)
        """The `seq` of the latest whole request, and the version that it told."""

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, name: str, *, shared: bool = False, waits: bool = True) -> int:
        """Want a lock from the next request on; returns the ticket. One that does not wait may be refused."""
        self._last += 1
        self._requests[self._last] = LockRequest(name, shared, waits)
        self._note(self._last)
        return self._last

    def drop(self, ticket: int) -> None:
        """Want it no more, or release it: from now on the member does not hold it."""
        if self._requests.pop(ticket, None) is not None:
            self._note(ticket)

    def clear(self, keep: Container[int] = ()) -> bool:
        """Drop everything but the tickets to `keep`; returns whether there was anything."""
        dropped = [ticket for ticket in self._requests if ticket not in keep]
        for ticket in dropped:
            self.drop(ticket)
        return bool(dropped)

    def lapse(self) -> None:
        """The lease does not run: whatever was held is lost."""
        for ticket in self.held():
            self._set(ticket, "lost", 0)

    def state(self, ticket: int) -> LockRequestState | None:
        """What has come of a request; None for one that was dropped."""
        request = self._requests.get(ticket)
        return None if request is None else request.state

    def token(self, ticket: int) -> int:
        """The fencing token of a hold; 0 while there is none."""
        request = self._requests.get(ticket)
        return 0 if request is None else request.token

    def slot(self, ticket: int) -> int | None:
        """The number of a slot that is held; None while it is not."""
        request = self._requests.get(ticket)
        slot = slot_of(request.name) if request is not None and request.state == "held" else None
        return None if slot is None else slot.number

    def held(self) -> dict[int, LockRequest]:
        """What is held, by ticket."""
        return {ticket: request for ticket, request in self._requests.items() if request.state == "held"}

    def _set(self, ticket: int, state: LockRequestState, token: int) -> None:
        request = self._requests[ticket]
        request.state, request.token = state, token
        self._note(ticket)

    def _note(self, ticket: int) -> None:
        self._version += 1
        self._changed.pop(ticket, None)
        self._changed[ticket] = self._version

    # -- what requests say --------------------------------------------------------------------------------------

    def statement(self) -> tuple[int, dict[int, LockReport | None]] | None:
        """``(base, changes)`` for a whole request; None when there is neither a lock nor a change."""
        if not self._requests and not (self._base and self._changed):
            return None
        tickets = self._changed if self._base else self._requests
        return self._base, {ticket: self._report(ticket) for ticket in tickets}

    def stated(self) -> dict[int, LockReport]:
        """All that is wanted or held."""
        reports = {ticket: self._report(ticket) for ticket in self._requests}
        return {ticket: report for ticket, report in reports.items() if report is not None}

    def _report(self, ticket: int) -> LockReport | None:
        request = self._requests.get(ticket)
        if request is None or request.state not in ("waiting", "held"):
            return None
        return {"name": request.name, "shared": request.shared, "waits": request.waits, "token": request.token}

    def sent(self, seq: int) -> None:
        """Whole request `seq` tells `statement`."""
        self._sent = (seq, self._version)

    def changed_since_sent(self) -> bool:
        """Whether there is something to tell that the latest whole request did not."""
        return self._version != self._sent[1]

    def heard(self) -> None:
        """That request has arrived: it is the base from now on."""
        self._base, told = self._sent
        for ticket in list(self._changed):
            if self._changed[ticket] > told:
                break
            del self._changed[ticket]

    def restate(self) -> None:
        """The next whole request states everything."""
        self._base = 0

    def take(self, answers: Mapping[int, LockAnswer], slots: Mapping[int, int]) -> None:
        """Take in what a reply says, and the number of each slot that it grants.

        From then on requests state that number: any partition actor knows it as an ordinary lock. One that knows no
        slots grants the wish for any number as a lock of that name, which is worth nothing.
        """
        for ticket, answer in answers.items():
            request = self._requests.get(ticket)
            if request is None:
                continue  # dropped since, as the next request says
            if not isinstance(answer, int):
                self._set(ticket, answer, 0)
            elif request.state == "waiting":
                slot = slot_of(request.name)
                if slot is not None and slot.number is None:
                    if ticket not in slots:
                        self._set(ticket, "refused", 0)
                        continue
                    request.name = slot_name(slot.space, slots[ticket])
                self._set(ticket, "held", answer)
