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
from partition_actor.core.messages import Epoch
from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.errors import NotStarted, TooManyCalls
from partition_actor.router.map import Batches, Progress
from partition_actor.router.retry import Delivery, refusal
from partition_actor.router.routing_table import GroupFollower, MemberActor, RoutingTable
from partition_actor.settings import Settings

REMEMBERED = 10_000
"""The latest calls of repeatable methods by `call` that `get` can repeat."""


class Router:
    """Sends calls to whichever member of a group owns their key; any process may have one, member or not.

    ::

        with Router("tenants") as router:
            reference = router.call("acme", "bill", "acme", 12.5)   # worker.bill("acme", 12.5), at the owner of "acme"
            bill = router.get(reference)
            bill = await router.acall("acme", "bill", "acme", 12.5)
            for orders, result in router.map("ship", orders, key=lambda order: order.tenant):
                ...

    It follows the group's views by push, as members do. Members that are actors can be called; each passes its handle
    on by itself when it joins. Workers refuse calls for keys that are not theirs with ``owned_by``; without it a call
    may reach a worker that has just lost the key.

    What fails, and how far it is retried:

    - A refused call has not run. It goes to the owner by a newer view; at most `retries` times to another member.
    - While nobody may work on the key (an empty group, a hand-off in progress, an owner that is dead and not replaced
      yet) a call waits, at most `timeout` seconds in all, and then raises ``NoOwner``: it has not run.
    - A call whose owner died may have run. It is repeated, at most `retries` times, when its method is one of
      `repeatable`, the names of the methods that are safe to run twice; else ``CallMayHaveRun`` is raised.
    - No more than `max_calls` calls of this router are under way at one owner. One more waits, at most `timeout`
      seconds, or raises ``TooManyCalls`` at once when `when_full` is "raise".
    - What the method raises comes back as with Ray.

    `call` returns Ray's own reference, and so costs what a call by handle does. Nothing can put another result in the
    place of a refusal there; so it is `get` that retries, and `acall` and `map` retry by themselves.

    `actor` is the partition actor's name or handle, in `namespace`. `settings` count as with ``PartitionCoordinator``.
    Any thread may call any method. A worker must not wait for a call to itself: ask `owner` first.

    Raises ``InvalidArgument``.
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
        self._remembered: OrderedDict[bytes, tuple[MemberActor, Any, str, tuple[Any, ...], dict[str, Any]]] = (
            OrderedDict()
        )

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect and begin to follow the group; waits at most `call_timeout` for the first word of it.

        A partition actor that cannot be reached is logged, and sought on. Raises ``GroupFull``: a router counts among
        the sessions that the partition actor serves.
        """
        self._follower.start()

    def stop(self) -> None:
        """Follow the group no more. Calls that are under way go on."""
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
        """The id of the member whose `key` is by the view held; None when none is. Never waits."""
        return self._follower.routes.owner(key)

    def members(self) -> list[str]:
        """The ids of the group's members by the view held, sorted. Never waits."""
        ring = self._follower.routes.ring
        return [] if ring is None else list(ring.members)

    def epoch(self) -> Epoch | None:
        """``(incarnation, counter)`` of the view held, or None. Never waits."""
        return self._follower.routes.epoch

    def actor(self, key: object) -> Any:
        """The handle of the worker actor that owns `key`; it does not keep the actor alive.

        Waits for an owner at most `timeout` seconds. Raises ``NoOwner``, ``MemberHasNoActor`` and ``NotStarted``.
        """
        return self._find(self._delivery(key, "actor")).handle

    # -- calls --------------------------------------------------------------------------------------------------

    def call(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> ray.ObjectRef[Any]:
        """Call ``method(*args, **kwargs)`` of the actor that owns `key`; returns Ray's reference to its result.

        Returns at once when the owner is known. Otherwise it waits, as the class says: use `acall` on an event loop.
        Use `get` in the place of ``ray.get`` for what is to be retried. Raises ``NoOwner``, ``MemberHasNoActor``,
        ``TooManyCalls``, ``NotStarted``, and ``InvalidArgument`` when the actor has no such method.
        """
        routes = self._follower.routes
        owner = routes.owner(key)
        target = None if owner is None else routes.targets.get(owner)
        if target is None or target.lost or len(target.calls) >= target.limit:
            target = self._find(self._delivery(key, method), room=True)
        reference = target.send(method, args, kwargs)
        if method in self._repeatable:
            self._remember(reference, (target, key, method, args, kwargs))
        return reference

    def get(self, reference: ray.ObjectRef[Any], timeout: float | None = None) -> Any:
        """The result of a `call`, which is sent again, as the class says, when it was refused or its owner died.

        What is repeated after an owner's death are the latest 10,000 calls of `repeatable` methods. `timeout` is in
        seconds, over all tries. Raises what the method raises, ``ray.exceptions.GetTimeoutError``, ``InvalidArgument``,
        and the errors that the class describes.
        """
        if not isinstance(reference, ray.ObjectRef):
            arguments.refuse("reference", reference, "what `call` has returned")
        until = None if timeout is None else time.monotonic() + timeout
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
                target, key, method, args, kwargs = known
            elif refused is not None and refused.call is not None:
                target, (key, method, args, kwargs) = None, refused.call
            else:
                target, key, method, args, kwargs = None, None, "call", (), {}
            delivery = self._delivery(key, method, repeatable=known is not None)
            routes = self._follower.routes
            pause = delivery.failed(error, reference, target, routes)
        self._wait(delivery, routes, pause)
        return self._deliver(delivery, args, kwargs, until)

    async def acall(self, key: object, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Await the result of ``method(*args, **kwargs)`` of the actor that owns `key`, with retries as the class says.

        Raises what the method raises, and the errors that the class describes.
        """
        delivery: Delivery | None = None
        while True:
            routes = self._follower.routes
            owner = routes.owner(key)
            target = None if owner is None else routes.targets.get(owner)
            if delivery is not None or target is None or target.lost or len(target.calls) >= target.limit:
                delivery = delivery or self._delivery(key, method)
                target, routes = await self._afind(delivery)
            reference = target.send(method, args, kwargs)
            try:
                result = await reference
            except RayError as error:
                target.calls.pop(reference, None)
                delivery = delivery or self._delivery(key, method, target)
                pause = delivery.failed(error, reference, target, routes)
            else:
                target.calls.pop(reference, None)
                return result
            await self._await(delivery, routes, pause)

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
        """Call ``method(list of items)`` of each owner with the items that are its own; yields them with the result.

        Yields ``(items, result)`` in the order of completion. `key` makes a key of an item; by default it is the key.
        An owner gets at most `chunk` items a call, and at most `in_flight` calls are under way at a time. Items whose
        owner changes are grouped anew and sent again, as the class says.

        `progress` shows a bar; by default where standard error is a terminal and rich is installed. What a call ends
        with is raised and ends the iteration; with `return_exceptions` it is yielded in the place of the result, and
        the rest goes on.
        """
        values = arguments.check_items(items)
        arguments.check_number("in_flight", in_flight, least=1)
        arguments.check_number("chunk", chunk, least=1)
        self._check_started()
        batches = Batches(self._follower, lambda key: self._delivery(key, method), method, key, in_flight, chunk)
        return batches.run(values, Progress(method, len(values), progress), return_exceptions)

    # -- insides ------------------------------------------------------------------------------------------------

    def _delivery(
        self, key: object, method: str, target: MemberActor | None = None, *, repeatable: bool | None = None
    ) -> Delivery:
        self._check_started()
        known = method in self._repeatable if repeatable is None else repeatable
        return Delivery(
            self.group, key, method, patience=self._timeout, retries=self._retries, repeatable=known, target=target
        )

    def _check_started(self) -> None:
        if not self._follower.is_active:
            raise NotStarted(f"router of group {self.group!r}: call start() first, or use `with Router(...)`")

    def _remember(
        self, reference: ray.ObjectRef[Any], call: tuple[MemberActor, Any, str, tuple[Any, ...], dict[str, Any]]
    ) -> None:
        self._remembered[reference.binary()] = call
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    def _deliver(self, delivery: Delivery, args: Any, kwargs: Any, until: float | None) -> Any:
        while True:
            routes = self._follower.routes
            target = self._find(delivery, room=True)
            reference = target.send(delivery.method, args, kwargs)
            try:
                return ray.get(reference, timeout=None if until is None else max(0.0, until - time.monotonic()))
            except GetTimeoutError:
                raise
            except RayError as error:
                pause = delivery.failed(error, reference, target, routes)
            self._wait(delivery, routes, pause)

    # -- waiting, for threads and for asyncio -------------------------------------------------------------------

    def _find(self, delivery: Delivery, *, room: bool = False) -> MemberActor:
        while True:
            routes = self._follower.routes
            target = delivery.find(routes)
            since = time.monotonic()
            if target is None:
                self._follower.wait(routes, delivery.allowance())
            elif not room or self._has_room(target):
                return target
            else:
                calls = list(target.calls)
                ray.wait(calls, num_returns=1, timeout=self._patience_for_room(delivery, target), fetch_local=False)
            delivery.waited(since)

    async def _afind(self, delivery: Delivery) -> tuple[MemberActor, RoutingTable]:
        pause = 0.001
        while True:
            routes = self._follower.routes
            target = delivery.find(routes)
            since = time.monotonic()
            if target is None:
                await self._follower.await_change(routes, delivery.allowance())
            elif self._has_room(target):
                return target, routes
            else:
                await asyncio.sleep(min(pause, self._patience_for_room(delivery, target)))
                pause = min(2 * pause, 0.05)
            delivery.waited(since)

    def _has_room(self, target: MemberActor) -> bool:
        if target.is_full:
            target.count()
        return not target.is_full

    def _patience_for_room(self, delivery: Delivery, target: MemberActor) -> float:
        if not self._waits or delivery.is_over:
            raise TooManyCalls(
                f"{delivery}: its owner {target.member!r} has {len(target.calls)} calls of this router under way, "
                f"and {target.limit} are allowed"
            )
        return delivery.allowance()

    def _wait(self, delivery: Delivery, routes: RoutingTable, pause: float) -> None:
        if pause > 0:
            since = time.monotonic()
            self._follower.wait(routes, delivery.allowance(pause))
            delivery.waited(since)

    async def _await(self, delivery: Delivery, routes: RoutingTable, pause: float) -> None:
        if pause > 0:
            since = time.monotonic()
            await self._follower.await_change(routes, delivery.allowance(pause))
            delivery.waited(since)
