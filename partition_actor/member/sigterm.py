"""Hands the members of a process over when it gets SIGTERM, and then lets the handler run that was there before.

A signal's handler runs between any two steps of the main thread, which may hold a lock. So it only begins a thread, and
that hands over. The signal is sent again when this is done, since only the main thread may run the former handler.
"""

from __future__ import annotations

import _thread
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import ray

from partition_actor.arguments import refuse

log = logging.getLogger(__name__)

_members: dict[object, Callable[[], None]] = {}
"""What hands each member over."""
_runs = False
"""Whether a thread hands them over. Further signals change nothing meanwhile."""


class _Handler:
    """The handler of SIGTERM. `former` is the one before."""

    def __init__(self, former: Any) -> None:
        self.former = former
        self._is_over = False
        """The signal was sent again. What has been started meanwhile does not put its end off."""

    def __call__(self, number: int, frame: Any) -> None:
        global _runs
        if _runs:
            return
        if _members and not self._is_over:
            _runs = True
            try:
                # `threading` takes locks that the main thread may hold.
                _thread.start_new_thread(self._hand_over, (list(_members.items()),))
            except RuntimeError:  # this process may have no more threads
                _runs = False
            else:
                return
        self._is_over = False
        self._pass_on(number, frame)

    def _hand_over(self, known: list[tuple[object, Callable[[], None]]]) -> None:
        global _runs
        try:
            threads = [threading.Thread(target=_run, args=each, daemon=True) for each in known]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for member, _ in known:
                _members.pop(member, None)
            # One of asyncio's event loop has run by now: the loop hears of a signal whatever handler there is.
            self._is_over = getattr(self.former, "__module__", "") != "asyncio.unix_events"
            _runs = False
            if self._is_over:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _pass_on(self, number: int, frame: Any) -> None:
        if not _members:
            self.give_way()
        if callable(self.former):
            self.former(number, frame)
        elif self.former == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def give_way(self) -> None:
        """Put the former handler in place again, unless there is a later one."""
        present: object = signal.getsignal(signal.SIGTERM)
        if present is self:
            signal.signal(signal.SIGTERM, self.former)


def _run(member: object, hand_over: Callable[[], None]) -> None:
    try:
        log.info("SIGTERM: %r hands over", member)
        hand_over()
    except BaseException:
        log.exception("SIGTERM: %r has not handed over", member)


def add(member: object, hand_over: Callable[[], None]) -> None:
    """Call `hand_over` when this process gets SIGTERM, until `remove`. It must return within a limited time.

    Raises ``InvalidArgument`` outside of the main thread, in a worker of Ray, and if the present handler cannot be
    called, because it was not installed from Python.
    """
    if threading.current_thread() is not threading.main_thread():
        refuse("on_sigterm", True, "to be started in the main thread, which alone can handle signals")
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        refuse("on_sigterm", True, "False in an actor or a task, where Ray handles SIGTERM: drain its node, or stop()")
    present = signal.getsignal(signal.SIGTERM)
    if present is None:
        refuse("on_sigterm", True, "a process whose handler of SIGTERM, if any, was installed from Python")
    if not isinstance(present, _Handler):
        signal.signal(signal.SIGTERM, _Handler(present))
    _members[member] = hand_over


def remove(member: object) -> None:
    """The member needs no handing over. In the main thread this puts the former handler in place with the last one."""
    _members.pop(member, None)
    handler = signal.getsignal(signal.SIGTERM)
    if _members or _runs or threading.current_thread() is not threading.main_thread():
        return  # a handler that stays passes every signal on
    if isinstance(handler, _Handler):
        handler.give_way()


def _start_anew() -> None:
    """In a forked child: its parent's members are not its own."""
    global _runs
    _runs = False
    _members.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
