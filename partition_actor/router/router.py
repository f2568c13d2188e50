"""Calls the worker actor that owns a key, from any process on the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import ray
from ray.exceptions import GetTimeoutError, RayError

from partition_actor import arguments
from partition_actor.core.epochs import Epoch
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import NotStarted, PartitionError, TooManyCalls
from partition_actor.member.background import run_in_thread
from partition_actor.router.map import Batches, progress_bar
from partition_actor.router.retry import RetryState, refusal
from partition_actor.router.routing_table import GroupFollower, MemberActor, RoutingTable, first
from partition_actor.router.sent_calls import Retried, SentCall, SentCalls, find_anywhere, index_of
from partition_actor.settings import Settings


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
        self._sent = SentCalls()
        forget = self._sent.forget_released
        self._follower = GroupFollower(self.group, actor, namespace, settings or Settings(), limit, forget)
        self._counts = self._follower.counts

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
        self._sent.forget_released()

    async def astart(self) -> None:
        """`start`, for asyncio."""
        await run_in_thread(self.start)

    async def astop(self) -> None:
        """`stop`, for asyncio."""
        await run_in_thread(self.stop)

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
        return self._find(self._retry_state(key, "actor"), needs_place=False)[0].handle

    # -- calls --------------------------------------------------------------------------------------------------

    def call(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call ``method(*args, **kwargs)`` of the actor that owns `key`; returns Ray's reference to its result.

        As with Ray, a method of several results gives a list of references, and a generator a streaming generator,
        which is not retried. Returns at once when the owner is known and takes another call; otherwise it blocks, as
        the class describes, so use `acall` on an event loop. Use `get` in place of ``ray.get`` to have the call
        retried; do not change the arguments until then. Raises ``NoOwner``, ``MemberHasNoActor``, ``TooManyCalls``,
        ``NotStarted``, and ``InvalidArgument`` when the actor has no such method, or one that returns nothing.
        """
        self._counts.calls += 1
        actor = self._follower.table.ready_actor(key)
        if actor is None or not actor.take_place():
            actor = self._find(self._retry_state(key, method))[0]
        sent = actor.send(method, args, kwargs, streams=True)
        if isinstance(sent, ray.ObjectRef):
            self._sent.add(SentCall((sent,), actor, key, method, args, kwargs))
        elif isinstance(sent, list):
            self._sent.add(SentCall(tuple(sent), actor, key, method, args, kwargs))
        return sent

    def get(self, reference: ray.ObjectRef[Any], timeout: float | None = None) -> Any:
        """The result of a `call`, which is retried, as the class describes, when it was refused or its owner died.

        It is retried once for all who ask for it in this process: each `get` of the reference, by any thread, has the
        same result or error. Only one process may ask. The latest 10,000 calls are remembered, with 64 MB of arguments,
        until their results are taken; a call that was forgotten is not repeated after its owner's death, nor after a
        refusal if its arguments take more than 64 kB.

        `timeout` is in seconds and covers all tries. Raises what the method raises,
        ``ray.exceptions.GetTimeoutError``, ``InvalidArgument``, and the errors that the class describes.
        """
        if not isinstance(reference, ray.ObjectRef):
            arguments.refuse("reference", reference, "what `call` has returned")
        deadline = None if timeout is None else time.monotonic() + timeout
        call = find_anywhere(reference)
        if call is None or call.retried is None:
            try:
                result = ray.get(reference, timeout=timeout)
            except GetTimeoutError:
                raise
            except RayError as error:
                retried = self._retried(reference, call, error)
            else:
                if call is not None:
                    self._sent.forget(reference)
                return result
        else:
            retried = call.retried
        return retried.get(index_of(reference), deadline)

    def _retried(self, reference: ray.ObjectRef[Any], call: SentCall | None, error: RayError) -> Retried:
        """What becomes of a call that failed. Raises what ends it at once."""
        refused = refusal(error, reference, None if call is None else call.method)
        repeatable = call is not None and call.method in self._repeatable
        if call is None and refused is not None:
            if refused.call is None:
                raise error
            call = SentCall((reference,), None, *refused.call)
        elif call is None:
            call = SentCall((reference,), None, None, "call", (), {})
        state = RetryState(self.group, call.key, call.method, self._timeout, self._retries, repeatable, self._counts)
        table = self._follower.table
        try:
            pause = state.failed(error, reference, call.actor, table)
        except (PartitionError, RayError):
            self._sent.forget(reference)
            raise
        again = replace(call, retried=Retried(self._find_after, state, call, pause, table))
        return self._sent.retried(reference, again)

    async def acall(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Await the result of ``method(*args, **kwargs)`` of the actor that owns `key`; retries as the class describes.

        A method of several results gives a list of them. Raises what the method raises, ``InvalidArgument`` when the
        actor has no such method, or one that returns nothing or is a generator, and the errors that the class
        describes.
        """
        self._counts.calls += 1
        table = self._follower.table
        actor = table.ready_actor(key)
        if actor is not None and not actor.take_place():
            actor = None
        state: RetryState | None = None
        while True:
            if actor is None:
                state = state or self._retry_state(key, method)
                actor, table = await self._afind(state)
            sent = actor.send(method, args, kwargs)
            try:
                result = await (sent if isinstance(sent, ray.ObjectRef) else asyncio.gather(*sent))
            except RayError as error:
                actor.forget(sent)
                state = state or self._retry_state(key, method)
                pause = state.failed(error, first(sent), actor, table)
            else:
                actor.forget(sent)
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
        Items whose owner changes are grouped and sent again, as the class describes. Calls at an owner that is full of
        other calls wait or raise, as the class describes; those of this `map` it waits for.

        `progress` shows a bar; by default only if standard error is a terminal and rich is installed. A call's error is
        raised and ends the iteration; with `return_exceptions` it is yielded in place of the result, and the other
        calls go on. Raises ``InvalidArgument`` and ``NotStarted``.
        """
        values = arguments.check_items(items)
        arguments.check_number("in_flight", in_flight, least=1)
        arguments.check_number("chunk", chunk, least=1)
        self._check_started()
        state: Callable[[Any], RetryState] = lambda key: self._retry_state(key, method)  # noqa: E731
        batches = Batches(self._follower, state, self._time_for_place, method, key, in_flight, chunk)
        return batches.run(values, progress_bar(method, len(values), progress), return_exceptions)

    # -- insides; what waits exists for threads and for asyncio -------------------------------------------------

    def _retry_state(self, key: object, method: str) -> RetryState:
        self._check_started()
        repeatable = method in self._repeatable
        return RetryState(self.group, key, method, self._timeout, self._retries, repeatable, self._counts)

    def _check_started(self) -> None:
        if not self._follower.is_active:
            raise NotStarted(f"router of group {self.group!r}: call start() first, or use `with Router(...)`")

    def _find(
        self, state: RetryState, deadline: float | None = None, *, needs_place: bool = True
    ) -> tuple[MemberActor, RoutingTable]:
        """The owner's actor, where a place has been taken if the call `needs_place`."""
        while True:
            since, table = time.monotonic(), self._follower.table
            actor = state.find(table)
            if actor is None:
                self._wait(state, table, None, deadline)
            elif not needs_place or actor.take_place():
                return actor, table
            else:
                seconds = _until(deadline, self._time_for_place(state, actor), state)
                if calls := list(actor.calls):
                    ray.wait(calls, num_returns=1, timeout=seconds, fetch_local=False)
                else:
                    time.sleep(min(0.001, seconds))  # other threads are about to send as many calls as are allowed
                state.spend(time.monotonic() - since)

    def _find_after(
        self, state: RetryState, table: RoutingTable, due: float, deadline: float | None
    ) -> tuple[MemberActor, RoutingTable]:
        """`_find`, when `due` by ``time.monotonic`` has come or there is another table than this."""
        self._check_started()
        if table is self._follower.table:
            self._wait(state, table, max(0.0, due - time.monotonic()), deadline)
        return self._find(state, deadline)

    async def _afind(self, state: RetryState) -> tuple[MemberActor, RoutingTable]:
        pause = 0.001
        while True:
            since, table = time.monotonic(), self._follower.table
            actor = state.find(table)
            if actor is None:
                await self._await(state, table)
            elif actor.take_place():
                return actor, table
            else:
                await asyncio.sleep(min(pause, self._time_for_place(state, actor)))
                state.spend(time.monotonic() - since)
                pause = min(2 * pause, 0.05)

    def _time_for_place(self, state: RetryState, actor: MemberActor) -> float:
        if not self._waits or state.is_out_of_time:
            raise self._counts.failed(
                TooManyCalls(
                    f"{state}: its owner {actor.member_id!r} has {len(actor.calls)} calls of this router under way, "
                    f"and {actor.limit} are allowed"
                )
            )
        return state.time_to_wait()

    def _wait(
        self, state: RetryState, table: RoutingTable, pause: float | None = None, deadline: float | None = None
    ) -> None:
        """Wait for another table than this, at most `pause` seconds; None: as long as the call may."""
        if pause != 0:
            since = time.monotonic()
            self._follower.wait(table, _until(deadline, state.time_to_wait(pause), state))
            state.spend(time.monotonic() - since)

    async def _await(self, state: RetryState, table: RoutingTable, pause: float | None = None) -> None:
        if pause != 0:
            since = time.monotonic()
            await self._follower.await_change(table, state.time_to_wait(pause))
            state.spend(time.monotonic() - since)


def _until(deadline: float | None, seconds: float, state: RetryState) -> float:
    """`seconds`, or less if less is left until `deadline`. Raises ``GetTimeoutError`` if nothing is."""
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        raise GetTimeoutError(f"{state}: no result in time; it is being retried")
    return min(seconds, left)
