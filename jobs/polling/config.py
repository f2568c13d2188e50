"""What the user asked for, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from polling.joining import InputError
from polling.targets import parse_target


class PollConfig(BaseModel):
    """One run of the polling job; the field names are the YAML's keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    agents: int = Field(4, ge=1, le=1000, description="how many agents; each is one process")
    cycles: int = Field(8, ge=1, description="how many times everything is polled")
    interval: float = Field(2.0, ge=0, allow_inf_nan=False, description="seconds from a cycle's start to the next")
    spread: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds over which an agent spreads a cycle's polls, so that the machine sees no burst",
    )
    timeout: float = Field(2.0, gt=0, allow_inf_nan=False, description="seconds that the poll of one resource may take")
    limit: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds after which an agent that has not ended its cycle is stopped and replaced",
    )
    kill: int = Field(0, ge=0, description="how many agents get SIGKILL in the middle cycle")
    out: str = Field("out/poll", min_length=1, description="directory; each run makes its own dataset in it")
    name: str = Field("partition-actor", min_length=1, description="the partition actor's name")
    namespace: str = Field("partition_actor", min_length=1, description="the partition actor's namespace")
    targets: tuple[str, ...] = Field(
        (),
        strict=False,
        description="polled beside the machine: files, directories, TCP host:port, HTTP URLs; "
        "given as written, kept as resource ids",
    )

    @field_validator("targets")
    @classmethod
    def _targets_are_resources(cls, targets: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        base = (info.context or {}).get("base", Path())
        return tuple(dict.fromkeys(parse_target(target, base) for target in targets))

    @model_validator(mode="after")
    def _kill_leaves_something_to_see(self) -> PollConfig:
        if self.kill >= self.agents:
            raise ValueError(f"kill is {self.kill}, of {self.agents} agents: at least one agent must survive")
        if self.kill and self.cycles < 4:
            raise ValueError(
                f"cycles is {self.cycles}: with kill at least 4 are needed, "
                "one before the two around the kill and one after"
            )
        return self

    @property
    def kill_cycle(self) -> int | None:
        """The cycle (1-based) in whose middle agents are killed; None without ``kill``."""
        return (self.cycles + 1) // 2 if self.kill else None


def load_config(path: str | None, overrides: Mapping[str, Any]) -> PollConfig:
    """The config of a YAML file, if any, with the command line's values over it.

    Relative paths among the file's targets start at the file's directory.

    Args:
        path: the YAML file, or None for the defaults.
        overrides: field name to value; from the command line.

    Raises:
        InputError: the file cannot be read or is no YAML mapping, a key is unknown, a value is not
            possible, or a target is malformed or not there.
    """
    given = _read(path) if path is not None else {}
    base = Path(path).parent if path is not None else Path()
    try:
        return PollConfig.model_validate({**given, **overrides}, context={"base": base})
    except ValidationError as error:
        raise InputError(_one_line(error, path, overrides)) from None


def _read(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        given = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"--config {path}: not UTF-8 text") from None
    except yaml.YAMLError as error:
        raise InputError(f"--config {path}: not YAML: {' '.join(str(error).split())}") from None
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"--config {path}: expected a mapping of settings, got {type(given).__name__}")
    return {str(key): value for key, value in given.items()}


def _one_line(error: ValidationError, path: str | None, overrides: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if not field:
        place = ""
    elif field in overrides:
        place = f"--{field} {overrides[field]}: "
    else:
        place = f"{path}: {field}: "
    if first["type"] == "extra_forbidden":
        known = ", ".join(PollConfig.model_fields)
        return f"{place}no such setting; there are {known}"
    cause = first.get("ctx", {}).get("error")
    if cause is not None:
        return f"{place}{cause}"
    got = "" if field in overrides else f", got {first['input']!r}"
    return f"{place}{first['msg'].lower()}{got}"
