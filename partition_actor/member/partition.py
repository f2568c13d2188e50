"""Keys bound to a group: which of them are this member's, and callbacks for those it gains and loses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from partition_actor.arguments import check_callback
from partition_actor.core.share import Share
from partition_actor.member.callbacks import Callback
from partition_actor.ring import KeyIndex


class Partition:
    """This member's share of some keys; made by ``PartitionCoordinator.partition``.

    ::

        partition = coordinator.partition("pollers", tenants)
        partition.on_gained(lambda keys: [start(key) for key in keys])
        partition.on_lost(lambda keys: [stop(key) for key in keys])
        for tenant in partition: ...

    The keys are hashed and sorted once. Asking again costs time for this member's keys, not for all keys.
    """

    def __init__(
        self, group: str, index: KeyIndex[Any], share: Callable[[], Share], changed: Callable[[], None]
    ) -> None:
        self.group = group
        self._index = index
        self._share = share
        self._changed = changed
        self._lock = threading.Lock()
        self._gained: list[Callback] = []
        self._lost: list[Callback] = []
        self._told: dict[str, Any] = {}

    def keys(self) -> list[Any]:
        """The keys that this member may work on now, in the order in which they were given."""
        with self._lock:
            return self._share().of_index(self._index)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def add(self, keys: Iterable[Any]) -> None:
        """Add keys. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        with self._lock:
            self._index.add(keys)
        self._changed()

    def discard(self, keys: Iterable[Any]) -> None:
        """Remove every occurrence of each of `keys`. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        with self._lock:
            self._index.discard(keys)
        self._changed()

    def on_gained(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys whenever this member may begin to work on them.

        The first call, soon, is for the keys that it has already. Callbacks run as those of
        ``PartitionCoordinator.watch_group`` do. Raises ``InvalidArgument``.
        """
        self._gained.append(Callback(check_callback(callback)))
        self._changed()

    def on_lost(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys that this member has lost.

        In an exclusive group their next owner starts when this callback has returned, or after `handoff_timeout`. It is
        also called when the lease ends, and by `stop`. It runs as those of `on_gained` do. Raises ``InvalidArgument``.
        """
        self._lost.append(Callback(check_callback(callback)))
        self._changed()

    @property
    def is_listening(self) -> bool:
        """Whether there are callbacks."""
        return bool(self._gained or self._lost)

    def tell_lost(self) -> None:
        """Run the callbacks for keys that were this member's when callbacks last ran and are not now."""
        mine = {str(key): key for key in self.keys()}
        lost = [self._told.pop(identity) for identity in list(self._told) if identity not in mine]
        if lost:
            for callback in self._lost:
                callback(lost)

    def tell_gained(self) -> None:
        """Run the callbacks for keys that are this member's now and were not when callbacks last ran."""
        gained = {identity: key for key in self.keys() if (identity := str(key)) not in self._told}
        self._told.update(gained)
        if gained:
            for callback in self._gained:
                callback(list(gained.values()))
