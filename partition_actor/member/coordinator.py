"""What users call: one member, which joins groups, stays alive in the background, and says which keys are its own.

Names and conventions are those of ceilometer's ``PartitionCoordinator`` (2014).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from partition_actor import arguments
from partition_actor.core.epochs import Epoch
from partition_actor.core.member import MemberState
from partition_actor.core.messages import MAX_SLOT, check_same_mode
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import GroupFull, NoPlaceYet, SessionSuperseded
from partition_actor.member import sigterm
from partition_actor.member.background import run_in_background, run_in_thread
from partition_actor.member.callbacks import Callback, Callbacks, Elected, GroupEvent
from partition_actor.member.datasets import DatasetPartition, is_dataset
from partition_actor.member.guard import Guard
from partition_actor.member.local_session import LocalSession
from partition_actor.member.lock import Lock
from partition_actor.member.partition import Partition
from partition_actor.member.ray_transport import RayTransport
from partition_actor.member.session import Session, Transport
from partition_actor.metadata import pack_metadata
from partition_actor.processes import task_end
from partition_actor.ring import KeyIndex
from partition_actor.settings import Settings

if TYPE_CHECKING:
    from ray.data import Dataset

log = logging.getLogger(__name__)


TASK_CHECK_INTERVAL = 0.25
"""Seconds between two looks whether the Ray task that started a member has returned."""


class PartitionCoordinator:
    """One member: shares keys with the other members of its groups, and is alive as long as its process runs.

    ::

        with PartitionCoordinator("worker-1") as coordinator:
            coordinator.join_group("pollers", weight=2)
            for resource in coordinator.extract_my_subset("pollers", resources):
                poll(resource)

    Works in sync, threaded and asyncio actors, in tasks and in drivers. Heartbeats run in a thread of their own. In a
    Ray task use `with`; a member that is not stopped there is stopped soon after the task has returned, unless that is
    a generator. Methods that wait for the partition actor wait at most `call_timeout` seconds. Each has a twin for
    asyncio, with the prefix ``a`` (`ajoin_group`), that does not block the event loop; the others never wait for it.
    Any thread may call any method.

    `my_id` is a uuid by default. `actor` is the partition actor's name, its handle, or None for the single-instance
    mode: never active, every method a no-op, and every key this member's. `settings` apply until the partition actor is
    reached, whose settings then do, all but `call_timeout`, which is this member's own.

    With `on_sigterm` a process that gets SIGTERM hands over as `stop` does, in a thread of its own, and waits for
    callbacks until the lease ends. Then it ends as it would have: the handler of SIGTERM runs that there was before the
    start, such as that of ``ray.init()``. For drivers and scripts; `start` it in the main thread. It ends with `stop`.

    Raises ``InvalidArgument``.
    """

    def __init__(
        self,
        my_id: str | None = None,
        actor: Any = NAME,
        namespace: str = NAMESPACE,
        settings: Settings | None = None,
        *,
        on_sigterm: bool = False,
    ) -> None:
        if not isinstance(actor, Transport):
            arguments.check_actor(actor, namespace, settings, optional=True)
        self.my_id = str(uuid.uuid4()) if my_id is None else arguments.check_text("my_id", my_id)
        if actor is None:
            self._session: Session = LocalSession(self.my_id)
        else:
            transport = actor if isinstance(actor, Transport) else RayTransport(actor, namespace)
            self._session = Session(self.my_id, transport, settings or Settings())
        self._callbacks = Callbacks(self._session)
        self._guard = Guard(self._session)
        self._task_end: Callable[[], bool] | None = None
        self._on_sigterm = arguments.check_flag("on_sigterm", on_sigterm) and actor is not None

    def __repr__(self) -> str:
        if self._session.is_local:
            return f"<PartitionCoordinator {self.my_id!r}: single instance, every key is its own>"
        if not self._session.active:
            return f"<PartitionCoordinator {self.my_id!r}: {'stopped' if self._session.was_started else 'not started'}>"
        groups = sorted(self._session.member_state.groups.items())
        shown = ", ".join(f"{name!r} ({held.state})" for name, held in groups) or "none"
        return f"<PartitionCoordinator {self.my_id!r}: started, groups: {shown}>"

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect and begin to send heartbeats. If the partition actor cannot be reached, log that and keep trying.

        Raises ``InvalidArgument`` for `on_sigterm` in another thread than the main one, or in a worker of Ray.
        """
        self._mind_sigterm()
        self._start()

    def _mind_sigterm(self) -> None:
        if self._on_sigterm:
            sigterm.add(self, self._hand_over)

    def _start(self) -> None:
        self._guard.enter()
        self._session.start()
        self._task_end = task_end()
        if self._session.active and self._task_end is not None:
            run_in_background(self._stop_with_task(self._session.member_state))

    async def _stop_with_task(self, session: MemberState) -> None:
        """Stop when the last Ray task that called `start` has returned: its process lives on, and runs other tasks."""
        while session is self._session.member_state and self._session.active:
            if self._task_end is not None and self._task_end():
                log.warning("member %r was not stopped by its Ray task: stopping it", self.my_id)
                await run_in_thread(self.stop)
                return
            await asyncio.sleep(TASK_CHECK_INTERVAL)

    def stop(self) -> None:
        """Hand all keys over, leave all groups, and send no more heartbeats. From now on no key is this member's.

        Waits until the callbacks for lost keys have returned and it has left, but not within a callback or an
        `owned_by` method of its own, which must return first.
        """
        self._stop(waits=not self._callbacks.is_inside())
        sigterm.remove(self)

    def _stop(self, waits: bool = True, at_most: float | None = None) -> bool:
        self._guard.leave()
        return self._session.stop(waits, at_most)

    def _hand_over(self) -> None:
        """Stop, and wait as long as nobody else may take the keys."""
        if not self._stop(at_most=self._session.lease_left()):
            log.warning("member %r: its lease ends, and callbacks for lost keys still run", self.my_id)

    def is_active(self) -> bool:
        """Whether it has been started, with a partition actor, and not stopped."""
        return self._session.active

    def heartbeat(self) -> None:
        """Send a heartbeat now. They go out by themselves; this is for loops in the seed's style."""
        if self._session.active:
            self._session.send_now()

    def __enter__(self) -> PartitionCoordinator:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> PartitionCoordinator:
        starting = asyncio.ensure_future(self.astart())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])  # else it would be started after all, and nobody would stop it
            await self.astop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    async def astart(self) -> None:
        """`start`, for asyncio."""
        self._mind_sigterm()
        await run_in_thread(self._start)

    async def astop(self) -> None:
        """`stop`, for asyncio."""
        await run_in_thread(self.stop)
        sigterm.remove(self)

    # -- groups -------------------------------------------------------------------------------------------------

    def join_group(
        self,
        group_id: str | None,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
        slot: bool | int | None = None,
    ) -> None:
        """Become a member. The first join makes the group; a later one sets the weight.

        Waits for the first view. When the partition actor is away or recovering and the view does not come in time, it
        warns with ``NoPlaceYet``, which tells how long that may last, and the group is joined as soon as possible. An
        empty or None group does nothing.

        `metadata` is a dict for those who call ``get_metadata`` of the partition actor; see there what they get. It is
        pickled by this call, to at most 64 KiB. None keeps what an earlier join said.

        `slot`: have a number that no other member of the group has at the same time, see the method `slot`. True asks
        for the lowest that nobody has or waits for, an ``int`` from 0 to 99999 for exactly that one, which members get
        in the order in which they asked. It does not wait for a slot that another has. None keeps what an earlier join
        said.

        Raises ``InvalidArgument``, ``NotStarted``, ``GroupModeConflict``, ``GroupFull``, and ``SessionSuperseded`` when
        another process has taken this id.
        """
        self._join_group(group_id, weight, metadata, exclusive, slot)

    def _join_group(
        self,
        group_id: str | None,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
        slot: bool | int | None = None,
        slots_of: str | None = None,
    ) -> None:
        """`join_group`; no two processes have the same slot of `slots_of`, by default the group's name."""
        if group_id is None or group_id == "":
            return
        arguments.check_text("group_id", group_id)
        arguments.check_weight(weight)
        packed = pack_metadata(metadata)
        arguments.check_mode(exclusive)
        number = None if slot is None else arguments.check_slot(slot, MAX_SLOT)
        space = group_id if slots_of is None else arguments.check_text("slots_of", slots_of)
        session = self._session
        session.member_state  # noqa: B018  # raises before the first start
        if isinstance(session, LocalSession) and slot is not None:
            session.slots[group_id] = number or 0
        with session.event():
            if not session.active:
                return  # in one step with the join: a session that leaves must join nothing
            if session.state(group_id) == "superseded":
                raise SessionSuperseded(f"member {self.my_id!r}: another process has this id in group {group_id!r}")
            joining = session.member_state
            joining.join(group_id, weight, packed, exclusive)
            if slot is not None:
                session.driver.want_slot(group_id, number, space)
            prompt = joining.node_drains or slot is not None  # the node may drain no more; the slot may be another's
            asked = joining.want_reply() if prompt else joining.answered + 1
            session.forget_failure()
        session.send_now()
        session.wait(
            lambda: (
                (session.state(group_id) != "joining" and self._knows_slot(group_id, slot, joining.answered >= asked))
                or isinstance(session.failure, GroupFull)
                or (joining.node_drains and joining.answered >= asked)
            )
        )
        failure, held = session.failure, session.member_state.groups.get(group_id)
        state = None if held is None else held.state
        if held is not None and state == "conflict":
            check_same_mode(group_id, bool(held.exclusive), exclusive)
        if state == "superseded":
            raise SessionSuperseded(f"member {self.my_id!r}: another process has this id in group {group_id!r}")
        if isinstance(failure, GroupFull) and state == "joining":
            with session.lock:
                session.member_state.groups.pop(group_id, None)
            raise failure
        if state == "member":
            log.info("joined partitioning group %s", group_id)
        else:
            self._warn(group_id)

    def _knows_slot(self, group: str, slot: bool | int | None, is_answered: bool) -> bool:
        """Whether a join need not wait for a slot: one that nobody has is granted soon."""
        return slot is None or not self._session.driver.is_slot_asked(group) or (slot is not True and is_answered)

    def slot(self, group_id: str) -> int | None:
        """The slot that this member may use now: a number that no other process may use, of those that have asked.

        Ask before each piece of work. None while it has not asked for one (see `join_group`), waits for it, has no
        lease, or is out of the group. A slot is lost with the lease, and asked for again. When this member leaves the
        group the next one gets it, after the callbacks for lost keys have returned. Raises ``InvalidArgument`` and
        ``NotStarted``.
        """
        return self._session.slot(arguments.check_text("group_id", group_id))

    def _warn(self, group: str) -> None:
        with self._session.lock:
            admits_at = self._session.member_state.admits_at
            seconds = None if admits_at is None else max(0.0, admits_at - self._session.now())
        what = f"member {self.my_id!r} has not been admitted to group {group!r} yet, and keeps trying"
        if seconds is not None:
            what += f": the partition actor has restarted, and admits nobody for another {seconds:.1f} s"
        elif self._session.member_state.node_drains:
            what += ": its node is draining"
        log.info(what)
        warnings.warn(NoPlaceYet(what, group, seconds), stacklevel=4)

    async def ajoin_group(
        self,
        group_id: str | None,
        weight: int = 1,
        metadata: dict[str, Any] | None = None,
        exclusive: bool | None = None,
        slot: bool | int | None = None,
    ) -> None:
        """`join_group`, for asyncio."""
        await run_in_thread(self.join_group, group_id, weight, metadata, exclusive, slot)

    def leave_group(self, group_id: str | None) -> None:
        """Hand this member's keys over and leave. Waits until it has left, or logs that this takes longer.

        It does not wait within a callback or an `owned_by` method of the group, which must return first.
        """
        if isinstance(self._session, LocalSession):
            self._session.slots.pop(group_id or "", None)
        if group_id is None or group_id == "" or not self._session.active:
            return
        arguments.check_text("group_id", group_id)
        with self._session.event() as driver:
            driver.leave(group_id)
        if self._callbacks.is_inside(group_id):
            return
        if self._session.wait(lambda: self._session.is_out(group_id)):
            log.info("left partitioning group %s", group_id)
        else:
            log.warning("member %r has not left group %r yet", self.my_id, group_id)

    async def aleave_group(self, group_id: str | None) -> None:
        """`leave_group`, for asyncio."""
        await run_in_thread(self.leave_group, group_id)

    def watch_group(self, group_id: str | None, callback: Callable[[GroupEvent], Any]) -> None:
        """Call `callback` with a ``GroupEvent`` at each change of a group that this member has joined.

        A group's callbacks run one at a time, in a thread of their own; groups do not wait for each other. What one
        raises is logged. If one returns an awaitable,
        that runs on the event loop on which it was registered. In an exclusive group the next owners of the keys that
        this member has lost start when the callbacks have returned. Before this member has joined the group a warning
        is logged, as the callback is not called until then. Raises ``InvalidArgument``.
        """
        if group_id is None or group_id == "":
            return
        arguments.check_text("group_id", group_id)
        arguments.check_callback(callback)
        if not self._session.is_local and self._session.is_out(group_id):
            log.warning(
                "member %r watches group %r and has not joined it: the callback is not called before join_group()",
                self.my_id,
                group_id,
            )
        self._callbacks.add_watcher(group_id, callback)

    def run_watchers(self) -> None:
        """Run the pending callbacks in this thread, for loops in the seed's style.

        On an event loop it leaves them to their own thread, as they may need that loop: await `arun_watchers` there.
        """
        self._callbacks.run_pending()

    async def arun_watchers(self) -> None:
        """`run_watchers`, for asyncio: returns when the callbacks have."""
        await run_in_thread(self.run_watchers)

    # -- keys ---------------------------------------------------------------------------------------------------

    def extract_my_subset(self, group_id: str | None, iterable: Iterable[Any]) -> Iterable[Any]:
        """The items of `iterable` that this member may work on now, as a list in their order.

        Joins the group if that has not been done. Returns ``[]`` when the lease has ended because the partition actor
        was away for too long or was shut down, while this member has no place yet (``NoPlaceYet``), and after
        `leave_group` or an operator's drain, until `join_group`. With an empty or None group it returns `iterable` as
        it is. Raises ``InvalidArgument``, ``NotStarted`` and what `join_group` raises.
        """
        if group_id is None or group_id == "":
            return iterable
        arguments.check_text("group_id", group_id)
        keys = arguments.check_items(iterable)
        if group_id not in self._session.member_state.groups and not self._session.driver.has_left(group_id):
            self.join_group(group_id)
        return self._session.share(group_id).of(keys)

    async def aextract_my_subset(self, group_id: str | None, iterable: Iterable[Any]) -> Iterable[Any]:
        """`extract_my_subset`, for asyncio."""
        return await run_in_thread(self.extract_my_subset, group_id, iterable)

    @overload
    def partition(self, group_id: str, items: Dataset, column: str) -> DatasetPartition: ...

    @overload
    def partition(self, group_id: str, items: Iterable[Any]) -> Partition: ...

    def partition(self, group_id: str, items: Any, column: str | None = None) -> Partition | DatasetPartition:
        """Bind `items` to a group, to ask cheaply again after a change, or to be told what is gained and lost.

        `items` is any iterable of keys, a numpy array of one dimension, an Arrow array, or a ``ray.data.Dataset``,
        whose `column` holds the keys and which Ray Data filters. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        arguments.check_text("group_id", group_id)
        share = partial(self._session.share, group_id)
        if is_dataset(items):
            return DatasetPartition(group_id, items, column, share)
        if column is not None:
            arguments.refuse("column", column, "None, unless items is a ray.data.Dataset")
        index: KeyIndex[Any] = KeyIndex(items, self._session.member_state.settings.hash_function)
        callbacks = self._callbacks
        changed = partial(callbacks.refresh, group_id)
        return Partition(group_id, index, share, changed, callbacks.add_listener, callbacks.remove_listener)

    def owns(self, group_id: str, key: object) -> bool:
        """Whether this member may work on `key` now. Raises ``InvalidArgument`` and ``NotStarted``."""
        return self._session.share(arguments.check_text("group_id", group_id)).has(key)

    def owner(self, group_id: str, key: object) -> str | None:
        """The id of the owner of `key` in the view held, or None. Raises ``InvalidArgument`` and ``NotStarted``."""
        return self._session.owner(arguments.check_text("group_id", group_id), key)

    def members(self, group_id: str) -> list[str]:
        """The ids of the members in the view held, sorted, or []. Raises ``InvalidArgument`` and ``NotStarted``."""
        return self._session.members(arguments.check_text("group_id", group_id))

    def epoch(self, group_id: str) -> Epoch | None:
        """``(incarnation, counter)`` of the view held, or None. Raises ``InvalidArgument`` and ``NotStarted``."""
        view = self._session.view(arguments.check_text("group_id", group_id))
        return None if view is None else view.epoch

    def fencing_token(self, group_id: str) -> int:
        """An int that grows with every epoch, for storage that refuses an older writer.

        0, which such storage always refuses, while it may not act. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        return self._session.token(arguments.check_text("group_id", group_id))

    # -- locks and leaders --------------------------------------------------------------------------------------

    def lock(self, name: str) -> Lock:
        """The lock of this name, which at most one process in the cluster holds, or several that share it.

        In the single-instance mode it is between the threads and tasks of this process. Raises ``InvalidArgument``.
        """
        return Lock(self._session, arguments.check_text("name", name))

    def elect(self, group_id: str, on_elected: Callable[[Elected], Any] | None = None) -> None:
        """Be a candidate for the lead of a group while this session lasts. Candidates lead in the order of their calls.

        `on_elected` is called with an ``Elected`` whenever this process begins to lead, as the callbacks of
        `watch_group` are. A leader that loses the lead because its lease has ended is a candidate again. A candidate
        need not be a member of the group. In the single-instance mode this process leads every group. Raises
        ``InvalidArgument`` and ``NotStarted``.
        """
        arguments.check_text("group_id", group_id)
        if on_elected is not None:
            arguments.check_callback(on_elected)
        self._session.elect(group_id, None if on_elected is None else Callback(on_elected))

    def is_leader(self, group_id: str) -> bool:
        """Whether this process leads a group now: check before each piece of a leader's work.

        At most one process in the cluster leads at a time. Raises ``InvalidArgument``.
        """
        return self._session.leads(arguments.check_text("group_id", group_id))

    def stand_down(self, group_id: str, withdraw: bool = False) -> bool:
        """Let the next candidate lead. Returns whether this process led.

        It stays a candidate, behind all others, unless it is to `withdraw`. Raises ``InvalidArgument``.
        """
        arguments.check_text("group_id", group_id)
        led, known = self._session.stand_down(group_id, arguments.check_flag("withdraw", withdraw))
        self._session.wait(known)
        return led

    async def astand_down(self, group_id: str, withdraw: bool = False) -> bool:
        """`stand_down`, for asyncio."""
        arguments.check_text("group_id", group_id)
        led, known = self._session.stand_down(group_id, arguments.check_flag("withdraw", withdraw))
        await self._session.wakeups.until(known, self._session.call_timeout)
        return led
