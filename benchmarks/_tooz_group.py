"""A group of tooz workers that a benchmark controls, and their reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from _processes import processor_seconds, stopped

PROGRAM = Path(__file__).with_name("_tooz_worker.py")
STALL_PAUSE = 0.2


class UnstableError(Exception):
    """Live members were expired or did not see each other: these settings are too tight for this machine."""


class Reports:
    """What the workers reported (lines of ``_tooz_worker.py``), and whether a live member was expired."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.left: dict[str, dict[str, float]] = {}
        self.errors: list[str] = []
        self.expired_alive: str | None = None
        self._killed: set[str] = set()

    def take(self, report: dict[str, Any]) -> None:
        """Record one report. Late reports of killed workers are ignored."""
        who = report["who"]
        if who in self._killed:
            return
        if "error" in report:
            self.errors.append(f"{who}: {report['error']}")
            return
        self.sizes[who] = report["size"]
        if "pid" in report:
            self.pids[who] = report["pid"]
        if "left" in report:
            self.left.setdefault(report["left"], {})[who] = report["at"]
            if report["left"] not in self._killed and self.expired_alive is None:
                self.expired_alive = f"{who} saw {report['left']} leave although it was alive"

    def kill(self, victim: str) -> int:
        """Mark the victim as killed; returns its pid."""
        self._killed.add(victim)
        self.sizes.pop(victim)
        return self.pids.pop(victim)

    def all_see(self, members: int) -> bool:
        return len(self.sizes) == members and set(self.sizes.values()) == {members}

    def last_heard(self, victim: str) -> float | None:
        """When the last survivor saw ``victim`` leave; None until all have."""
        heard = self.left.get(victim, {})
        times = [heard.get(who) for who in self.pids]
        return None if None in times else max(time_ for time_ in times if time_ is not None)


class Group:
    """Workers of one tooz group at ``url`` that poll it every ``poll`` seconds. A context manager."""

    def __init__(self, url: str, poll: float) -> None:
        self.reports = Reports()
        self._changed = threading.Condition()
        self._spawner = subprocess.Popen(
            [sys.executable, str(PROGRAM), url, str(poll)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._spawner.stdin is not None
        self._spawner.stdin.close()
        self._spawner.wait()
        self._reader.join()

    def add(self, name: str, limit: float) -> None:
        """Start a worker and wait until it is a member."""
        assert self._spawner.stdin is not None
        self._spawner.stdin.write(name + "\n")
        self._spawner.stdin.flush()
        self._wait(lambda: name in self.reports.pids, limit, f"{name} did not join")

    def wait_until_all_know(self, members: int, limit: float) -> None:
        self._wait(lambda: self.reports.all_see(members), limit, "not all members know of each other")

    def stall_each(self, seconds: float) -> None:
        """Stop each worker in turn for ``seconds``. UnstableError if one is expired."""
        for pid in list(self.reports.pids.values()):
            with stopped(pid):
                self.stay_idle(seconds)
            self.stay_idle(STALL_PAUSE)

    def processor_seconds(self) -> float:
        """CPU seconds that the workers have used, without their server's."""
        return processor_seconds(self.reports.pids.values())

    def stay_idle(self, seconds: float) -> None:
        """Wait for ``seconds``; UnstableError as soon as a member is expired, because all are alive."""
        with self._changed:
            self._changed.wait_for(lambda: self.reports.expired_alive, seconds)
        self._check()

    def kill(self, victim: str, limit: float) -> float:
        """Kill with SIGKILL; returns the seconds until the last survivor's ring was without the victim."""
        with self._changed:
            pid = self.reports.kill(victim)
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
        self._wait(lambda: self.reports.last_heard(victim) is not None, limit, f"{victim} is still a member")
        last = self.reports.last_heard(victim)
        assert last is not None
        return last - killed_at

    def _wait(self, done: Callable[[], bool], limit: float, otherwise: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: done() or self.reports.expired_alive, limit):
                last = self.reports.errors[-1:]
                raise UnstableError(f"{otherwise} after {limit:g} s {last or ''}".strip())
        self._check()

    def _check(self) -> None:
        if self.reports.expired_alive:
            raise UnstableError(self.reports.expired_alive)

    def _read(self) -> None:
        assert self._spawner.stdout is not None
        for line in self._spawner.stdout:
            with self._changed:
                self.reports.take(json.loads(line))
                self._changed.notify_all()
