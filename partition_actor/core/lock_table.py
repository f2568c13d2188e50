"""The partition actor's locks: who holds each, who waits, and the fencing token of each hold. Rule 10.

A member states which locks it wants and which it holds, each under a *ticket* that its session uses once. What it no
longer states it has released. A lock is exclusive, or shared by those who ask for that. Waiters get it in the order in
which the partition actor heard of them, sharers together. The leader of a group holds the lock of that name among the
leaders' locks.

A slot is a lock as well, of a number in a space. Who asks for any is given the lowest that nobody has or waits for, and
from then on has asked for that one. Rule 15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from partition_actor.core.epochs import Epoch, fencing_token
from partition_actor.core.messages import MAX_SLOT, LockAnswer, LockReport, SessionKey, slot_name, slot_of
from partition_actor.core.numbers import FreeNumbers


@dataclass(slots=True)
class LockClaim:
    """What one session wants or has of one lock."""

    key: SessionKey
    ticket: int
    name: str
    shared: bool
    waits: bool
    """Whether it waits its turn; if not, it is refused when it cannot have the lock at once."""
    token: int = 0
    """The fencing token of the hold; 0 while it waits."""
    told: bool = False
    """The member knows that it holds the lock: its latest request says so."""
    broken_at: float | None = None
    """When an operator broke the hold; the member has still to confirm the end."""
    verdict: Literal["lost", "refused"] | None = None
    """Until the member no longer states this ticket."""

    @property
    def answer(self) -> LockAnswer | None:
        """What a reply says of it; None when the member knows everything."""
        if self.broken_at is not None:
            return "lost"
        if self.verdict is not None:
            return self.verdict
        return self.token if self.token and not self.told else None


@dataclass(slots=True)
class LockRecord:
    """One lock that somebody holds or waits for; both in the order of arrival."""

    holders: list[LockClaim] = field(default_factory=list)
    waiters: list[LockClaim] = field(default_factory=list)

    def keeps_out(self, claim: LockClaim) -> bool:
        """Whether its present holders keep `claim` from it."""
        return any(not (claim.shared and holder.shared) for holder in self.holders)


LockChangeKind = Literal["granted", "known", "released", "lost", "broken"]


class LockChange(NamedTuple):
    """Somebody has begun or ceased to hold a lock."""

    what: LockChangeKind
    """Known: the hold is older than this partition actor. A broken one is released when its holder confirms the end."""
    claim: LockClaim
    token: int


class LockTable:
    """All locks of one partition actor. `news` collects the sessions for which something has changed.

    `changes`, if given, collects what happens to holds.
    """

    def __init__(self, news: set[SessionKey], changes: list[LockChange] | None = None) -> None:
        self.locks: dict[str, LockRecord] = {}
        self.unverified: set[SessionKey] = set()
        """Sessions that say they hold a lock unknown here: they get no lease before it is known."""
        self.due: dict[str, None] = {}
        """Names of the locks that a waiter might get now."""
        self._claims: dict[SessionKey, dict[int, LockClaim]] = {}
        self._to_tell: dict[SessionKey, dict[int, LockClaim]] = {}
        """Those of the claims that have an answer."""
        self._numbers: dict[str, FreeNumbers] = {}
        """By space, the slots that somebody has or waits for."""
        self._news = news
        self._changes = changes

    def __contains__(self, key: SessionKey) -> bool:
        return key in self._claims or key in self.unverified

    def is_settled(self, key: SessionKey) -> bool:
        """Whether a session has and knows all that it states, so that its next heartbeat changes nothing here."""
        claims = self._claims.get(key, {}).values()
        return key not in self.unverified and all(claim.told and claim.broken_at is None for claim in claims)

    def take(
        self, key: SessionKey, stated: Mapping[int, LockReport | None], *, whole: bool, recovering: bool, trusted: bool
    ) -> None:
        """Take in what a session states: all its tickets if `whole`, else those that have changed.

        A `recovering` partition actor learns from a `trusted` request, sent after its start and under a lease that
        runs, what the session held before.
        """
        known = self._claims.setdefault(key, {})
        if whole:
            self.unverified.discard(key)
            for ticket in [ticket for ticket in known if ticket not in stated]:
                self._forget(known.pop(ticket))
        for ticket in sorted(stated):
            said, claim = stated[ticket], known.get(ticket)
            if claim is not None and (said is None or said["token"] not in (0, claim.token)):
                self._forget(known.pop(ticket))
                claim = None
            if said is None:
                continue
            token = said["token"]
            if claim is not None:
                claim.told = bool(token)
                self._note(claim)
                continue
            claim = known[ticket] = LockClaim(key, ticket, said["name"], said["shared"], said["waits"])
            if token:
                self._take_hold(claim, token, recovering=recovering, trusted=trusted)
            elif recovering and not claim.waits:
                claim.verdict = "refused"
            else:
                self._lock(claim.name).waiters.append(claim)
                self.due[claim.name] = None
            self._note(claim)
        if not known:
            del self._claims[key]

    def _take_hold(self, claim: LockClaim, token: int, *, recovering: bool, trusted: bool) -> None:
        """A hold that this partition actor did not grant: its predecessor did, or it is over."""
        if recovering and trusted:
            claim.token, claim.told = token, True
            self._lock(claim.name).holders.append(claim)
            self._record("known", claim)
        elif recovering:
            del self._claims[claim.key][claim.ticket]
            self.unverified.add(claim.key)
        else:
            claim.verdict = "lost"
            self._record("lost", claim, token)

    def state(self, now: float) -> dict[str, Any]:
        """What `restore` of the next partition actor needs; times are ages in seconds."""
        places = {
            id(claim): at for lock in self.locks.values() for at, claim in enumerate([*lock.holders, *lock.waiters])
        }
        claims = [claim for claims in self._claims.values() for claim in claims.values()]
        return {
            "claims": [
                {
                    "key": claim.key,
                    "ticket": claim.ticket,
                    "name": claim.name,
                    "shared": claim.shared,
                    "waits": claim.waits,
                    "token": claim.token,
                    "told": claim.told,
                    "broken": None if claim.broken_at is None else now - claim.broken_at,
                    "verdict": claim.verdict,
                }
                for claim in sorted(claims, key=lambda claim: places.get(id(claim), -1))
            ],
            "unverified": sorted(self.unverified),
        }

    def restore(self, state: Mapping[str, Any], now: float) -> None:
        """Go on with the `state` of a former partition actor."""
        self.unverified = set(state["unverified"])
        for each in state["claims"]:
            age = each["broken"]
            fields = {name: value for name, value in each.items() if name in LockClaim.__slots__}
            claim = LockClaim(**{**fields, "key": tuple(each["key"])}, broken_at=None if age is None else now - age)
            self._claims.setdefault(claim.key, {})[claim.ticket] = claim
            slot = slot_of(claim.name)
            if slot is not None and slot.number is None:  # perhaps granted by one that knows no slots
                claim.token = 0
            if claim.verdict is None:
                lock = self._lock(claim.name)
                (lock.holders if claim.token else lock.waiters).append(claim)
                self.due[claim.name] = None
            self._note(claim)

    def answers(self, key: SessionKey) -> dict[int, LockAnswer]:
        """What a reply has to say to a session, by ticket."""
        claims = self._to_tell.get(key, {}).values()
        return {claim.ticket: answer for claim in claims if (answer := claim.answer) is not None}

    def slots_told(self, key: SessionKey) -> dict[int, int]:
        """By ticket, the numbers of the slots that `answers` grants."""
        claims = self._to_tell.get(key, {}).values()
        granted = {claim.ticket: slot_of(claim.name) for claim in claims if isinstance(claim.answer, int)}
        return {ticket: slot.number for ticket, slot in granted.items() if slot and slot.number is not None}

    def slots_of(self, key: SessionKey) -> dict[str, int]:
        """The numbers of the slots that a session has, by space."""
        held = [claim for claim in self._claims.get(key, {}).values() if claim.token and claim.answer != "lost"]
        slots = [slot for claim in held if (slot := slot_of(claim.name))]
        return {slot.space: slot.number for slot in slots if slot.number is not None}

    def _note(self, claim: LockClaim) -> None:
        """A claim has changed: keep in mind whether there is something to tell of it."""
        is_stated = self._claims.get(claim.key, {}).get(claim.ticket) is claim
        if is_stated and claim.answer is not None:
            self._to_tell.setdefault(claim.key, {})[claim.ticket] = claim
        elif claim.ticket in (telling := self._to_tell.get(claim.key, {})):
            del telling[claim.ticket]
            if not telling:
                del self._to_tell[claim.key]

    def end(self, key: SessionKey) -> None:
        """The session is over: it holds nothing any more, and waits for nothing."""
        self.unverified.discard(key)
        for claim in self._claims.pop(key, {}).values():
            self._forget(claim, "lost")

    def _forget(self, claim: LockClaim, ended: LockChangeKind = "released") -> None:
        if claim.token and claim.verdict is None:
            self._record(ended, claim)
        self._drop(claim)
        self._note(claim)

    def _record(self, what: LockChangeKind, claim: LockClaim, token: int = 0) -> None:
        if self._changes is not None:
            self._changes.append(LockChange(what, claim, token or claim.token))

    def grant(self, may_hold: Callable[[SessionKey], bool], next_epoch: Callable[[], Epoch]) -> None:
        """Give the locks that are due to the next in turn who `may_hold` one, and refuse those who do not wait."""
        for name in list(self.due):
            lock, slot = self.locks[name], slot_of(name)
            del self.due[name]
            for claim in list(lock.waiters):
                if lock.keeps_out(claim):
                    break
                if not may_hold(claim.key):
                    self.due[name] = None  # a later one may have it first; this one's turn comes when it can use it
                    continue
                if slot is not None and slot.number is None:
                    lowest = self._lowest(slot.space)
                    if lowest > MAX_SLOT:
                        self.due[name] = None
                        break
                    claim.name = slot_name(slot.space, lowest)
                lock.waiters.remove(claim)
                self._lock(claim.name).holders.append(claim)
                claim.token = fencing_token(next_epoch())
                self._record("granted", claim)
                self._note(claim)
                self._news.add(claim.key)
            if name not in self.due:
                for claim in [claim for claim in lock.waiters if not claim.waits]:
                    lock.waiters.remove(claim)
                    claim.verdict = "refused"
                    self._note(claim)
                    self._news.add(claim.key)
            self._forget_if_unused(name)

    def break_(self, now: float, name: str) -> list[LockClaim]:
        """Tell the holders of a lock that they have lost it; returns their claims.

        The next one gets it when they have confirmed that, or have lost their lease.
        """
        holders = self.holders(name)
        for claim in holders:
            if claim.broken_at is None:
                claim.broken_at = now
                self._record("broken", claim)
            self._note(claim)
            self._news.add(claim.key)
        return holders

    def broken_since(self, key: SessionKey) -> float | None:
        """Since when a session has not confirmed the end of a hold that was broken, or None."""
        claims = self._to_tell.get(key, {}).values()
        return min((claim.broken_at for claim in claims if claim.broken_at is not None), default=None)

    def holders(self, name: str) -> list[LockClaim]:
        """The holders of a lock in the order of their tokens, broken holds included."""
        return list(self.locks[name].holders) if name in self.locks else []

    def _drop(self, claim: LockClaim) -> None:
        lock = self.locks.get(claim.name)
        if lock is None or claim.verdict is not None:
            return
        (lock.holders if claim.token else lock.waiters).remove(claim)
        self.due[claim.name] = None
        self._forget_if_unused(claim.name)

    def _lock(self, name: str) -> LockRecord:
        lock = self.locks.get(name)
        if lock is None:
            lock = self.locks[name] = LockRecord()
            slot = slot_of(name)
            if slot is not None and slot.number is not None:
                self._numbers.setdefault(slot.space, FreeNumbers()).take(slot.number)
        return lock

    def _forget_if_unused(self, name: str) -> None:
        if self.locks[name].holders or self.locks[name].waiters:
            return
        del self.locks[name]
        self.due.pop(name, None)
        slot = slot_of(name)
        if slot is not None and slot.number is not None:
            self._numbers[slot.space].free(slot.number)
            if not self._numbers[slot.space].taken:
                del self._numbers[slot.space]

    def _lowest(self, space: str) -> int:
        return self._numbers[space].lowest() if space in self._numbers else 0
