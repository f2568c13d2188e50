"""Tells the partition actor how a fleet is, for whoever looks there. The fleet itself does without it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait
from typing import Any

import ray
from ray.exceptions import RayTaskError

from partition_actor import clock
from partition_actor.fleet.spec import FleetSpec
from partition_actor.processes import future_of, ray_stays

log = logging.getLogger(__name__)

NEWS_INTERVAL, STATUS_INTERVAL = 0.5, 2.0
"""Seconds between two statuses, at least; and at most when nothing changes."""
LOOK_EVERY = 1.0
"""Seconds between two looks whether this process is connected to Ray, while the partition actor does not answer."""
MOST_WORKERS, MOST_WAITING, MOST_EVENTS = 500, 100, 50
"""Of which it tells."""


class StatusTeller:
    """Tells the latest status in a thread of its own, one call at a time, so that nobody waits for it."""

    def __init__(self, spec: FleetSpec) -> None:
        self._spec = spec
        self._news = threading.Condition()
        self._latest: dict[str, Any] | None = None
        """What is not told yet."""
        self._handle: Any = None
        self._reference: Any = None
        """Of the latest call: it is freed within `ray_stays`."""
        self._problem = ""
        self._thread: threading.Thread | None = None

    def tell(self, status: dict[str, Any]) -> None:
        """Have a status told when it is due, in place of an earlier one; returns at once."""
        with self._news:
            self._latest = status
            self._news.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"status of fleet {self._spec.name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        told, told_at, is_over = None, float("-inf"), False
        while not is_over and ray.is_initialized():
            status = self._next(told, told_at)
            told, told_at, is_over = _gist(status), clock.now(), status["over"]
            try:
                self._send(shortened(status))
                self._problem = ""
            except RayTaskError as error:
                self._note(str(error.cause), logging.WARNING)
            except Exception as error:  # Ray restarts it, or another takes its place
                self._handle = None
                self._note(f"{type(error).__name__}: {error}", logging.INFO)

    def _next(self, told: Any, told_at: float) -> dict[str, Any]:
        """Wait for a status that is due."""
        with self._news:
            while True:
                now, status = clock.now(), self._latest
                soon = told_at + NEWS_INTERVAL
                if status is not None and (
                    status["over"] or now >= told_at + STATUS_INTERVAL or (now >= soon and _gist(status) != told)
                ):
                    self._latest = None
                    return status
                self._news.wait(soon - now if status is not None and now < soon else None)

    def _send(self, status: dict[str, Any]) -> None:
        """Tell it, and wait for the answer. Raises what Ray raises."""
        with ray_stays() as connected:
            if not connected:
                return
            if self._handle is None:
                actor, namespace = self._spec.actor, self._spec.namespace
                self._handle = ray.get_actor(actor, namespace) if isinstance(actor, str) else actor
            if not hasattr(self._handle, "note_fleet"):  # of a version before
                return
            self._reference = self._handle.note_fleet.remote(status)
            call = future_of(self._reference)
        while ray.is_initialized() and not wait([call], LOOK_EVERY).done:
            pass
        if call.done():
            call.result()

    def _note(self, problem: str, level: int) -> None:
        if problem != self._problem:
            log.log(level, "fleet %r: its status was not told to the partition actor: %s", self._spec.name, problem)
        self._problem = problem


def _gist(status: dict[str, Any]) -> Any:
    """What is news when it differs."""
    fields = ("size", "ready", "serving", "version", "updating", "update_failed", "stopping", "restarts", "over")
    workers = [(each["number"], each["phase"], each["epoch"]) for each in status["workers"]]
    return [*(status[field] for field in fields), [each["what"] for each in status["events"]], workers]


def shortened(status: dict[str, Any]) -> dict[str, Any]:
    """The same with the workers that matter most, if they are many, and how many there are of them all."""
    workers = status["workers"]
    if len(workers) > MOST_WORKERS:
        chosen = sorted(workers, key=lambda each: bool(each["phase"] == "serving"))[:MOST_WORKERS]
        workers = sorted(chosen, key=lambda each: (each["slot"], each["number"]))
    return {
        **status,
        "workers": workers,
        "all_workers": len(status["workers"]),
        "waiting": status["waiting"][:MOST_WAITING],
        "events": status["events"][-MOST_EVENTS:],
    }
