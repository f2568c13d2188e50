"""Methods that run only where their key is owned: the worker's side of a ``Router``'s call.

A router may hold an older view, so the worker checks each call. Before the method runs, this process must be permitted
to work on the key (in exclusive groups by rule 4 of ``docs/guarantees.md``). While it runs in an exclusive group it
counts as a callback for a lost key (rule 3): the next owner of the key starts when the method has returned.
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
from partition_actor.member.callbacks import Notifier
from partition_actor.member.session import Session
from partition_actor.member.wakeups import Wakeups

Method = TypeVar("Method", bound=Callable[..., Any])

LEASE_CHECK_INTERVAL = 0.1
"""Seconds after which a hand-off that waits for calls checks whether the lease still runs."""

_guards: dict[Guard, None] = {}
"""Those of the ``PartitionCoordinator`` objects of this process that are started, in order."""


def owned_by(
    parameter: str,
    group: str | Callable[[Any], str] | None = None,
    *,
    each: bool = False,
    key: Callable[[Any], object] | None = None,
) -> Callable[[Method], Method]:
    """Let a method of a worker run only when the worker may work on the key in `parameter`.

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

    The method may be sync or async. `group` is a name, a function that takes the worker and returns one, or None for
    the only group that this process has joined. With `each` the parameter holds many items, and the worker must own the
    keys of all. `key` is a function that makes a key of the parameter's value, or of each item; by default that is the
    key itself.

    When the worker does not own the key, ``NotOwner`` is raised and the method does not run. In an exclusive group a
    key that is lost while the method runs goes to its next owner when the method has returned, or after
    `handoff_timeout`.

    Raises ``InvalidArgument`` when what it decorates has no such parameter, or is a generator.
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
    """Checks a call of one method before it runs."""

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
        self._position = sys.maxsize if kind is inspect.Parameter.KEYWORD_ONLY else names.index(parameter)
        self._default = parameters[parameter].default
        self._method, self._group, self._each, self._key = method.__name__, group, each, key

    @contextmanager
    def permit(self, worker: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """Run the method within this. Raises ``NotOwner``."""
        keys = self._keys(args, kwargs)
        group = self._group(worker) if callable(self._group) else self._group
        end = _admit(group, keys)
        if isinstance(end, NotOwner):
            end.task = ray.get_runtime_context().get_task_id() if ray.is_initialized() else None
            end.call = (keys[0] if keys else None, self._method, args, kwargs)
            raise end
        try:
            yield
        except NotOwner as error:
            error.task = None  # raised by a call within the method, part of which has run
            raise
        finally:
            end()

    def _keys(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        value = kwargs.get(self._name, args[self._position] if self._position < len(args) else self._default)
        if value is inspect.Parameter.empty:
            raise TypeError(f"{self._method}() missing 1 required argument: {self._name!r}")
        items = arguments.check_items(value) if self._each else [value]
        return items if self._key is None else [self._key(item) for item in items]


class Guard:
    """Permits calls by what one ``PartitionCoordinator`` may work on."""

    def __init__(self, session: Session, notifier: Notifier) -> None:
        self.is_local = session.is_local
        self._session = session
        self._notifier = notifier
        self._running: dict[str, RunningCalls] = {}

    def enter(self) -> None:
        """Let calls ask this member."""
        _guards[self] = None

    def leave(self) -> None:
        """Let calls no longer ask this member."""
        _guards.pop(self, None)

    def groups(self) -> list[str]:
        """The groups of which it is a member, or waits to be one."""
        if not self._session.was_started:
            return []
        groups = list(self._session.member_state.groups.items())
        return [name for name, held in groups if held.state in ("joining", "member")]

    def epoch(self, group: str) -> Epoch | None:
        """The epoch of the view that it holds."""
        view = self._session.view(group)
        return None if view is None else view.epoch

    def begin(self, group: str, keys: list[Any]) -> Callable[[], None] | None:
        """Begin a call on these keys. Returns what to call when it has returned; None if it is not permitted."""
        with self._session.lock:
            member_state, now = self._session.member_state, clock.now()
            view = member_state.acting(now, group)
            if view is None or not member_state.may_act(now, group, *keys):
                return None
            if not view.exclusive:
                return lambda: None
            running = self._running.get(group)
            if running is None:
                running = self._running[group] = RunningCalls(group, self._session)
                self._notifier.add_listener(running)
            return running.begin(keys)


class RunningCalls:
    """The calls that run on keys of one exclusive group; the notifier lets a hand-off wait for those on lost keys."""

    def __init__(self, group: str, session: Session) -> None:
        self.group = group
        self._session = session
        self._ended = Wakeups(session.lock)
        self._calls: dict[object, tuple[int, list[Any]]] = {}
        """Of each call, the thread that began it, or that of its event loop, and its keys."""

    def begin(self, keys: list[Any]) -> Callable[[], None]:
        """Note a call. Returns what to call when it has returned.

        The caller holds the session's lock, so that no view comes between its check and this.
        """
        call = object()
        self._calls[call] = (threading.get_ident(), keys)
        return functools.partial(self._end, call)

    @property
    def is_listening(self) -> bool:
        """Whether any call runs."""
        return bool(self._calls)

    def tell_lost(self) -> None:
        """Wait until no call runs on a lost key, or the lease is over: the wait ends, by rule 6."""
        while not self._ended.wait(self._may_hand_off, LEASE_CHECK_INTERVAL):
            pass

    def tell_gained(self) -> None:
        """Nothing to do."""

    def _end(self, call: object) -> None:
        with self._session.lock:
            del self._calls[call]
            self._ended.wake()

    def _may_hand_off(self) -> bool:
        member_state, here, now = self._session.member_state, threading.get_ident(), clock.now()
        view = member_state.view(self.group)
        if view is None or now >= member_state.acts_until(view):
            return True
        # A call in this very thread runs the callbacks itself, by `run_watchers`: nobody can wait for its end here.
        return all(
            thread == here or member_state.may_act(now, self.group, *keys) for thread, keys in self._calls.values()
        )


def _admit(group: str | None, keys: list[Any]) -> Callable[[], None] | NotOwner:
    """Begin a call: what to call when it has returned, or the refusal. The single-instance mode permits every call."""
    joined = {guard: groups for guard in list(_guards) if (groups := guard.groups())}
    names = sorted({name for groups in joined.values() for name in groups})
    if group is None and len(names) > 1:
        raise InvalidArgument(f"group: got None, expected the name of a group that this process has joined: {names}")
    if not names and any(guard.is_local for guard in list(_guards)):
        return lambda: None
    if group is None and not names:
        return NotOwner("this process is no member of any group")
    group = group or names[0]
    epoch: Epoch | None = None
    for guard, groups in joined.items():
        if group in groups:
            end = guard.begin(group, keys)
            if end is not None:
                return end
            epoch = max(filter(None, (epoch, guard.epoch(group))), default=None)
    shown = ", ".join(repr(each) for each in keys[:3]) + (", …" if len(keys) > 3 else "")
    refusal = NotOwner(f"this process may not work on {shown} of group {group!r} now; its view is of epoch {epoch}")
    refusal.epoch = epoch
    return refusal
