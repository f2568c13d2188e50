"""The threads of this library: one in which all sessions of a process exchange heartbeats, and short-lived ones.

A worker stays a member while a long call, or a blocked event loop of its own, keeps it busy. Whatever blocks runs in a
daemon thread of its own: an executor's threads would run out, and would hold up the end of the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process. Its daemon thread starts with the first call, and a forked process starts its own."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="partition-actor-heartbeat", daemon=True).start()
        return _loop


def _start_anew() -> None:
    """In a forked child: another thread of the parent may have held the lock, and the loop's thread is not here."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop of this process. Any thread may call this."""
    return asyncio.run_coroutine_threadsafe(coroutine, background_loop())


async def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function that blocks returns; like ``asyncio.to_thread``, in a daemon thread of its own."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(done: Callable[[], None]) -> None:
        if not result.done():
            done()

    def run() -> None:
        try:
            value = context.run(function, *args, **kwargs)
        except BaseException as raised:
            error = RuntimeError(f"{function!r} raised {raised!r}") if isinstance(raised, StopIteration) else raised
            done: Callable[[], None] = lambda: result.set_exception(error)  # noqa: E731
        else:
            done = lambda: result.set_result(value)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # its loop has been closed
            loop.call_soon_threadsafe(settle, done)

    threading.Thread(target=run, name="partition-actor-call", daemon=True).start()
    return await result
