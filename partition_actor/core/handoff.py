"""Who may still act on keys that are somebody else's now: rules 3 and 4 of ``docs/guarantees.md``.

A participant *lags* while it has not acknowledged the published epoch. It *claims* the keys that the rings of the
epochs from its acknowledged one up to the published one gave it. It *blocks* the sessions that own claimed keys by the
published ring: they wait for it, and nobody else does.

The latest epochs are kept as they were. Of earlier ones, each laggard has one ring that gives it at least what any of
theirs did: that of the members that all of them have. So a laggard costs the same however many epochs it lags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
    told: list[tuple[Epoch, float]] = field(default_factory=list)
    """The epochs after the acknowledged one of which replies have told the session, and when, oldest first."""

    def note_ring(self, epoch: Epoch, has_keys: bool) -> None:
        """Note whether the ring of `epoch`, the latest known, gives the keys of its id to this session."""
        if has_keys:
            self.first, self.last = self.first or epoch, None
        elif self.first is not None and self.last is None:
            self.last = epoch

    def state(self, now: float) -> dict[str, Any]:
        """What `restored` of the next partition actor needs; times are ages in seconds."""
        return {
            "weight": self.weight,
            "metadata": self.metadata,
            "acked": self.acked,
            "first": self.first,
            "last": self.last,
            "leaving": self.leaving,
            "rev": self.rev,
            "told": [(epoch, now - at) for epoch, at in self.told],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], now: float) -> Participant:
        """The participant of a `state`."""
        known = {name: value for name, value in state.items() if name in cls.__slots__}
        return cls(**{**known, "told": [(epoch, now - age) for epoch, age in state["told"]]})

    def was_on_ring_at(self, epoch: Epoch) -> bool:
        """Whether the ring of `epoch` gave the keys of its id to this session."""
        return self.first is not None and self.first <= epoch and (self.last is None or epoch < self.last)


KEPT = 4
"""How many epochs before the published one are kept as they were."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Several epochs of one laggard in one ring."""

    label: Epoch
    """Stands for them in a view: no epoch, as its incarnation is negative."""
    members: Members
    upto: Epoch
    """The last one of them."""


