"""Who may still act on keys that are somebody else's now: rules 3 and 4 of ``docs/guarantees.md``.

A seat *lags* when it has not acknowledged the published epoch. It *claims* the keys that the rings of the epochs from
its acknowledged one up to the published one gave it. It *blocks* the sessions that own claimed keys by the published
ring: they wait for it, and nobody else does.

Pure: no clock, no threads, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from partition_actor.core.messages import Epoch, Members, SessionKey, ring_for
from partition_actor.core.views import Changes, difference
from partition_actor.ring import handovers
from partition_actor.settings import Settings


@dataclass(slots=True)
class Seat:
    """One session's standing in one group."""

    weight: int
    metadata: Any = None
    acked: Epoch | None = None
    """e(M): the epoch that the session is known to have adopted; None until its first one is published."""
    first: Epoch | None = None
    """The first epoch known in which the session has the place of its id."""
    last: Epoch | None = None
    """The first epoch after that in which it has not; None while it has."""
    reported: Epoch | None = None
    """While recovering: the newest epoch among the views that it has reported."""
    leaving: bool = False
    rev: int = 0

    def had_place_at(self, epoch: Epoch) -> bool:
        """Whether the ring of `epoch` gave this session the keys of its id."""
        return self.first is not None and self.first <= epoch and (self.last is None or epoch < self.last)


class Handoff:
    """The laggards of one exclusive group. `tell` is called with each session whose blockers change."""

    def __init__(self, settings: Settings, tell: Callable[[SessionKey], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._epoch: Epoch | None = None
        self._occupants: Mapping[str, str] = {}
        self._history: dict[Epoch, Members] = {}
        self._published_at: dict[Epoch, float] = {}
        self._blocks: dict[SessionKey, set[SessionKey]] = {}
        self._blockers: dict[SessionKey, dict[SessionKey, None]] = {}
        self._moved: dict[Epoch, dict[str, list[str]]] = {}
        self._told: dict[Epoch, tuple[Epoch, bool, Changes]] = {}

    def learn(self, epoch: Epoch, members: Members) -> None:
        """Take in the membership of an epoch of a former partition actor, as a member reported it."""
        self._history.setdefault(epoch, dict(members))

    def latest(self) -> tuple[Epoch | None, Members]:
        """The latest epoch known, and its membership."""
        return max(self._history.items(), default=(None, {}))

    def publish(
        self,
        epoch: Epoch,
        members: Members,
        occupants: Mapping[str, str],
        seats: Mapping[SessionKey, Seat],
        now: float,
    ) -> None:
        """Find out anew who blocks whom, now that `epoch` is published."""
        self._epoch, self._occupants = epoch, occupants
        self._history[epoch] = members
        self._history = dict(sorted(self._history.items()))
        self._published_at[epoch] = now
        self._moved.clear()
        self._told.clear()
        self._blocks.clear()
        self._blockers.clear()
        for key, seat in seats.items():
            self._block(key, seat)

    def acknowledged(self, key: SessionKey, seat: Seat) -> None:
        """The seat's acknowledged epoch has grown: it blocks fewer, or nobody."""
        before = self._unblock(key)
        self._block(key, seat)
        for target in before:
            self._tell(target)

    def release(self, key: SessionKey) -> None:
        """The session claims nothing any more."""
        for target in self._unblock(key):
            self._tell(target)

    def awaited(self, key: SessionKey) -> int:
        """How many sessions others wait for to acknowledge the published epoch; 0 unless this is one of them."""
        return len(self._blocks) if key in self._blocks else 0

    def blockers(self, key: SessionKey) -> Iterable[SessionKey]:
        """Whom this session waits for."""
        return self._blockers.get(key, {})

    def claims(self, seat: Seat) -> list[Epoch]:
        """The epochs by which a seat may still act on keys, oldest first, the published one left out."""
        return [epoch for epoch, _ in self._claims(seat)]

    def ring_at(self, epoch: Epoch) -> tuple[Epoch, bool, Changes]:
        """The members at an `epoch` that somebody claims, as ``protocol`` describes it, in the shorter way."""
        told = self._told.get(epoch)
        if told is None:
            assert self._epoch is not None
            members = self._history[epoch]
            changes = difference(members, self._history[self._epoch])
            is_whole = len(members) <= len(changes)
            told = self._told[epoch] = (epoch, is_whole, members if is_whole else changes)
        return told

    def lagging_since(self, seat: Seat) -> float | None:
        """When the first epoch was published that the seat has not acknowledged; None if it does not lag."""
        if seat.acked is None or self._epoch is None or seat.acked >= self._epoch:
            return None
        acked = seat.acked
        return next((at for epoch, at in self._published_at.items() if epoch > acked), None)

    def trim(self, seats: Iterable[Seat]) -> None:
        """Forget the epochs that nobody can act on any more."""
        floor = min((seat.acked for seat in seats if seat.acked is not None), default=self._epoch)
        for epoch in list(self._history):
            if floor is None or epoch >= floor or epoch == self._epoch:
                break
            del self._history[epoch]
            self._published_at.pop(epoch, None)

    def _claims(self, seat: Seat) -> list[tuple[Epoch, Members]]:
        if seat.acked is None or self._epoch is None or seat.acked >= self._epoch:
            return []
        return [
            (epoch, members)
            for epoch, members in self._history.items()
            if seat.acked <= epoch < self._epoch and seat.had_place_at(epoch)
        ]

    def _unblock(self, key: SessionKey) -> set[SessionKey]:
        targets = self._blocks.pop(key, set())
        for target in targets:
            self._blockers.get(target, {}).pop(key, None)
        return targets

    def _block(self, key: SessionKey, seat: Seat) -> None:
        targets = {
            (owner, self._occupants[owner])
            for epoch, members in self._claims(seat)
            for owner in self._gainers(epoch, members, key[0])
        }
        targets.discard(key)
        if targets:
            self._blocks[key] = targets
        for target in targets:
            self._blockers.setdefault(target, {})[key] = None

    def _gainers(self, epoch: Epoch, members: Members, member: str) -> list[str]:
        """Who owns now what `member` owned by the ring of `epoch`; itself among them."""
        moved = self._moved.get(epoch)
        if moved is None:
            assert self._epoch is not None
            moved = self._moved[epoch] = {}
            published = ring_for(self._history[self._epoch], self._settings)
            for old, new in handovers(ring_for(members, self._settings), published):
                moved.setdefault(old, []).append(new)
        return moved.get(member, [])
