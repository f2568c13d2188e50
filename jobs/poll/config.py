"""The run's settings: YAML and command line, checked before anything starts."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from jobs.driver.machine import DISCOVERED
from jobs.driver.meters import Meters, Wildcard
from jobs.poll.pollers import METERS
from jobs.poll.targets import Discovery, parse_discovery, parse_target
from partition_actor.yaml_models import Document, Problem, Rule, fill

_MONTH = 30 * 86_400.0


def _base(info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base


def _matches_some(meter: str) -> str:
    known = {each for meters in METERS.values() for each in meters}
    if not any(map(Meters([meter.removeprefix("!")]).match, known)):
        raise ValueError(f"meter {meter!r}: it matches none of {', '.join(sorted(known))}")
    return meter


Target = Annotated[str, AfterValidator(lambda target, info: parse_target(target, _base(info)))]
Listed = Annotated[Discovery, BeforeValidator(lambda text, info: parse_discovery(text, _base(info)))]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Source(_Model):
    """What is polled together, much like a source in ceilometer's ``polling.yaml``."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")
    interval: float | None = Field(None, ge=0, le=_MONTH, description="seconds; None: the run's")
    meters: tuple[Annotated[Wildcard, AfterValidator(_matches_some)], ...] = Field(("*",), min_length=1, strict=False)
    resources: tuple[Target, ...] = Field((), strict=False, description="targets; kept as resource ids")
    discovery: tuple[Listed, ...] | None = Field(
        None, strict=False, description="what each machine has, and lists of targets; None without resources: local"
    )
    project_id: str | None = Field(None, description="of its samples")
    user_id: str | None = Field(None, description="of its samples")

    @property
    def discovered(self) -> tuple[Discovery, ...]:
        """What is discovered in each cycle."""
        return self.discovery if self.discovery is not None else () if self.resources else ("local",)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each machine discovers of itself, for ``driver.machine``."""
        named = [each for each in self.discovered if isinstance(each, str)]
        return tuple(DISCOVERED) if "local" in named else tuple(dict.fromkeys(named))


class PollConfig(_Model):
    """One run of the polling job; the field names are the YAML's keys."""

    agents: int = Field(4, ge=1, le=1000, description="number of agents on each node; each is one process")
    cycles: int = Field(8, ge=0, description="how many times each source is polled; 0: until a signal")
    interval: float = Field(2.0, ge=0, le=_MONTH, description="seconds from one cycle's start to the next one's")
    spread: float = Field(
        1.0,
        ge=0,
        le=_MONTH,
        description="seconds over which an agent spreads the polls of a cycle; at most half the interval",
    )
    timeout: float = Field(2.0, gt=0, le=_MONTH, description="seconds that the poll of one resource may take")
    limit: float = Field(60.0, gt=0, le=_MONTH, description="seconds after which an agent in its cycle is replaced")
    listing: float = Field(10.0, gt=0, le=_MONTH, description="seconds that a command that lists targets may take")
    kill: int = Field(0, ge=0, description="number of agents that get SIGKILL in the middle cycle")
    out: str = Field("out/poll", min_length=1, description="directory; each run creates its own dataset in it")
    group: str = Field("pollers", min_length=1, description="the agents' group; jobs that have it in common share")
    name: str = Field("partition-actor", min_length=1, description="the partition actor's name")
    namespace: str = Field("partition_actor", min_length=1, description="the partition actor's namespace")
    targets: tuple[Target, ...] = Field(
        (),
        strict=False,
        description="without sources, polled besides the machine: files, directories, TCP host:port, HTTP URLs; "
        "given as written, kept as resource ids",
    )
    sources: tuple[Source, ...] = Field((), strict=False, description="polled instead, each at its own interval")

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(targets))

    @property
    def polled(self) -> tuple[Source, ...]:
        """The sources; without any, one of the machine and the targets."""
        # Not checked again: its targets are resource ids by now.
        return self.sources or (Source.model_construct(name="all", resources=self.targets, discovery=("local",)),)

    @property
    def fingerprint(self) -> str:
        """A hash of what is polled: equal for runs whose agents can share it."""
        said = repr([(each.meters, each.resources, each.discovered) for each in self.polled])
        return hashlib.blake2b(said.encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()

    @property
    def kill_cycle(self) -> int | None:
        """The cycle of the first source (1-based) in whose middle agents are killed; None without ``kill``."""
        return (self.cycles + 1) // 2 if self.kill else None

    def interval_of(self, source: Source) -> float:
        """Return the seconds between two cycles of a source."""
        return self.interval if source.interval is None else source.interval

    def spread_of(self, source: Source) -> float:
        """Return the seconds over which a source's polls are spread."""
        return min(self.spread, self.interval_of(source) / 2 or self.spread)


_RULES = (
    Rule("kill", "agents", operator.lt, "fewer than agents, so that at least one survives"),
    Rule(
        "cycles",
        "kill",
        lambda cycles, kill: cycles >= 4 or not kill,
        "at least 4 with kill: the two around the kill, one before and one after them",
    ),
    Rule("spread", "limit", operator.lt, "less than limit, so that an agent can end its cycle"),
)


def load_config(path: str | None, overrides: Mapping[str, Any]) -> PollConfig:
    """Return the config of a YAML file, if there is one, with the command line's values over it.

    Relative paths in the file start at the file's directory.

    Args:
        path: the YAML file, or None for the defaults.
        overrides: field name to value; from the command line.

    Raises:
        InvalidSettings: the file cannot be read, a key is unknown, a value is impossible, or a target is malformed
            or missing. The message has a line for every problem.
    """
    document = Document(path, example="agents: 4")
    values = {**document.values, **overrides}
    config = PollConfig.__new__(PollConfig)
    problems = fill(config, values, _RULES, context={"base": Path(path or "").absolute().parent})
    document.refuse([*problems, *_clashes(values)], overrides)
    return config


def _clashes(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems between parts of the values, which need not be well-formed."""
    if values.get("sources") and "targets" in values:
        yield Problem(("targets",), "expected in the resources of a source, as there are sources")
    sources = values.get("sources") if isinstance(values.get("sources"), list) else []
    names = [each.get("name") if isinstance(each, dict) else None for each in sources or ()]
    for n, name in enumerate(names):
        if name is not None and name in names[:n]:
            yield Problem(("sources", n, "name"), f"there is another of the name {name!r}")
