"""Asks Ray whether a partition actor of the same name ran before this one."""

from __future__ import annotations

import logging
import warnings

import ray

log = logging.getLogger(__name__)


def was_restarted() -> bool:
    """Whether Ray has restarted this actor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the property warns about another one that it uses itself
        return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def was_first(name: str | None) -> bool:
    """Whether the GCS knows no other actor of this name, running or dead; False if it does not answer."""
    try:
        from ray._private import state

        mine = ray.get_runtime_context().get_actor_id()
        return not any(found["Name"] == name and key != mine for key, found in state.actors().items())
    except Exception:
        log.debug("cannot tell whether a partition actor of this name ran before", exc_info=True)
        return False
