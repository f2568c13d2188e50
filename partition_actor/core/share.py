"""What a member may work on: rule 4 of ``docs/guarantees.md``, and the only place that decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from partition_actor.core.epochs import Epoch
from partition_actor.core.views import View
from partition_actor.ring import Arcs, KeyIndex, arcs_of
from partition_actor.settings import Settings


@dataclass(frozen=True)
class Share:
    """A member's part of the hash space, less what others have still to hand over."""

    member: str
    arcs: Arcs | None = None
    """None: no part."""

    @classmethod
    def by(cls, view: View, member: str, settings: Settings) -> Share:
        """What `view` lets `member` work on while its lease runs."""
        share: Share | None = view.shares.get(member)
        if share is None:
            share = view.shares[member] = cls(member, _arcs(view, member, settings))
        return share

    def has(self, key: object) -> bool:
        """Whether `key` is in the share."""
        return self.arcs is not None and self._finder(key)

    def of(self, keys: Iterable[Any]) -> list[Any]:
        """Those of `keys` that are in the share, in their order."""
        return [] if self.arcs is None else self.arcs.subset(keys)

    def of_index(self, index: KeyIndex[Any]) -> list[Any]:
        """The same for indexed keys: it costs the share and not all keys."""
        if self.arcs is None or index.hash_function != self.arcs.function.name:
            return self.of(index)  # an index made before the partition actor was reached may use another hash
        return index.keys_in(self.arcs)

    @cached_property
    def _finder(self) -> Callable[[object], bool]:
        assert self.arcs is not None
        return self.arcs.finder()


def _arcs(view: View, member: str, settings: Settings) -> Arcs:
    """What the ring of `view` gives to `member` and the rings of its laggards' epochs do not give to the laggard."""
    arcs = view.ring(settings).arcs(member)
    holders: dict[Epoch, list[str]] = {}
    for laggard, epochs in view.laggards:
        for at in epochs:
            holders.setdefault(at, []).append(laggard)
    for at, laggards in holders.items():
        theirs = arcs_of(view.rings[at].items(), laggards, settings.vnodes, settings.hash_function)
        arcs = arcs.minus([theirs])
    return arcs
