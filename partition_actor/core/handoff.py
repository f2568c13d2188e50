"""Who may still act on keys that are somebody else's now: rules 3 and 4 of ``docs/guarantees.md``.

A participant *lags* while it has not acknowledged the published epoch. It *claims* the keys that the rings of the
epochs from its acknowledged one up to the published one gave it. It *blocks* the sessions that own claimed keys by the
published ring: they wait for it, and nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from partition_actor.core.epochs import Epoch
from partition_actor.core.messages import Members, RingMessage, SessionKey
from partition_actor.core.views import difference, ring_for
from partition_actor.ring import Ring, handovers
from partition_actor.settings import Settings


@dataclass(slots=True)
class Participant:
    """A session that is on the ring of a group, or that was and may still act."""

    weight: int
    metadata: bytes | None = None
    """Packed by whoever joined, and opened by whoever asks for it."""
    acked: Epoch | None = None
    """e(M): the epoch that the session is known to have acknowledged; None until its first one is published."""
    first: Epoch | None = None
    """The first known epoch whose ring gives the keys of its id to this session."""
    last: Epoch | None = None
    """The first epoch after that whose ring does not; None while it does."""
    reported: Epoch | None = None
    """While recovering: the newest epoch among the views that it has reported."""
    leaving: bool = False
    rev: int = 0

    def note_ring(self, epoch: Epoch, has_keys: bool) -> None:
        """Note whether the ring of `epoch`, the latest known, gives the keys of its id to this session."""
        if has_keys:
            self.first, self.last = self.first or epoch, None
        elif self.first is not None and self.last is None:
            self.last = epoch

    def was_on_ring_at(self, epoch: Epoch) -> bool:
        """Whether the ring of `epoch` gave the keys of its id to this session."""
        return self.first is not None and self.first <= epoch and (self.last is None or epoch < self.last)


class Handoff:
    """The laggards of one exclusive group. `tell` is called with each session whose blockers change."""

    def __init__(self, settings: Settings, tell: Callable[[SessionKey], None]) -> None:
        self._settings = settings
        self._tell = tell
        self._epoch: Epoch | None = None
        self._sessions: Mapping[str, str] = {}
        self._history: dict[Epoch, Members] = {}
        self._published_at: dict[Epoch, float] = {}
        self._blocks: dict[SessionKey, set[SessionKey]] = {}
        self._blockers: dict[SessionKey, dict[SessionKey, None]] = {}
        self._moved: dict[Epoch, dict[str, list[str]]] = {}
        self._told: dict[Epoch, RingMessage] = {}
        self._published: Ring | None = None
        """The ring of the published epoch, held while it is compared with those of many epochs."""

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
        sessions: Mapping[str, str],
        participants: Mapping[SessionKey, Participant],
        now: float,
    ) -> None:
        """Work out who blocks whom, now that `epoch` is published with these `sessions` by member id."""
        self._epoch, self._sessions = epoch, sessions
        self._history[epoch] = members
        self._history = dict(sorted(self._history.items()))
        self._published_at[epoch] = now
        self._published = None
        self._moved.clear()
        self._told.clear()
        self._blocks.clear()
        self._blockers.clear()
        for key, participant in participants.items():
            self._block(key, participant)
        self._published = None

    def release(self, key: SessionKey, participant: Participant | None = None) -> None:
        """The session claims nothing any more; or, as a `participant` that has acknowledged an epoch, less."""
        before = self._blocks.pop(key, set())
        for target in before:
            self._blockers.get(target, {}).pop(key, None)
        if participant is not None:
            self._block(key, participant)
        for target in before:
            self._tell(target)

    def awaited(self, key: SessionKey) -> int:
        """How many sessions others wait for to acknowledge the published epoch; 0 unless this is one of them."""
        return len(self._blocks) if key in self._blocks else 0

    def blockers(self, key: SessionKey) -> Iterable[SessionKey]:
        """Whom this session waits for."""
        return self._blockers.get(key, {})

    def claims(self, participant: Participant) -> list[Epoch]:
        """The epochs before the published one by whose rings the participant may still act, oldest first."""
        acked = participant.acked
        if acked is None or self._epoch is None or acked >= self._epoch:
            return []
        return [at for at in self._history if acked <= at < self._epoch and participant.was_on_ring_at(at)]

    def ring_at(self, epoch: Epoch) -> RingMessage:
        """The members at a claimed `epoch`, told in the shorter way."""
        told = self._told.get(epoch)
        if told is None:
            assert self._epoch is not None
            members = self._history[epoch]
            changes = difference(members, self._history[self._epoch])
            whole = len(members) <= len(changes)
            told = self._told[epoch] = {"epoch": epoch, "whole": whole, "members": members if whole else changes}
        return told

    def lagging_since(self, participant: Participant) -> float | None:
        """When the first epoch was published that the participant has not acknowledged; None if it does not lag."""
        acked = participant.acked
        if acked is None or self._epoch is None or acked >= self._epoch:
            return None
        return next((at for epoch, at in self._published_at.items() if epoch > acked), None)

    def trim(self, participants: Iterable[Participant]) -> None:
        """Forget the epochs by which nobody can act any more."""
        acked = (participant.acked for participant in participants if participant.acked is not None)
        floor = min(acked, default=self._epoch)
        for epoch in list(self._history):
            if floor is None or epoch >= floor or epoch == self._epoch:
                break
            del self._history[epoch]
            self._published_at.pop(epoch, None)

    def _block(self, key: SessionKey, participant: Participant) -> None:
        gainers = (owner for epoch in self.claims(participant) for owner in self._gainers(epoch, key[0]))
        targets = {(owner, self._sessions[owner]) for owner in gainers}
        targets.discard(key)
        if targets:
            self._blocks[key] = targets
        for target in targets:
            self._blockers.setdefault(target, {})[key] = None

    def _gainers(self, epoch: Epoch, member: str) -> list[str]:
        """The owners by the published ring of what `member` owned by the ring of `epoch`; itself among them."""
        moved = self._moved.get(epoch)
        if moved is None:
            assert self._epoch is not None
            moved = self._moved[epoch] = {}
            if self._published is None:
                self._published = ring_for(self._history[self._epoch], self._settings)
            for old, new in handovers(ring_for(self._history[epoch], self._settings), self._published):
                moved.setdefault(old, []).append(new)
        return moved.get(member, [])
