"""Methods that run only where their key is owned: the worker's side of a ``Router``'s call.

A router may hold an older view, so the worker checks each call. Before the method runs, this process must be permitted
to work on the key (in exclusive groups by rule 4 of ``docs/guarantees.md``). While it runs in an exclusive group it
counts as a callback for a lost key (rule 3): the next owner of the key starts when the method has returned.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import ray

from partition_actor import arguments, ray_internals
from partition_actor.core.epochs import Epoch
from partition_actor.core.member_driver import GuardedCall
from partition_actor.errors import InvalidArgument, NotOwner
from partition_actor.member.callbacks import inside
from partition_actor.member.session import Session
from partition_actor.member.sizes import bytes_of

Method = TypeVar("Method", bound=Callable[..., Any])
Arguments = tuple[Any, ...]

CARRIED_BYTES = 65_536
"""A refusal brings arguments of about this size back, and no larger ones."""

_guards: WeakKeyDictionary[Guard, None] = WeakKeyDictionary()
"""Those of the ``PartitionCoordinator`` objects of this process that have been started, in order."""


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

    When the worker does not own the key, ``NotOwner`` is raised and the method does not run. A ``Router`` retries that
    if Ray called the method itself. If another method called it, be it a decorator or an override without `owned_by`,
    some of the worker's code has run, and the caller gets ``NotOwner``. So `owned_by` comes first of all decorators.

    In an exclusive group a key that is lost while the method runs goes to its next owner when the method has returned,
    or after `handoff_timeout`.

    Raises ``InvalidArgument`` when what it decorates has no such parameter, or is a generator.
    """
    arguments.check_text("parameter", parameter)

    def decorate(method: Method) -> Method:
        check = _Check(method, parameter, group, each, key)
        if inspect.iscoroutinefunction(method):

            @functools.wraps(method)
            async def guarded_async(self: Any, *args: Any, **kwargs: Any) -> Any:
                with check.permit(self, args, kwargs) as (args, kwargs):
                    return await method(self, *args, **kwargs)

            check.guarded = guarded_async
            return guarded_async  # type: ignore[return-value]

        @functools.wraps(method)
        def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
            with ExitStack() as permitted:
                args, kwargs = permitted.enter_context(check.permit(self, args, kwargs))
                result = method(self, *args, **kwargs)
                if inspect.iscoroutine(result):  # of an async method under another decorator
                    return _awaited(permitted.pop_all(), result)
                return result

        check.guarded = guarded
        return guarded  # type: ignore[return-value]

    return decorate


async def _awaited(permitted: ExitStack, result: Coroutine[Any, Any, Any]) -> Any:
    with permitted:
        return await result


class _Check:
    """Checks a call of one method before it runs."""

    guarded: Callable[..., Any]
    """What `owned_by` made of the method."""

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
        self._is_positional = kind is inspect.Parameter.POSITIONAL_ONLY
        self._default = parameters[parameter].default
        self._method, self._group, self._each, self._key = method.__name__, group, each, key

    @contextmanager
    def permit(
        self, worker: Any, args: Arguments, kwargs: dict[str, Any]
    ) -> Iterator[tuple[Arguments, dict[str, Any]]]:
        """Run the method within this, with the arguments that it gives. Raises ``NotOwner``."""
        args, kwargs, keys = self._bind(args, kwargs)
        group = self._group(worker) if callable(self._group) else self._group
        if group is not None:
            arguments.check_text("group", group)
        admitted = _admit(group, keys)
        if isinstance(admitted, NotOwner):
            admitted.task, admitted.method = self._entry(worker)
            if bytes_of((*args, *kwargs.values())) <= CARRIED_BYTES:
                admitted.call = (keys[0] if keys else None, admitted.method, args, kwargs)
            raise admitted
        try:
            with admitted:
                yield args, kwargs
        except NotOwner as error:
            error.task = None  # raised by a call within the method, part of which has run
            raise

    def _entry(self, worker: Any) -> tuple[str | None, str]:
        """The id of Ray's task, if none of its code can have run, and the method's name.

        That is so if Ray called what `owned_by` made, not a method that calls it in turn. Should that one be running
        already, and have called itself, the outer `permit` takes the id away.
        """
        if not ray.is_initialized():
            return None, self._method
        context = ray.get_runtime_context()
        task = context.get_task_id()
        if task is None:
            return None, self._method
        if hasattr(context, "get_task_name"):
            name = (context.get_task_name() or "").rpartition(".")[2]
        else:
            name = ray_internals.method_that_ray_called(self.guarded)
        entry = inspect.getattr_static(type(worker), name, None)
        while entry is not None and getattr(entry, "__globals__", {}).get("__name__", "").startswith("ray."):
            entry = getattr(entry, "__wrapped__", None)  # Ray's own wrapper, for tracing
        return (task, name) if entry is self.guarded else (None, self._method)

    def _bind(self, args: Arguments, kwargs: dict[str, Any]) -> tuple[Arguments, dict[str, Any], list[Any]]:
        """The arguments, with the items of an iterator as a list, and the keys."""
        if by_name := self._name in kwargs and not self._is_positional:
            value = kwargs[self._name]
        else:
            value = args[self._position] if self._position < len(args) else self._default
        if value is inspect.Parameter.empty:
            raise TypeError(f"{self._method}() missing 1 required argument: {self._name!r}")
        items = arguments.check_items(value) if self._each else [value]
        if self._each and isinstance(value, Iterator):  # to read the keys has used it up
            if by_name:
                kwargs = {**kwargs, self._name: items}
            else:
                args = (*args[: self._position], items, *args[self._position + 1 :])
        return args, kwargs, items if self._key is None else [self._key(item) for item in items]


