"""Views: how the partition actor tells one, whole or as what has changed, and how a member reads it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from partition_actor.core.epochs import Epoch
from partition_actor.core.messages import Changes, Members, ViewMessage
from partition_actor.ring import Ring, ring_of
from partition_actor.settings import Settings


def ring_for(members: Members, settings: Settings) -> Ring:
    """The hash ring of these members."""
    return ring_of(members.items(), settings.vnodes, settings.hash_function)


def difference(members: Members, before: Members) -> dict[str, int | None]:
    """The changes that turn the members `before` into `members`."""
    changed: dict[str, int | None] = {
        member: weight for member, weight in members.items() if before.get(member) != weight
    }
    changed.update((member, None) for member in before if member not in members)
    return changed


def applied(changes: Changes, before: Members) -> dict[str, int]:
    """The members `before`, with `changes`."""
    return {member: weight for member, weight in {**before, **changes}.items() if weight is not None}


class ChangeLog:
    """The latest changes of one group's membership: as many as are together fewer than its members."""

    def __init__(self) -> None:
        self.epoch: Epoch | None = None
        self.members: Members = {}
        self._steps: deque[tuple[Epoch, dict[str, int | None]]] = deque()
        """``(epoch, the changes from it to the next one)``, oldest first."""
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

    def restore(self, epoch: Epoch | None, members: Members) -> None:
        """Begin with the latest epoch of a former partition actor."""
        self.epoch, self.members = epoch, members

    def since(self, epoch: Epoch) -> Changes | None:
        """The changes from `epoch` to now; None when it is too old, or unknown."""
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
    """``(member_id, epochs)``: who may still act on keys that are this member's now, by the rings of these epochs."""
    rings: Mapping[Epoch, Members] = field(default_factory=dict)
    """The members at the epochs of the laggards."""
    awaited: int = 0
    """How many members, this one among them, others wait for to acknowledge; 0: nobody waits for this one."""
    shares: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Each member's ``Share``, worked out once."""
    _rings: list[Ring] = field(default_factory=list, init=False, repr=False, compare=False)
    _former: list[Ring] = field(default_factory=list, init=False, repr=False, compare=False)
    """The ring of the view before, until there is one of this view: it is derived from it."""

    @classmethod
    def of(cls, told: ViewMessage, held: View | None = None) -> View:
        """Read a view. Raises ``ValueError`` when it starts from another view than the one `held`."""
        epoch, base = told["epoch"], told["base"]
        members, known = cast(Members, told["changed"]), {}
        if base is not None:
            if held is None or held.epoch != base:
                raise ValueError(f"the view of {epoch} starts from the one of {base}, which is not held")
            members = applied(told["changed"], held.members) if told["changed"] else held.members
            known = {**held.rings, base: held.members} if base == epoch else {base: held.members}
        for ring in told["rings"]:
            told_members = ring["members"]
            known[ring["epoch"]] = cast(Members, told_members) if ring["whole"] else applied(told_members, members)
        laggards = tuple((laggard["member"], tuple(laggard["epochs"])) for laggard in told["laggards"])
        claimed = dict.fromkeys(at for _, epochs in laggards for at in epochs)
        if claimed.keys() - known.keys():
            raise ValueError(f"the view of {epoch} names epochs {sorted(claimed)}, whose members are not all known")
        rings = {at: known[at] for at in claimed}
        awaited = told.get("awaited", 0)
        return cls(epoch, told["rev"], told["exclusive"], members, told["mine"], laggards, rings, awaited)

    def ring(self, settings: Settings) -> Ring:
        """The ring of the members, looked up once: a view is dropped when the ring's settings change."""
        for ring in self._rings:
            return ring
        ring = ring_for(self.members, settings)
        self._rings.append(ring)
        self._former.clear()
        return ring

    def supersede(self, former: View) -> None:
        """Take the place of `former`, which lets its ring go and looks it up again if it is asked for it."""
        self._former.extend(former._rings or former._former)
        for kept in (former.shares, former._rings, former._former):
            kept.clear()
