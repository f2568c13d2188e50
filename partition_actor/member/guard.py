"""Methods that run only where their key is owned: the worker's side of a ``Router``'s call.

A router may be behind: a view has to reach it first. So the worker has the last word, and it has it twice. Before the
method runs, this process must be permitted to work on the key (in exclusive groups by rule 4 of
``docs/guarantees.md``). And while it runs in an exclusive group it counts as a callback for a lost key (rule 3): the
next owner of the key starts when the method has returned.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray

from partition_actor import arguments, clock
from partition_actor.core.epochs import Epoch
from partition_actor.errors import InvalidArgument, NotOwner
from partition_actor.member.connection import Connection
from partition_actor.member.notifier import Notifier

Method = TypeVar("Method", bound=Callable[..., Any])

LOOK_AGAIN = 0.1
"""Seconds after which a callback that waits for calls looks whether its lease still runs."""

_guards: dict[Guard, None] = {}
"""Those of every ``PartitionCoordinator`` of this process that is started."""


def owned_by(
    parameter: str,
    group: str | Callable[[Any], str] | None = None,
    *,
    each: bool = False,
    key: Callable[[Any], object] | None = None,
) -> Callable[[Method], Method]:
    """Let a method of a worker run only when its worker may work on the key that `parameter` holds.

    ::

        class Worker:
            def __init__(self):
                self.coordinator = PartitionCoordinator()
                self.coordinator.start()
                self.coordinator.join_group("tenants", exclusive=True)

            @owned_by("tenant", group="tenants")
            def bill(self, tenant, amount): ...

            @owned_by("orders", group="tenants", each=True, key=lambda order: order.tenant)
            async def ship(self, orders): ...  # for Router.map

    The method may be sync or async. `group` is a name, a function of the worker that returns one, or None for the only
    group that this process has joined. With `each` the parameter holds many items, and all of their keys must be this
    worker's. `key` makes a key of the parameter's value, or of each item; by default it is the key.

    Otherwise the method does not run and ``NotOwner`` is raised. In an exclusive group a key that is lost meanwhile
    goes to its next owner when the method has returned, or by force when that takes longer than `handoff_timeout`.

    Raises ``InvalidArgument`` when it decorates no method with such a parameter, or a generator.
    """
    arguments.check_text("parameter", parameter)

    def decorate(method: Method) -> Method:
        check = _Check(method, parameter, group, each, key)
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def guarded_async(self: Any, *args: Any, **kwargs: Any) -> Any:
                with check.permit(self, args, kwargs):
                    return await method(self, *args, **kwargs)

            return guarded_async  # type: ignore[return-value]

        @functools.wraps(method)
        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            with check.permit(self, args, kwargs):
                return method(self, *args, **kwargs)

        return guarded  # type: ignore[return-value]

    return decorate


class _Check:
    """What `owned_by` finds out before a method runs."""

    def __init__(
        self,
        method: Callable[..., Any],
        parameter: str,
        group: str | Callable[[Any], str] | None,
        each: bool,
        key: Callable[[Any], object] | None,
    ) -> None:
        if not callable(method) or inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
            arguments.refuse("method", method, "a sync or async method that returns once")
        if group is not None and not callable(group):
            arguments.check_text("group", group)
        parameters = inspect.signature(method).parameters
        names = list(parameters)[1:]
        if parameter not in names:
            arguments.refuse("parameter", parameter, f"one of the parameters of {method.__qualname__}: {names}")
        kind = parameters[parameter].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            arguments.refuse("parameter", parameter, "a parameter that takes one value")
        self._name = parameter
        self._at = sys.maxsize if kind is inspect.Parameter.KEYWORD_ONLY else names.index(parameter)
        self._default = parameters[parameter].default
        self._method, self._group, self._each, self._key = method.__name__, group, each, key

    @contextmanager
    def permit(self, worker: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """A time in which the method may run. Raises ``NotOwner``."""
        keys = self._keys(args, kwargs)
        group = self._group(worker) if callable(self._group) else self._group
        call = _admit(group, keys)
        if isinstance(call, NotOwner):
            call.task = ray.get_runtime_context().get_task_id() if ray.is_initialized() else None
            call.call = (keys[0] if keys else None, self._method, args, kwargs)
            raise call
        try:
            yield
        except NotOwner as error:
            error.task = None  # raised by what the method called: some of it has run
            raise
        finally:
            if call is not None:
                call.end()

    def _keys(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        value = kwargs.get(self._name, args[self._at] if self._at < len(args) else self._default)
        if value is inspect.Parameter.empty:
            raise TypeError(f"{self._method}() missing 1 required argument: {self._name!r}")
        items = arguments.check_items(value) if self._each else [value]
        return items if self._key is None else [self._key(item) for item in items]


class Guard:
    """Lets calls run by what one ``PartitionCoordinator`` may do; one that `is_alone` may do everything."""

    def __init__(self, connection: Connection, notifier: Notifier, *, is_alone: bool) -> None:
        self.is_alone = is_alone
        self._connection = connection
        self._notifier = notifier
        self._running: dict[str, CallsUnderWay] = {}

    def enter(self) -> None:
        """Let calls ask this member."""
        _guards[self] = None

    def leave(self) -> None:
        """Let calls ask this member no more."""
        _guards.pop(self, None)

    def groups(self) -> list[str]:
        """The groups that it has joined, or waits to."""
        if not self._connection.was_started:
            return []
        groups = list(self._connection.member_state.groups.items())
        return [name for name, held in groups if held.state in ("joining", "member")]

    def epoch(self, group: str) -> Epoch | None:
        """The epoch of the view that it holds."""
        view = self._connection.member_state.view(group)
        return None if view is None else view.epoch

    def begin(self, group: str, keys: list[Any]) -> Call | None:
        """A call on these keys that may run, or None."""
        with self._connection.lock:
            member_state, now = self._connection.member_state, clock.now()
            view = member_state.acting(now, group)
            if view is None or not member_state.may_act(now, group, *keys):
                return None
            if not view.exclusive:
                return Call(keys, None)
            running = self._running.get(group)
            if running is None:
                running = self._running[group] = CallsUnderWay(group, self._connection)
                self._notifier.add(running)
            return running.begin(keys)


class Call:
    """One call that runs on its keys, in the thread that began it or on its event loop."""

    def __init__(self, keys: list[Any], running: CallsUnderWay | None) -> None:
        self.keys = keys
        self.thread = threading.get_ident()
        self._running = running

    def end(self) -> None:
        """It has returned."""
        if self._running is not None:
            self._running.end(self)


class CallsUnderWay:
    """The calls that run on keys of one exclusive group: to the notifier, callbacks for the keys among them lost."""

    def __init__(self, group: str, connection: Connection) -> None:
        self.group = group
        self._connection = connection
        self._ended = threading.Condition(connection.lock)
        self._calls: dict[Call, None] = {}

    def begin(self, keys: list[Any]) -> Call:
        """Note a call, while holding the connection's lock: no view is taken in between the check and this."""
        call = Call(keys, self)
        self._calls[call] = None
        return call

    def end(self, call: Call) -> None:
        """Note that a call has returned."""
        with self._ended:
            del self._calls[call]
            self._ended.notify_all()

    @property
    def is_watched(self) -> bool:
        """Whether there is any call to wait for."""
        return bool(self._calls)

    def tell_lost(self) -> None:
        """Wait until no call runs on a lost key, or the lease is over: rule 6 sees to it that it is, some time."""
        with self._ended:
            while self._holds_lost_keys():
                self._ended.wait(LOOK_AGAIN)

    def tell_gained(self) -> None:
        """Nothing to do."""

    def _holds_lost_keys(self) -> bool:
        member_state, here = self._connection.member_state, threading.get_ident()
        view = member_state.view(self.group)
        now = clock.now()
        if view is None or now >= member_state.acts_until(view):
            return False
        # Nobody can wait here for the end of a call that runs this very method, by `run_watchers`.
        return any(
            call.thread != here and not member_state.may_act(now, self.group, *call.keys) for call in self._calls
        )


def _admit(group: str | None, keys: list[Any]) -> Call | NotOwner | None:
    """A call that may run, the refusal, or None where one process alone owns everything."""
    joined = {guard: groups for guard in list(_guards) if (groups := guard.groups())}
    names = sorted({name for groups in joined.values() for name in groups})
    if group is None and len(names) > 1:
        raise InvalidArgument(f"group: got None, expected one of those that this process has joined: {names}")
    if not names and any(guard.is_alone for guard in list(_guards)):
        return None
    if group is None and not names:
        return NotOwner("this process is no member of any group")
    group = group or names[0]
    epoch: Epoch | None = None
    for guard, groups in joined.items():
        if group in groups:
            call = guard.begin(group, keys)
            if call is not None:
                return call
            epoch = max(filter(None, (epoch, guard.epoch(group))), default=None)
    shown = ", ".join(repr(each) for each in keys[:3]) + (", …" if len(keys) > 3 else "")
    refusal = NotOwner(f"this process may not work on {shown} of group {group!r} now; its view is of epoch {epoch}")
    refusal.epoch = epoch
    return refusal
