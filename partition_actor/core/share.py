"""What a member may work on: rule 4 of ``docs/guarantees.md``, and the only place that decides it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from partition_actor.core.views import View
from partition_actor.ring import KeyIndex, Ring
from partition_actor.settings import Settings


@dataclass(frozen=True)
class Share:
    """A member's part of a ring, less what others have still to hand over."""

    member: str
    ring: Ring | None = None
    """None: no part of any."""
    withheld: Sequence[tuple[Ring, str]] = ()
    """``(ring, laggard)``: a key that such a ring gives to its laggard is not in the share."""

    @classmethod
    def by(cls, view: View, member: str, settings: Settings) -> Share:
        """What `view` lets `member` work on while its lease runs."""
        return cls(member, view.ring(settings), view.withheld(settings))

    def has(self, key: object) -> bool:
        """Whether `key` is in the share."""
        if self.ring is None or self.ring.owner(key) != self.member:
            return False
        return all(ring.owner(key) != laggard for ring, laggard in self.withheld)

    def of(self, keys: Iterable[Any]) -> list[Any]:
        """Those of `keys` that are in the share, in their order."""
        return [] if self.ring is None else self.ring.subset(self.member, keys, self.withheld)

    def of_index(self, index: KeyIndex[Any]) -> list[Any]:
        """The same for indexed keys: it costs the share and not all keys."""
        if self.ring is None or index.hash_function != self.ring.hash_function:
            return self.of(index)  # an index made before the partition actor was reached may use another hash
        return index.subset(self.ring, self.member, self.withheld)