class Handoff:
    """The laggards of one exclusive group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._epoch: Epoch | None = None
        self._sessions: Mapping[str, str] = {}
        self._participants: Mapping[SessionKey, Participant] = {}
        self._history: dict[Epoch, Members] = {}
        self._joined: dict[SessionKey, Joined] = {}
        self._labels = 0
        self.compared = 0
        """How often it has compared two rings: what takes long."""
        self._is_worked_out = True
        """Whether `_blocks` and `_blockers` are those of the published epoch."""
        self._published_at: dict[Epoch, float] = {}
        self.laggards: dict[SessionKey, None] = {}
        """Who has not acknowledged the published epoch; first those that lag the longest."""
        self.unfinished: dict[Epoch, tuple[float, int]] = {}
        """Epochs that not everybody has acknowledged: when each was published, and how many it had to wait for."""
        self.finished: list[tuple[Epoch, float, int]] = []
        """The same of those that have been acknowledged by everybody since this was emptied."""
        self._blocks: dict[SessionKey, set[SessionKey]] = {}
        self._blockers: dict[SessionKey, dict[SessionKey, None]] = {}
        self._only_left: dict[Epoch, bool] = {}
        """By claimed epoch, whether members have only left since."""
        self._moved: dict[Epoch, dict[str, list[str]]] = {}
        self._told: dict[Epoch, RingMessage] = {}
        self._published: Ring | None = None
        """The ring of the published epoch, held while it is compared with those of many epochs."""

    def learn(self, epoch: Epoch, members: Members) -> None:
        """Take in the membership of an epoch of a former partition actor, as a member reported it."""
        self._history.setdefault(epoch, dict(members))

    def state(self, now: float) -> dict[str, Any]:
        """What `restore` of the next partition actor needs; times are ages in seconds."""
        return {
            "history": dict(self._history),
            "joined": {key: (each.label, each.members, each.upto) for key, each in self._joined.items()},
            "labels": self._labels,
            "published": {epoch: now - at for epoch, at in self._published_at.items()},
            "laggards": list(self.laggards),
            "unfinished": {epoch: (now - at, count) for epoch, (at, count) in self.unfinished.items()},
        }

    def restore(
        self,
        state: Mapping[str, Any],
        epoch: Epoch | None,
        sessions: Mapping[str, str],
        participants: Mapping[SessionKey, Participant],
        now: float,
    ) -> None:
        """Go on with the `state` of a former partition actor, of which `epoch` is the latest."""
        self._epoch, self._sessions, self._participants = epoch, sessions, participants
        self._history = dict(state["history"])
        self._joined = {key: Joined(*joined) for key, joined in state["joined"].items()}
        self._labels = state["labels"]
        self._published_at = {epoch: now - age for epoch, age in state["published"].items()}
        self.laggards = dict.fromkeys(state["laggards"])
        self.unfinished = {epoch: (now - age, count) for epoch, (age, count) in state["unfinished"].items()}
        self._is_worked_out = False
        self._work_out()  # members have been told whom they wait for

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
        """Now `epoch` is published with these `sessions` by member id. Who blocks whom is worked out when asked for."""
        self._epoch, self._sessions, self._participants = epoch, sessions, participants
        self._history[epoch] = members
        self._history = dict(sorted(self._history.items()))
        self._published_at[epoch] = now
        self.laggards.update((key, None) for key, each in participants.items() if each.acked not in (None, epoch))
        if self.laggards:
            self.unfinished[epoch] = (now, len(self.laggards))
        self._published = None
        self._only_left.clear()
        self._moved.clear()
        self._told.clear()
        self._blocks.clear()
        self._blockers.clear()
        self._is_worked_out = False
        while len(self._history) > KEPT + 1:
            self._join_oldest()

    def _join_oldest(self) -> None:
        """Join the oldest epoch kept to those that its laggards claim from before."""
        oldest, members = next(iter(self._history.items()))
        common: dict[int, tuple[Members, dict[str, int]]] = {}
        for key, participant in self._participants.items():
            if key[0] not in members or oldest not in self.claims(key, participant):
                continue
            its_own, joined = members, self._joined.get(key)
            if joined is not None:
                if id(joined.members) not in common:  # laggards of the same epochs share a ring
                    common[id(joined.members)] = (joined.members, _common(joined.members, members))
                both = common[id(joined.members)][1]
                own = max(joined.members[key[0]], members[key[0]])
                its_own = both if both[key[0]] == own else {**both, key[0]: own}
            if joined is None:
                self._labels += 1
            label = (-1, self._labels) if joined is None else joined.label
            self._joined[key] = Joined(label, its_own, oldest)
        del self._history[oldest]

    def _work_out(self) -> None:
        if self._is_worked_out:
            return
        self._is_worked_out = True
        for key, participant in self._participants.items():
            self._block(key, participant)
        self._published = None

    def release(self, key: SessionKey, participant: Participant | None = None) -> Iterable[SessionKey]:
        """The session claims nothing any more; or, as a `participant` that has acknowledged an epoch, less.

        Returns the sessions that wait for fewer than they have been told.
        """
        joined, acked = self._joined.get(key), None if participant is None else participant.acked
        if participant is None or acked == self._epoch:
            self.laggards.pop(key, None)
        if joined is not None and (acked is None or acked > joined.upto):
            del self._joined[key]
        if not self._is_worked_out:
            return ()  # nobody has been told of whom it waits for in this epoch
        before = self._blocks.pop(key, set())
        for target in before:
            self._blockers.get(target, {}).pop(key, None)
        if participant is not None:
            self._block(key, participant)
        return before

    def awaited(self, key: SessionKey) -> int:
        """How many sessions others wait for to acknowledge the published epoch; 0 unless this is one of them."""
        self._work_out()
        return len(self._blocks) if key in self._blocks else 0

    def blockers(self, key: SessionKey) -> Iterable[SessionKey]:
        """Whom this session waits for."""
        self._work_out()
        return self._blockers.get(key, {})

    def claims(self, key: SessionKey, participant: Participant) -> list[Epoch]:
        """The epochs before the published one by whose rings the participant may still act, oldest first.

        The first may be a label, which stands for several; see `ring_at`.
        """
        acked = participant.acked
        if acked is None or self._epoch is None or acked >= self._epoch:
            return []
        kept = [at for at in self._history if acked <= at < self._epoch and participant.was_on_ring_at(at)]
        joined = self._joined.get(key)
        return [joined.label, *kept] if joined is not None and acked <= joined.upto else kept

    def _members_at(self, epoch: Epoch) -> Members:
        if epoch in self._history:
            return self._history[epoch]
        return next(joined.members for joined in self._joined.values() if joined.label == epoch)

    def ring_at(self, epoch: Epoch) -> RingMessage:
        """The members at a claimed `epoch`, or those that a label stands for, told in the shorter way."""
        told = self._told.get(epoch)
        if told is None:
            assert self._epoch is not None
            members = self._members_at(epoch)
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
        if not self.unfinished and len(self._history) <= 1 and len(self._published_at) <= 1:
            return  # as is nearly always so when one of many groups changes
        acked = (participant.acked for participant in participants if participant.acked is not None)
        floor = min(acked, default=self._epoch)
        while self.unfinished and floor is not None and (first := next(iter(self.unfinished))) <= floor:
            self.finished.append((first, *self.unfinished.pop(first)))
        for epochs in (self._history, self._published_at):
            for epoch in list(epochs):
                if floor is None or epoch >= floor or epoch == self._epoch:
                    break
                del epochs[epoch]

    def _block(self, key: SessionKey, participant: Participant) -> None:
        gainers = (owner for epoch in self.claims(key, participant) for owner in self._gainers(epoch, key[0]))
        targets = {(owner, self._sessions[owner]) for owner in gainers}
        targets.discard(key)
        if targets:
            self._blocks[key] = targets
        for target in targets:
            self._blockers.setdefault(target, {})[key] = None

    def _gainers(self, epoch: Epoch, member: str) -> list[str]:
        """The owners by the published ring of what `member` owned by the ring of `epoch`; itself among them."""
        assert self._epoch is not None
        before, now = self._members_at(epoch), self._history[self._epoch]
        if epoch not in self._only_left:
            self._only_left[epoch] = now.items() <= before.items()
        if self._only_left[epoch] and member in now:
            return [member]  # whoever leaves takes nothing from those that stay
        moved = self._moved.get(epoch)
        if moved is None:
            moved = self._moved[epoch] = {}
            if self._published is None:
                self._published = ring_for(now, self._settings)
            self.compared += 1
            for old, new in handovers(ring_for(before, self._settings), self._published):
                moved.setdefault(old, []).append(new)
        return moved.get(member, [])


def _common(members: Members, others: Members) -> dict[str, int]:
    """The members that both have, each with the lower weight: its virtual nodes are those that both rings have."""
    return {member: min(weight, others[member]) for member, weight in members.items() if member in others}
