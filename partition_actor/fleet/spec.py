"""What a fleet is: checked once, in the process that asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from partition_actor.arguments import check_items, check_text, refuse
from partition_actor.core.autoscale import Autoscale
from partition_actor.settings import Settings

_OURS = ("name", "namespace", "lifetime", "get_if_exists", "max_restarts", "max_task_retries", "max_pending_calls")
"""Options of an actor that the fleet sets."""


@dataclass(frozen=True)
class Version:
    """One version of a fleet's workers: the class, what its constructor gets, and the options of its actors."""

    worker: type
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, worker: Any, args: Any, kwargs: Any, options: Any) -> Version:
        """The version of these arguments. Raises ``InvalidArgument``."""
        if not isinstance(worker, type):
            decorated = hasattr(worker, "__ray_metadata__")
            refuse("worker", worker, "the class itself, without @ray.remote" if decorated else "a class")
        for name, value in (("kwargs", kwargs), ("options", options)):
            if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
                refuse(name, value, "None or a dict whose keys are str")
        for name in _OURS:
            if name in (options or {}):
                refuse(f"options, {name}", options[name], "none: the fleet sets it")
        try:
            groups = {key: value for key, value in (options or {}).items() if key == "concurrency_groups"}
            others = {key: value for key, value in (options or {}).items() if key not in groups}
            ray.remote(**groups or {"num_cpus": 0})(worker).options(**others)
        except (TypeError, ValueError) as error:
            refuse("options", options, f"those of a Ray actor: {error}")
        return cls(worker, tuple(check_items(args)), dict(kwargs or {}), dict(options or {}))


@dataclass(frozen=True)
class FleetSpec:
    """What stays as it is while a fleet lives."""

    name: str
    group: str
    exclusive: bool | None
    actor: Any
    """The partition actor's name or handle."""
    namespace: str
    settings: Settings | None
    per_node: bool
    spread: str | None
    autoscale: Autoscale | None
    drain_timeout: float
    start_timeout: float
    detached: bool = False

    @property
    def slots(self) -> str:
        """The space of the workers' slots, which no member without a fleet asks for."""
        return f"fleet:{self.name}"

    def member_id(self, slot: int) -> str:
        """The id of whoever works in a slot."""
        return f"{self.name}/{slot}"

    @property
    def load(self) -> str | Callable[[Any], float] | None:
        """What tells a worker's load."""
        return None if self.autoscale is None else self.autoscale.load

    def worker_name(self, slot: int, number: int, version: int) -> str:
        """The name of a detached worker's actor."""
        return f"{self.worker_prefix}{slot}#{number}@{version}"

    @property
    def worker_prefix(self) -> str:
        """What the names of all detached workers of this fleet begin with."""
        return f"partition_actor_fleet_worker:{self.name}/"


def controller_name(fleet: str) -> str:
    """The name of the detached controller of a fleet."""
    return f"partition_actor_fleet:{check_text('name', fleet)}"
