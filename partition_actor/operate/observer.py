"""Asks the partition actor again and again, and finds it again after it was lost."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from partition_actor import deployment
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable
from partition_actor.operate.connection import LOOK, ask, gcs_problem
from partition_actor.operate.options import UNREACHABLE, Chosen, Failure

PATIENCE = 20.0
"""Seconds without Ray after which to give up. Ray's core ends the process by itself after a minute."""


class Observer:
    """One partition actor under one name, through restarts and new deployments.

    `ask` returns what ``observe`` says, and None while nobody answers. `lost_for` then says for how long.
    """

    def __init__(self, handle: Any, since: int = 0) -> None:
        self._handle = handle
        self._chosen = Chosen.now()
        self._gcs = ray.get_runtime_context().gcs_address
        self.since = since
        self._process: tuple[str, int] | None = None
        self.is_new = False
        """The latest answer is the first of another partition actor than the answers before."""
        self._lost_at: float | None = None
        self.reason = ""

    @property
    def lost_for(self) -> float:
        """Seconds since it stopped answering; 0.0 while it answers."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def ask(self, groups: tuple[str, ...] = ()) -> dict[str, Any] | None:
        """What the partition actor says now, with the events since the last time.

        Raises ``Failure`` when Ray itself has been away for long.
        """
        try:
            if self._handle is None:
                self._handle = deployment.find(self._chosen.name, self._chosen.namespace, LOOK)
            said = self._observe(groups, self.since)
            process = said["status"]["node"], said["status"]["pid"]
            self.is_new = self._process not in (None, process)
            if self.is_new and said["events"]["missed"] != -1:  # its events begin anew, maybe with numbers like these
                said["events"] = self._observe(groups, 0)["events"]
        except (PartitionActorNotFound, PartitionActorUnavailable, RayActorError, GetTimeoutError) as error:
            self._note_loss(error)
            return None
        self._lost_at, self.reason = None, ""
        self._process, self.since = process, said["events"]["next"]
        return said

    def _observe(self, groups: tuple[str, ...], since: int) -> dict[str, Any]:
        said: dict[str, Any] = ask(self._handle, "observe", groups, since, timeout=LOOK)
        return said

    def _note_loss(self, error: Exception) -> None:
        self._handle = None
        self._lost_at = self._lost_at or time.monotonic()
        if isinstance(error, PartitionActorNotFound):
            self.reason = "there is none now"
        else:
            self.reason = "its process has ended" if isinstance(error, RayActorError) else "it does not answer"
        if self.lost_for > PATIENCE and self._gcs and (problem := gcs_problem(self._gcs)):
            raise Failure(f"the Ray at {self._gcs} is gone ({problem})", UNREACHABLE)
