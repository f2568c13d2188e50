"""Calls the worker actor that owns a key, from any process on the cluster."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError

from partition_actor import arguments
from partition_actor.core.epochs import Epoch
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import NotStarted, TooManyCalls
from partition_actor.router.map import Batches, progress_bar
from partition_actor.router.retry import RetryState, refusal
from partition_actor.router.routing_table import GroupFollower, MemberActor, RoutingTable
from partition_actor.settings import Settings

REMEMBERED = 10_000
"""How many of the latest calls of repeatable methods `get` can repeat."""
SentCall = tuple[MemberActor, Any, str, tuple[Any, ...], dict[str, Any]]
"""Where a call was sent, its key, method, and positional and keyword arguments."""


class Router:
    """Sends calls to whichever member of a group owns their key; any process may have one, member or not.

    ::

        with Router("tenants") as router:
            reference = router.call("acme", "bill", "acme", 12.5)   # worker.bill("acme", 12.5), at the owner of "acme"
            bill = router.get(reference)
            bill = await router.acall("acme", "bill", "acme", 12.5)
            for orders, result in router.map("ship", orders, key=lambda order: order.tenant):
                ...

    A router receives each new view of the group by push, as members do. Members that are actors can be called; each
    registers its handle when it joins. Workers refuse calls for keys that are not theirs if the method has
    ``owned_by``; without it a call may reach a worker that has just lost the key.

    What can fail, and what is retried:

    - A refused call has not run. It is sent to the owner in a newer view; to another member at most `retries` times.
    - While no member may work on the key (an empty group, a hand-off in progress, an owner that is dead and not yet
      replaced) a call waits, at most `timeout` seconds in all, and then raises ``NoOwner``: it has not run.
    - A call whose owner died may have run. It is repeated, at most `retries` times, if its method is in `repeatable`,
      the names of the methods that are safe to run twice; otherwise it raises ``CallMayHaveRun``.
    - At most `max_calls` calls of this router are under way at one owner. Another one waits, at most `timeout` seconds,
      or raises ``TooManyCalls`` at once if `when_full` is "raise".
    - What the method raises comes back as with Ray.

    `call` returns Ray's own reference, so it costs what a call by handle costs. Nothing can replace the result behind
    that reference, so it is `get` that retries; `acall` and `map` retry by themselves.

    `actor` is the partition actor's name or handle, in `namespace`. `settings` are those of ``PartitionCoordinator``.
    Any thread may call any method. A worker must not wait for a call to itself: it asks `owner` first. The constructor
    raises ``InvalidArgument``.
    """

    def __init__(
        self,
        group: str,
        actor: Any = NAME,
        namespace: str = NAMESPACE,
        settings: Settings | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 5,
        repeatable: Iterable[str] = (),
        max_calls: int = 1000,
        when_full: Literal["wait", "raise"] = "wait",
    ) -> None:
        arguments.check_actor(actor, namespace, settings)
        if when_full not in ("wait", "raise"):
            arguments.refuse("when_full", when_full, "'wait' or 'raise'")
        self.group = arguments.check_text("group", group)
        self._timeout = arguments.check_seconds("timeout", timeout)
        self._retries = arguments.check_number("retries", retries, least=0)
        self._repeatable = frozenset(arguments.check_items(repeatable))
        self._waits = when_full == "wait"
        limit = arguments.check_number("max_calls", max_calls, least=1)
        self._follower = GroupFollower(self.group, actor, namespace, settings or Settings(), limit)
        self._remembered: OrderedDict[bytes, SentCall] = OrderedDict()

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect and follow the group; waits at most `call_timeout` for its first view.

        If the partition actor cannot be reached, this is logged and the router keeps trying. Raises ``GroupFull``: a
        router is one of the sessions that `max_members` limits.
        """
        self._follower.start()

    def stop(self) -> None:
        """Stop following the group. Calls under way go on."""
        self._follower.stop()

    async def astart(self) -> None:
        """`start`, for asyncio."""
        await asyncio.to_thread(self.start)

    async def astop(self) -> None:
        """`stop`, for asyncio."""
        await asyncio.to_thread(self.stop)

    def __enter__(self) -> Router:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Router:
        await self.astart()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.astop()

    # -- what is known ------------------------------------------------------------------------------------------

    def owner(self, key: object) -> str | None:
        """The id of the member that owns `key` in the latest view; None when no member does. Never waits."""
        return self._follower.table.owner(key)

    def members(self) -> list[str]:
        """The ids of the group's members in the latest view, sorted. Never waits."""
        ring = self._follower.table.ring
        return [] if ring is None else list(ring.members)

    def epoch(self) -> Epoch | None:
        """``(incarnation, counter)`` of the latest view; None when there is none. Never waits."""
        return self._follower.table.epoch

    def actor(self, key: object) -> Any:
        """The handle of the worker actor that owns `key`; it does not keep the actor alive.

        Waits at most `timeout` seconds for an owner. Raises ``NoOwner``, ``MemberHasNoActor`` and ``NotStarted``.
        """
        return self._find(self._retry_state(key, "actor"), needs_room=False)[0].handle

    # -- calls --------------------------------------------------------------------------------------------------

    def call(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> ray.ObjectRef[Any]:
        """Call ``method(*args, **kwargs)`` of the actor that owns `key`; returns Ray's reference to its result.

        Returns at once when the owner is known and takes another call; otherwise it blocks, as the class describes, so
        use `acall` on an event loop. Use `get` in place of ``ray.get`` to have the call retried. Raises ``NoOwner``,
        ``MemberHasNoActor``, ``TooManyCalls``, ``NotStarted``, and ``InvalidArgument`` when the actor has no such
        method.
        """
        actor = self._follower.table.ready_actor(key) or self._find(self._retry_state(key, method))[0]
        reference = actor.send(method, args, kwargs)
        if method in self._repeatable:
            self._remember(reference, (actor, key, method, args, kwargs))
        return reference

    def get(self, reference: ray.ObjectRef[Any], timeout: float | None = None) -> Any:
        """The result of a `call`, which is retried, as the class describes, when it was refused or its owner died.

        After an owner's death, only the latest 10,000 calls of `repeatable` methods can be repeated. `timeout` is in
        seconds and covers all tries. Raises what the method raises, ``ray.exceptions.GetTimeoutError``,
        ``InvalidArgument``, and the errors that the class describes.
        """
        if not isinstance(reference, ray.ObjectRef):
            arguments.refuse("reference", reference, "what `call` has returned")
        deadline = None if timeout is None else time.monotonic() + timeout
        known = self._remembered.pop(reference.binary(), None)
        try:
            return ray.get(reference, timeout=timeout)
        except GetTimeoutError:
            if known is not None:
                self._remember(reference, known)
            raise
        except RayError as error:
            refused = refusal(error, reference)
            if known is not None:
                actor, key, method, args, kwargs = known
            elif refused is not None and refused.call is not None:
                actor, (key, method, args, kwargs) = None, refused.call
            else:
                actor, key, method, args, kwargs = None, None, "call", (), {}
            state = self._retry_state(key, method, repeatable=known is not None)
            table = self._follower.table
            pause = state.failed(error, reference, actor, table)
        while True:
            self._wait(state, table, pause)
            actor, table = self._find(state)
            reference = actor.send(method, args, kwargs)
            try:
                return ray.get(reference, timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except RayError as error:  # `failed` raises GetTimeoutError as it is
                pause = state.failed(error, reference, actor, table)

    async def acall(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Await the result of ``method(*args, **kwargs)`` of the actor that owns `key`; retries as the class describes.

        Raises what the method raises, and the errors that the class describes.
        """
        table = self._follower.table
        actor = table.ready_actor(key)
        state: RetryState | None = None
        while True:
            if actor is None:
                state = state or self._retry_state(key, method)
                actor, table = await self._afind(state)
            reference = actor.send(method, args, kwargs)
            try:
                result = await reference
            except RayError as error:
                actor.calls.pop(reference, None)
                state = state or self._retry_state(key, method, actor.member_id)
                pause = state.failed(error, reference, actor, table)
            else:
                actor.calls.pop(reference, None)
                return result
            actor = None
            await self._await(state, table, pause)

    def map(
        self,
        method: str,
        items: Iterable[Any],
        *,
        key: Callable[[Any], object] | None = None,
        in_flight: int = 16,
        chunk: int = 1000,
        progress: bool | None = None,
        return_exceptions: bool = False,
    ) -> Iterator[tuple[list[Any], Any]]:
        """Call ``method(items)`` of each owner, with a list of the items whose keys it owns.

        Yields ``(items, result)`` for each call, in the order of completion. `key` maps an item to its key; by default
        the item is the key. A call has at most `chunk` items, and at most `in_flight` calls are under way at a time.
        Items whose owner changes are grouped and sent again, as the class describes.

        `progress` shows a bar; by default only if standard error is a terminal and rich is installed. A call's error is
        raised and ends the iteration; with `return_exceptions` it is yielded in place of the result, and the other
        calls go on. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        values = arguments.check_items(items)
        arguments.check_number("in_flight", in_flight, least=1)
        arguments.check_number("chunk", chunk, least=1)
        self._check_started()
        batches = Batches(self._follower, lambda key: self._retry_state(key, method), method, key, in_flight, chunk)
        return batches.run(values, progress_bar(method, len(values), progress), return_exceptions)

    # -- insides; what waits exists for threads and for asyncio -------------------------------------------------

    def _retry_state(
        self, key: object, method: str, sent_to: str | None = None, *, repeatable: bool | None = None
    ) -> RetryState:
        self._check_started()
        may_run_twice = method in self._repeatable if repeatable is None else repeatable
        return RetryState(self.group, key, method, self._timeout, self._retries, may_run_twice, sent_to)

    def _check_started(self) -> None:
        if not self._follower.is_active:
            raise NotStarted(f"router of group {self.group!r}: call start() first, or use `with Router(...)`")

    def _remember(self, reference: ray.ObjectRef[Any], call: SentCall) -> None:
        self._remembered[reference.binary()] = call
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    def _find(self, state: RetryState, *, needs_room: bool = True) -> tuple[MemberActor, RoutingTable]:
        while True:
            since, table = time.monotonic(), self._follower.table
            actor = state.find(table)
            if actor is None:
                self._wait(state, table)
            elif not needs_room or actor.has_room():
                return actor, table
            else:
                calls = list(actor.calls)
                ray.wait(calls, num_returns=1, timeout=self._time_for_room(state, actor), fetch_local=False)
                state.spend(time.monotonic() - since)

    async def _afind(self, state: RetryState) -> tuple[MemberActor, RoutingTable]:
        pause = 0.001
        while True:
            since, table = time.monotonic(), self._follower.table
            actor = state.find(table)
            if actor is None:
                await self._await(state, table)
            elif actor.has_room():
                return actor, table
            else:
                await asyncio.sleep(min(pause, self._time_for_room(state, actor)))
                state.spend(time.monotonic() - since)
                pause = min(2 * pause, 0.05)

    def _time_for_room(self, state: RetryState, actor: MemberActor) -> float:
        if not self._waits or state.is_out_of_time:
            raise TooManyCalls(
                f"{state}: its owner {actor.member_id!r} has {len(actor.calls)} calls of this router under way, "
                f"and {actor.limit} are allowed"
            )
        return state.time_to_wait()

    def _wait(self, state: RetryState, table: RoutingTable, pause: float | None = None) -> None:
        """Wait for another table than this, at most `pause` seconds; None: as long as the call may."""
        if pause != 0:
            since = time.monotonic()
            self._follower.wait(table, state.time_to_wait(pause))
            state.spend(time.monotonic() - since)

    async def _await(self, state: RetryState, table: RoutingTable, pause: float | None = None) -> None:
        if pause != 0:
            since = time.monotonic()
            await self._follower.await_change(table, state.time_to_wait(pause))
            state.spend(time.monotonic() - since)
