"""The run's settings: YAML and command line, checked before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from jobs.driver.command_line import InputError
from jobs.pipelines.definitions import ActorPublisher, FilePublisher, Sink, Source, check
from partition_actor.yaml_models import Document


class PipelinesConfig(BaseModel):
    """One run of the job; the field names are the YAML's keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    agents: int = Field(4, ge=1, le=1000, description="number of agents; each is one process, and 1 needs no Ray")
    input: str = Field("out/recorded", min_length=1, description="a JSON-lines file, or a directory of *.jsonl")
    out: str = Field("out/pipelines", min_length=1, description="the job's directory; an existing one is resumed")
    follow: bool = Field(False, description="continue at the end of the input: files grow, and new ones appear")
    lease: float = Field(
        3.0,
        ge=0.5,
        le=600,
        allow_inf_nan=False,
        description="seconds after which a silent agent counts as lost, if the job deploys the partition actor",
    )
    kill: int = Field(0, ge=0, description="number of agents that get SIGKILL during the run")
    stop: int = Field(0, ge=0, description="number of agents that are stopped for longer than their lease")
    name: str = Field("partition-actor", min_length=1, description="the partition actor's name")
    namespace: str = Field("partition_actor", min_length=1, description="the partition actor's namespace")
    sources: tuple[Source, ...] = Field(min_length=1, strict=False)
    sinks: tuple[Sink, ...] = Field(min_length=1, strict=False)

    @property
    def needs_ray(self) -> bool:
        """Whether a publisher is an actor."""
        return any(isinstance(each, ActorPublisher) for sink in self.sinks for each in sink.publishers)

    def files_only(self) -> PipelinesConfig:
        """Return the same config with file publishers only: nobody else notices what it publishes."""
        sinks = tuple(
            sink.model_copy(
                update={"publishers": tuple(each for each in sink.publishers if isinstance(each, FilePublisher))}
            )
            for sink in self.sinks
        )
        return self.model_copy(update={"sinks": sinks})

    @property
    def fingerprint(self) -> str:
        """A hash of the sources and sinks: equal for configs whose pipelines do the same."""
        said = self.model_dump_json(include={"sources", "sinks"})
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def load_config(path: str, overrides: Mapping[str, Any]) -> PipelinesConfig:
    """Return the config of a YAML file with the command line's values over it.

    Args:
        path: the YAML file.
        overrides: field name to value; from the command line.

    Raises:
        InvalidSettings: the file cannot be read, or its values are impossible. The message has a line for every
            problem.
    """
    document = Document(path, example="sources:")
    config = document.load(PipelinesConfig, overrides)
    document.refuse(check(config.sources, config.sinks), overrides)
    if config.kill + config.stop >= config.agents and config.kill + config.stop:
        said = f"kill is {config.kill} and stop is {config.stop}, of {config.agents} agents: one must stay untouched"
        raise InputError(said)
    return config
