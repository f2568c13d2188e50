"""The run's settings: YAML and command line, checked before anything starts."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from jobs.poll.targets import parse_target
from partition_actor.yaml_models import Document, Rule


def _resource_id(target: str, info: ValidationInfo) -> str:
    return parse_target(target, (info.context or {}).get("base", Path()))


class PollConfig(BaseModel):
    """One run of the polling job; the field names are the YAML's keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    agents: int = Field(4, ge=1, le=1000, description="number of agents; each is one process")
    cycles: int = Field(8, ge=1, description="how many times everything is polled")
    interval: float = Field(2.0, ge=0, description="seconds from one cycle's start to the next one's")
    spread: float = Field(1.0, ge=0, description="seconds over which an agent spreads the polls of a cycle")
    timeout: float = Field(2.0, gt=0, description="seconds that the poll of one resource may take")
    limit: float = Field(60.0, gt=0, description="seconds after which an agent still in its cycle is replaced")
    kill: int = Field(0, ge=0, description="number of agents that get SIGKILL in the middle cycle")
    out: str = Field("out/poll", min_length=1, description="directory; each run creates its own dataset in it")
    name: str = Field("partition-actor", min_length=1, description="the partition actor's name")
    namespace: str = Field("partition_actor", min_length=1, description="the partition actor's namespace")
    targets: tuple[Annotated[str, AfterValidator(_resource_id)], ...] = Field(
        (),
        strict=False,
        description="polled besides the machine: files, directories, TCP host:port, HTTP URLs; "
        "given as written, kept as resource ids",
    )

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(targets))

    @property
    def kill_cycle(self) -> int | None:
        """The cycle (1-based) in whose middle agents are killed; None without ``kill``."""
        return (self.cycles + 1) // 2 if self.kill else None


_RULES = (
    Rule("kill", "agents", operator.lt, "fewer than agents, so that at least one survives"),
    Rule(
        "cycles",
        "kill",
        lambda cycles, kill: cycles >= 4 or not kill,
        "at least 4 with kill: the two around the kill, one before and one after them",
    ),
)


def load_config(path: str | None, overrides: Mapping[str, Any]) -> PollConfig:
    """Return the config of a YAML file, if there is one, with the command line's values over it.

    Relative paths among the file's targets start at the file's directory.

    Args:
        path: the YAML file, or None for the defaults.
        overrides: field name to value; from the command line.

    Raises:
        InvalidSettings: the file cannot be read, a key is unknown, a value is impossible, or a target is malformed
            or missing. The message has a line for every problem.
    """
    document = Document(path, example="agents: 4")
    return document.load(PollConfig, overrides, _RULES, context={"base": Path(path or "").parent})
