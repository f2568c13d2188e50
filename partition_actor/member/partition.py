"""Keys bound to a group: which of them are this member's, and callbacks for those it gains and loses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from partition_actor.arguments import check_callback, refuse
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

    Its length, iteration and ``in`` are about the keys that this member may work on now. The identity of a key is
    ``str(key)``. The keys are hashed and sorted once. Asking again costs time for this member's keys, not for all keys.

    A partition with callbacks is kept by its coordinator until `close` or the end of a ``with``: you need not hold it.
    Any thread may call any method, and so may callbacks.
    """

    def __init__(
        self,
        group: str,
        index: KeyIndex[Any],
        share: Callable[[], Share],
        changed: Callable[[], None],
        register: Callable[[Partition], None],
        unregister: Callable[[Partition], None],
    ) -> None:
        """`register` is called with the first callback and `unregister` by `close`: with many threads, perhaps twice.

        `changed` is called, while there are callbacks, when they may have to be told of something.
        """
        self.group = group
        self._index = index
        self._share = share
        self._changed = changed
        self._register = register
        self._unregister = unregister
        self._index_lock = threading.Lock()  # users' code never runs under it
        self._closed = False
        self._lost: list[Callback] = []
        self._gained: list[tuple[Callback, dict[str, Any]]] = []
        """Callbacks, and the keys that each was told of and that were not lost since, by their text."""
        self._had: dict[str, Any] = {}
        """The keys that were this member's when callbacks last ran."""
        self._process = os.getpid()

    def keys(self) -> list[Any]:
        """The keys that this member may work on now, in the order in which they were given."""
        return self._share().of_index(self._index)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return self._share().has(key) and key in self._index

    def __repr__(self) -> str:
        state = "closed" if self._closed else "with callbacks" if self._gained or self._lost else "without callbacks"
        return f"Partition({self.group!r}, {len(self._index)} keys, {len(self)} of them this member's, {state})"

    def add(self, keys: Iterable[Any]) -> None:
        """Add keys, each as often as it occurs. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        self._index.add(keys, self._index_lock)
        self._tell()

    def discard(self, keys: Iterable[Any]) -> None:
        """Remove every occurrence of each of `keys`. Raises ``InvalidArgument`` when `keys` cannot be iterated."""
        self._index.discard(keys, self._index_lock)
        self._tell()

    def on_gained(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys whenever this member may begin to work on them.

        The first call, soon, is for the keys that it has already. Callbacks run as those of
        ``PartitionCoordinator.watch_group`` do. Raises ``InvalidArgument``, also when the partition is closed.
        """
        made = Callback(check_callback(callback))
        self._listen(callback, lambda: self._gained.append((made, {})))

    def on_lost(self, callback: Callable[[list[Any]], Any]) -> None:
        """Call `callback` with a list of keys that this member has lost.

        In an exclusive group their next owner starts when this callback has returned, or after `handoff_timeout`. It is
        also called when the lease ends, and by `stop`. It runs as those of `on_gained` do. Raises ``InvalidArgument``,
        also when the partition is closed.
        """
        made = Callback(check_callback(callback))
        self._listen(callback, lambda: self._lost.append(made))

    def close(self) -> None:
        """Call no callback any more; does not wait for one that is running. Keys may still be asked for.

        Callbacks do not hear of keys that are lost from now on, and the next owners of these keys no longer wait for
        them. So stop what the callbacks have started before you close.
        """
        self._closed = True
        self._unregister(self)
        self._gained.clear()
        self._lost.clear()
        self._had = {}

    def __enter__(self) -> Partition:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _listen(self, callback: object, append: Callable[[], None]) -> None:
        if self._closed:
            refuse("callback", callback, f"none, as this partition of group {self.group!r} is closed")
        is_first = not (self._gained or self._lost)
        append()
        if is_first:
            self._register(self)
        if self._closed:  # by another thread meanwhile
            self._unregister(self)
        self._tell()

    def _tell(self) -> None:
        if self._gained or self._lost:
            self._changed()

    # -- as a KeyListener ---------------------------------------------------------------------------------------

    def tell_lost(self, everything: bool) -> Iterator[None]:
        """Run the callbacks for keys that were this member's when callbacks last ran, and are not now or were lost."""
        if self._process != os.getpid():  # a forked child: its parent was told, not it
            self._process, self._had = os.getpid(), {}
            self._gained = [(callback, {}) for callback, _ in self._gained]
        mine = () if everything else {str(key) for key in self.keys()}
        lost = {text: key for text, key in list(self._had.items()) if text not in mine}
        for known in (self._had, *(told for _, told in self._gained)):
            for text in lost:
                known.pop(text, None)
        for callback in list(self._lost) if lost else ():
            if not self._closed:
                callback(list(lost.values()))
                yield

    def tell_gained(self) -> Iterator[None]:
        """Run the callbacks for keys that are this member's now and of which they were not told."""
        mine = {str(key): key for key in self.keys()}
        self._had.update(mine)
        for callback, told in list(self._gained):
            gained = {text: key for text, key in mine.items() if text not in told}
            told.update(gained)
            if gained and not self._closed:
                callback(list(gained.values()))
                yield
