"""The one thread of a process in which all its partition actors exchange heartbeats, with an event loop of its own.

So a worker that is busy in a long call, or whose own event loop is, stays a member.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner = 0


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; its daemon thread starts with the first call, and anew after a fork."""
    global _loop, _owner
    with _lock:
        if _loop is None or _owner != os.getpid():
            _loop, _owner = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="partition-actor-heartbeat", daemon=True).start()
        return _loop


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop of this process, from any thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, background_loop())
