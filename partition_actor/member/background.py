"""The one thread of a process in which all its sessions exchange heartbeats, on an event loop of its own.

So a worker stays a member while a long call, or a blocked event loop of its own, keeps it busy.
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
_pid = 0


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process. Its daemon thread starts with the first call, and a forked process starts its own."""
    global _loop, _pid
    with _lock:
        if _loop is None or _pid != os.getpid():
            _loop, _pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="partition-actor-heartbeat", daemon=True).start()
        return _loop


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the loop of this process. Any thread may call this."""
    return asyncio.run_coroutine_threadsafe(coroutine, background_loop())
