"""The worker's side: joins groups, stays alive in the background, and says which keys are its own.

The shell around ``member_state``. Its names and habits are those of ceilometer's ``PartitionCoordinator`` (2014).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from partition_actor import arguments, clock
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import Change
from partition_actor.core.messages import check_same_mode
from partition_actor.core.share import Share
from partition_actor.core.views import View
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import GroupFull, SessionSuperseded
from partition_actor.member.callbacks import GroupEvent
from partition_actor.member.connection import Connection
from partition_actor.member.coordinator_locks import CoordinatorLocks
from partition_actor.member.datasets import DatasetPartition, is_dataset
from partition_actor.member.elections import Elections
from partition_actor.member.guard import Guard
from partition_actor.member.notifier import Notifier
from partition_actor.member.partition import Partition
from partition_actor.ring import KeyIndex, Ring
from partition_actor.settings import Settings

if TYPE_CHECKING:
    from ray.data import Dataset

log = logging.getLogger(__name__)


class PartitionCoordinator(CoordinatorLocks):
    """One member: shares keys with the other members of its groups, and is alive as long as its process runs.

    ::

        with PartitionCoordinator("worker-1") as coordinator:
            coordinator.join_group("pollers", weight=2)
            for resource in coordinator.extract_my_subset("pollers", resources):
                poll(resource)

    Works in sync, threaded and asyncio actors, in tasks and in drivers. Heartbeats run in a thread of their own. What
    waits for the partition actor waits at most `call_timeout` seconds; each such method has a twin for asyncio, with
    the prefix ``a`` (`ajoin_group`), that does not block the event loop. Any thread may call any method.

    `my_id` is a uuid by default; `actor` the partition actor's name, its handle, or None for the single-instance mode:
    not active, every method a no-op, and every key this member's. `settings` count until the partition actor, whose
    settings then apply, is reached, but for `call_timeout`, which is this member's own.

    Raises ``InvalidArgument``.
    """

    def __init__(
        self,
        my_id: str | None = None,
        actor: Any = NAME,
        namespace: str = NAMESPACE,
        settings: Settings | None = None,
    ) -> None:
        arguments.check_actor(actor, namespace, settings, optional=True)
        self.my_id = str(uuid.uuid4()) if my_id is None else arguments.check_text("my_id", my_id)
        self._actor = actor
        self._notifier = Notifier(self.my_id, self._acknowledge, self._lease_end)
        self._connection = Connection(self.my_id, actor, namespace, settings or Settings(), self._on_changes)
        self._elections = Elections(self._connection, self._notifier.post)
        self._guard = Guard(self._connection, self._notifier, is_alone=actor is None)

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect and begin to send heartbeats. A partition actor that cannot be reached is logged, and sought on."""
        self._guard.enter()
        if self._actor is None or self._connection.active:
            return
        self._notifier.open()
        self._connection.start()

    def stop(self) -> None:
        """Hand all keys over, leave all groups, and send no more heartbeats."""
        self._guard.leave()
        if not self._connection.active:
            return
        self._elections.end()
        out = self._connection.stop()
        # After the callbacks, for until they have returned this member may still be at work.
        self._notifier.close(lambda: self._connection.close_session() if out else None)

    def is_active(self) -> bool:
        """Whether it has been started, with a partition actor, and not stopped."""
        return self._connection.active

    def heartbeat(self) -> None:
        """Send a heartbeat now. They go out by themselves; this is for loops in the seed's style."""
        if self._connection.active:
            self._connection.send_now()

    def __enter__(self) -> PartitionCoordinator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> PartitionCoordinator:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    async def astart(self) -> None:
        """`start`, for asyncio."""
        await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        """`stop`, for asyncio."""
        await asyncio.to_thread(self.stop)

    # -- groups -------------------------------------------------------------------------------------------------

    def join_group(
        self,
        group_id: str | None,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
    ) -> None:
        """Become a member; joining makes the group, and joining again is fine (it sets the weight).

        Waits for the first view. When that does not come in time the partition actor is away or recovers: logged, and
        the group is joined as soon as it can be. An empty or None group does nothing.

        Raises ``InvalidArgument``, ``NotStarted``, ``GroupModeConflict``, ``GroupFull``, and ``SessionSuperseded`` when
        another process has taken this id.
        """
        if group_id is None or group_id == "" or self._actor is None:
            return
        arguments.check_text("group_id", group_id)
        arguments.check_weight(weight)
        arguments.check_metadata(metadata)
        arguments.check_mode(exclusive)
        connection, member_state = self._connection, self._connection.member_state
        if not connection.active:
            return
        with connection.lock:
            held = member_state.groups.get(group_id)
            if held is not None and held.state == "superseded":
                raise SessionSuperseded(f"member {self.my_id!r}: another process has this id in group {group_id!r}")
            member_state.join(group_id, weight, metadata, exclusive)
            connection.forget_failure()
        connection.send_now()
        connection.wait(lambda: connection.state(group_id) != "joining" or isinstance(connection.failure, GroupFull))
        self._check_joined(group_id, exclusive)

    async def ajoin_group(
        self,
        group_id: str | None,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
    ) -> None:
        """`join_group`, for asyncio."""
        await asyncio.to_thread(self.join_group, group_id, weight, metadata, exclusive)

    def leave_group(self, group_id: str | None) -> None:
        """Hand this member's keys over, and leave; returns when it is out, or logs that this takes longer."""
        if group_id is None or group_id == "" or not self._connection.was_started:
            return
        arguments.check_text("group_id", group_id)
        with self._connection.lock:
            self._connection.member_state.leave(group_id)
        self._connection.send_now()
        if self._connection.wait(lambda: self._connection.is_out(group_id)):
            log.info("left partitioning group %s", group_id)
        else:
            log.warning("member %r has not left group %r yet", self.my_id, group_id)

    async def aleave_group(self, group_id: str | None) -> None:
        """`leave_group`, for asyncio."""
        await asyncio.to_thread(self.leave_group, group_id)

    def watch_group(self, group_id: str | None, callback: Callable[[GroupEvent], Any]) -> None:
        """Call `callback` with a ``GroupEvent`` as soon as a change of a group that this member joins is known.

        Callbacks run one at a time in a thread of their own; one that raises is logged, one that returns an awaitable
        runs on the event loop on which it was registered. In an exclusive group, keys that this member has lost start
        elsewhere when the callbacks have returned. Raises ``InvalidArgument``.
        """
        if group_id is None or group_id == "" or self._actor is None:
            return
        arguments.check_text("group_id", group_id)
        arguments.check_callback(callback)
        with self._connection.lock:
            self._notifier.watch(group_id, callback)

    def run_watchers(self) -> None:
        """Run the callbacks that are pending here and now, for loops in the seed's style.

        On an event loop it leaves them to their own thread, for they may need that loop: await `arun_watchers` there.
        """
        self._notifier.run_pending()

    async def arun_watchers(self) -> None:
        """`run_watchers`, for asyncio: returns when the callbacks have."""
        await asyncio.to_thread(self.run_watchers)

    # -- keys ---------------------------------------------------------------------------------------------------

    def extract_my_subset(self, group_id: str | None, iterable: Iterable[Any]) -> Iterable[Any]:
        """Those of `iterable` that this member may work on now, as a list in their order.

        Joins the group when that has not been done. ``[]`` when the lease has ended, because the partition actor has
        been away for too long, and after an operator's drain, until `join_group`. With an empty or None group
        `iterable` is returned as it is. Raises ``InvalidArgument``, ``NotStarted`` and what `join_group` raises.
        """
        if group_id is None or group_id == "":
            return iterable
        arguments.check_text("group_id", group_id)
        keys = arguments.check_items(iterable)
        if self._actor is None:
            return keys
        held = self._connection.member_state.groups.get(group_id)
        if held is None or (held.state, held.want) == ("out", "out"):  # one that was drained stays out
            self.join_group(group_id)
        return self._share(group_id).of(keys)

    async def aextract_my_subset(self, group_id: str | None, iterable: Iterable[Any]) -> Iterable[Any]:
        """`extract_my_subset`, for asyncio."""
        return await asyncio.to_thread(self.extract_my_subset, group_id, iterable)

    @overload
    def partition(self, group_id: str, items: Dataset, column: str) -> DatasetPartition: ...

    @overload
    def partition(self, group_id: str, items: Iterable[Any]) -> Partition: ...

    def partition(self, group_id: str, items: Any, column: str | None = None) -> Partition | DatasetPartition:
        """`items` bound to a group: cheap to ask again after a change, and tells what is gained and lost.

        `items` is any iterable of keys, a numpy array of one dimension, an Arrow array, or a ``ray.data.Dataset``, of
        which `column` holds the keys and which Ray Data filters. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        arguments.check_text("group_id", group_id)
        share = partial(self._share, group_id)
        if is_dataset(items):
            return DatasetPartition(group_id, items, column, share)
        if column is not None:
            arguments.refuse("column", column, "None, unless items is a ray.data.Dataset")
        function = "xxh3" if self._actor is None else self._connection.member_state.settings.hash_function
        index: KeyIndex[Any] = KeyIndex(items, function)
        made = Partition(group_id, index, share, partial(self._notifier.refresh, group_id))
        with self._connection.lock:
            self._notifier.add(made)
        return made

    def owns(self, group_id: str, key: object) -> bool:
        """Whether this member may work on `key` now. Never waits. Raises ``InvalidArgument`` and ``NotStarted``."""
        arguments.check_text("group_id", group_id)
        if self._actor is None:
            return True
        with self._connection.lock:
            return self._connection.member_state.may_act(clock.now(), group_id, key)

    def owner(self, group_id: str, key: object) -> str | None:
        """The id of the member whose `key` is by the view held; None when none is. Never waits.

        Raises ``InvalidArgument`` and ``NotStarted``.
        """
        view = self._view(group_id)
        if self._actor is None:
            return self.my_id
        return None if view is None else view.ring(self._connection.member_state.settings).owner(key)

    def members(self, group_id: str) -> list[str]:
        """The ids of a group's members by the view held, sorted; [] when none is. Never waits.

        Raises ``InvalidArgument`` and ``NotStarted``.
        """
        view = self._view(group_id)
        if self._actor is None:
            return [self.my_id]
        return [] if view is None else sorted(view.members)

    def epoch(self, group_id: str) -> Epoch | None:
        """``(incarnation, counter)`` of the view held, or None. Raises ``InvalidArgument`` and ``NotStarted``."""
        view = self._view(group_id)
        return None if view is None else view.epoch

    def fencing_token(self, group_id: str) -> int:
        """One int that grows with every epoch, for storage that refuses an older writer.

        0, which such storage always refuses, while this member may not act. Raises ``InvalidArgument`` and
        ``NotStarted``.
        """
        arguments.check_text("group_id", group_id)
        if self._actor is None:
            return 0
        with self._connection.lock:
            return self._connection.member_state.token(clock.now(), group_id)

    # -- insides ------------------------------------------------------------------------------------------------

    def _on_changes(self, changes: list[Change]) -> None:
        self._notifier.take(changes)
        self._elections.look()

    def _view(self, group: str) -> View | None:
        arguments.check_text("group_id", group)
        return None if self._actor is None else self._connection.member_state.view(group)

    def _share(self, group: str) -> Share:
        """What of the ring this member may work on now."""
        if self._actor is None:
            return Share(self.my_id, Ring([self.my_id]))
        with self._connection.lock:
            return self._connection.member_state.share(clock.now(), group)

    def _check_joined(self, group: str, exclusive: bool | None) -> None:
        state, member_state = self._connection.state(group), self._connection.member_state
        if state == "conflict":
            check_same_mode(group, bool(member_state.groups[group].exclusive), exclusive)
        if state == "superseded":
            raise SessionSuperseded(f"member {self.my_id!r}: another process has this id in group {group!r}")
        failure = self._connection.failure
        if isinstance(failure, GroupFull) and state == "joining":
            with self._connection.lock:
                member_state.groups.pop(group, None)
            raise failure
        if state == "member":
            log.info("joined partitioning group %s", group)
        else:
            log.warning("member %r has not been admitted to group %r yet, and goes on asking", self.my_id, group)

    def _acknowledge(self, group: str, epoch: Epoch) -> None:
        with self._connection.lock:
            awaited = self._connection.member_state.acknowledge(group, epoch)
        if awaited:
            self._connection.send_in_turn(awaited)

    def _lease_end(self, group: str) -> float | None:
        member_state = self._connection.member_state
        with self._connection.lock:
            view = member_state.view(group)
            return None if view is None else member_state.acts_until(view)
