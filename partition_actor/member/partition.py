"""Keys bound to a group: ask again after a change, or be told what came and what went."""

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

    The keys are hashed and sorted once; asking costs the member's share of the ring and its keys, not all keys.
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
        """Take more keys in. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        with self._lock:
            self._index.add(keys)
        self._changed()

    def discard(self, keys: Iterable[Any]) -> None:
        """Forget keys, every occurrence of each. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        with self._lock:
            self._index.discard(keys)
        self._changed()

    def on_gained(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys whenever this member may begin to work on them; with those it has, soon.

        Callbacks run one at a time in a thread of their own; one that raises is logged. One that returns an awaitable
        runs on the event loop on which it was registered. Raises ``InvalidArgument``.
        """
        self._gained.append(Callback(check_callback(callback)))
        self._changed()

    def on_lost(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys that this member has lost.

        In an exclusive group the next owner of these keys starts when this callback has returned, and the keys are lost
        by force when it takes longer than `handoff_timeout`. It is called as well when the lease ends, and with `stop`.
        Raises ``InvalidArgument``.
        """
        self._lost.append(Callback(check_callback(callback)))
        self._changed()

    @property
    def is_watched(self) -> bool:
        """Whether somebody wants to be told."""
        return bool(self._gained or self._lost)

    def tell_lost(self) -> None:
        """Run the callbacks for keys that were this member's when callbacks last ran, and are not now."""
        mine = {str(key): key for key in self.keys()}
        lost = [key for identity, key in self._told.items() if identity not in mine]
        for identity in [identity for identity in self._told if identity not in mine]:
            del self._told[identity]
        if lost:
            for callback in self._lost:
                callback(lost)

    def tell_gained(self) -> None:
        """Run the callbacks for keys that are this member's now, and were not when callbacks last ran."""
        gained = {str(key): key for key in self.keys()}
        for identity in [identity for identity in gained if identity in self._told]:
            del gained[identity]
        self._told.update(gained)
        if gained:
            for callback in self._gained:
                callback(list(gained.values()))
