"""Asks the partition actor again and again, and finds it again after it was lost."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import RayActorError

from partition_actor import deployment
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable
from partition_actor.operate.connection import LOOK, ask
from partition_actor.operate.options import UNREACHABLE, Chosen, Failure
from partition_actor.ray_access import gcs_problem

PATIENCE = 20.0
"""Seconds without Ray after which to give up. Ray's core ends the process by itself after a minute."""


class Observer:
    """One partition actor under one name, through restarts and new deployments, with the events from `since` on."""

    def __init__(self, handle: Any, since: int) -> None:
        self._handle = handle
        self._since = since
        self._chosen = Chosen.now()
        self._gcs = ray.get_runtime_context().gcs_address
        self._lost_at: float | None = None
        self.reason = ""
        """Why it is lost."""

    @property
    def lost_for(self) -> float:
        """Seconds since it stopped answering; 0.0 while it answers."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def ask(self) -> dict[str, Any] | None:
        """What ``observe`` says now, with the events since the last time; None while nobody answers.

        Raises ``Failure`` when Ray itself has been away for long.
        """
        try:
            if self._handle is None:
                self._handle = deployment.find(self._chosen.name, self._chosen.namespace, LOOK)
            said: dict[str, Any] = ask(self._handle, "observe", [], self._since, timeout=LOOK)
        except (PartitionActorNotFound, PartitionActorUnavailable, RayActorError) as error:
            self._note_loss(error)
            return None
        self._lost_at, self._since = None, said["events"]["next"]
        return said

    def _note_loss(self, error: Exception) -> None:
        self._handle = None
        self._lost_at = self._lost_at or time.monotonic()
        if isinstance(error, PartitionActorNotFound):
            self.reason = "there is none now"
        else:
            self.reason = "its process has ended" if isinstance(error, RayActorError) else "it does not answer"
        if self.lost_for > PATIENCE and self._gcs and (problem := gcs_problem(self._gcs)):
            raise Failure(f"the Ray at {self._gcs} is gone ({problem.why})", UNREACHABLE)
