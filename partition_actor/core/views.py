"""Views: how the partition actor tells one, whole or as what has changed, and what the member makes of it.

What they look like on the wire is in ``protocol``. Pure: no clock, no threads, no Ray.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from partition_actor.core.messages import Epoch, Members, as_epoch, ring_for
from partition_actor.ring import Ring
from partition_actor.settings import Settings

Changes = Mapping[str, int | None]
"""``{member_id: weight}`` of those that are new or weigh otherwise, and None for those that are gone."""


def difference(members: Members, before: Members) -> dict[str, int | None]:
    """What makes `members` of those `before`."""
    changed: dict[str, int | None] = {
        member: weight for member, weight in members.items() if before.get(member) != weight
    }
    changed.update((member, None) for member in before if member not in members)
    return changed


def applied(changes: Changes, before: Members) -> dict[str, int]:
    """The members that `changes` make of those `before`."""
    return {member: weight for member, weight in {**before, **changes}.items() if weight is not None}


class ChangeLog:
    """The latest changes of one group's membership, as many as are fewer together than its members."""

    def __init__(self) -> None:
        self.epoch: Epoch | None = None
        self.members: Members = {}
        self._steps: deque[tuple[Epoch, dict[str, int | None]]] = deque()
        """From each of the earlier epochs to the next one."""
        self._size = 0
        self._since: dict[Epoch, Changes | None] = {}

    def publish(self, epoch: Epoch, members: Members) -> None:
        """Note the members of the next epoch."""
        if self.epoch is not None:
            changes = difference(members, self.members)
            self._steps.append((self.epoch, changes))
            self._size += len(changes)
        self.epoch, self.members = epoch, members
        self._since.clear()
        while self._steps and self._size >= max(1, len(members)):
            self._size -= len(self._steps.popleft()[1])

    def since(self, epoch: Epoch) -> Changes | None:
        """What makes the present members of those at `epoch`; None when that is too long ago, or not known."""
        if epoch == self.epoch:
            return {}
        if epoch not in self._since:
            self._since[epoch] = self._merged(epoch)
        return self._since[epoch]

    def _merged(self, epoch: Epoch) -> Changes | None:
        merged: dict[str, int | None] = {}
        for start, changes in reversed(self._steps):
            merged = {**changes, **merged}
            if start == epoch:
                return merged
        return None


@dataclass(frozen=True, slots=True)
class View:
    """What a member was last told of a group."""

    epoch: Epoch
    rev: int
    exclusive: bool
    members: Members
    mine: bool
    laggards: tuple[tuple[str, tuple[Epoch, ...]], ...] = ()
    """Who may still act on keys that are this member's now, and the epochs that it may act on."""
    rings: Mapping[Epoch, Members] = field(default_factory=dict)
    """The members at the epochs of the laggards."""
    awaited: int = 0
    """Of how many members, this one among them, others wait to hear that they have acknowledged the epoch."""
    _rings: list[Ring] = field(default_factory=list, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, told: dict[str, Any], held: View | None = None) -> View:
        """Read a view off the wire. Raises ``ValueError`` when it starts from another view than the one `held`."""
        epoch, base = (told["epoch"][0], told["epoch"][1]), as_epoch(told["base"])
        members, known = told["changed"], {}
        if base is not None:
            if held is None or held.epoch != base:
                raise ValueError(f"the view of {epoch} starts from the one of {base}, which is not held")
            members = applied(told["changed"], held.members) if told["changed"] else held.members
            known = {**held.rings, base: held.members} if base == epoch else {base: held.members}
        for at, is_whole, changed in told["rings"]:
            known[(at[0], at[1])] = changed if is_whole else applied(changed, members)
        laggards = tuple((member, tuple((at[0], at[1]) for at in epochs)) for member, epochs in told["laggards"])
        claimed = dict.fromkeys(at for _, epochs in laggards for at in epochs)
        if claimed.keys() - known.keys():
            raise ValueError(f"the view of {epoch} takes the members at {sorted(claimed)} for known")
        rings = {at: known[at] for at in claimed}
        awaited = told.get("awaited", 0)
        return cls(epoch, told["rev"], told["exclusive"], members, told["mine"], laggards, rings, awaited)

    def ring(self, settings: Settings) -> Ring:
        """The ring of the members, looked up once: a view is dropped when the settings of the ring change."""
        if not self._rings:
            self._rings.append(ring_for(self.members, settings))
        return self._rings[0]

    def withheld(self, settings: Settings) -> list[tuple[Ring, str]]:
        """What laggards claim: keys that such a ring gives to such a member wait for it."""
        return [(ring_for(self.rings[at], settings), laggard) for laggard, epochs in self.laggards for at in epochs]