class Guard:
    """Permits calls by what one ``PartitionCoordinator`` may work on."""

    def __init__(self, session: Session) -> None:
        self.is_local = session.is_local
        self._session = session
        self._entered = False
        session.guard = self  # as long as there is a session

    def enter(self) -> None:
        """Let calls ask this member while it has a session."""
        self._entered = True
        _guards[self] = None

    def leave(self) -> None:
        """Let calls no longer ask this member; only the single-instance mode has no session that says so."""
        self._entered = False

    @property
    def permits_all(self) -> bool:
        """Whether this is the single-instance mode, and started."""
        return self.is_local and self._entered

    def groups(self) -> list[str]:
        """The groups of which it is a member, or waits to be one."""
        if not self._session.active:
            return []
        groups = list(self._session.member_state.groups.items())
        return [name for name, held in groups if held.state in ("joining", "member")]

    def epoch(self, group: str) -> Epoch | None:
        """The epoch of the view that it holds."""
        view = self._session.view(group)
        return None if view is None else view.epoch

    def begin(self, group: str, keys: list[Any]) -> AbstractContextManager[None] | None:
        """Begin a call on these keys, which runs within what is returned; None if it is not permitted."""
        session = self._session
        texts = [str(key) for key in keys]  # users' code: not under the lock, and not again at each acknowledgement
        with session.lock:
            call = session.driver.begin_call(session.now(), session.process(), group, texts)
        return None if call is None else self._running(call)

    @contextmanager
    def _running(self, call: GuardedCall) -> Iterator[None]:
        try:
            with inside(call):
                yield
        finally:
            with self._session.event() as driver:
                driver.end_call(self._session.now(), call)


def _admit(group: str | None, keys: list[Any]) -> AbstractContextManager[None] | NotOwner:
    """Begin a call: within what it runs, or the refusal. The single-instance mode permits every call."""
    joined = {guard: groups for guard in list(_guards) if (groups := guard.groups())}
    names = sorted({name for groups in joined.values() for name in groups})
    if group is None and len(names) > 1:
        raise InvalidArgument(f"group: got None, expected the name of a group that this process has joined: {names}")
    if not names and any(guard.permits_all for guard in list(_guards)):
        return nullcontext()
    if group is None and not names:
        return NotOwner("this process is no member of any group")
    group = names[0] if group is None else group
    epoch: Epoch | None = None
    for guard, groups in joined.items():
        if group in groups:
            admitted = guard.begin(group, keys)
            if admitted is not None:
                return admitted
            epoch = max(filter(None, (epoch, guard.epoch(group))), default=None)
    shown = ", ".join(repr(each) for each in keys[:3]) + (", …" if len(keys) > 3 else "")
    refusal = NotOwner(f"this process may not work on {shown} of group {group!r} now; its view is of epoch {epoch}")
    refusal.epoch = epoch
    return refusal
