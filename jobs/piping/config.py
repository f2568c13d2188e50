"""What the user asked for: YAML and command line, checked before anything starts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from polling.joining import InputError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from piping.definitions import TRANSFORMERS, ActorPublisher, FilePublisher, Sink, Source, check
from piping.documents import Document, Where, read_document


class PipelinesConfig(BaseModel):
    """One run of the job; the field names are the YAML's keys."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    agents: int = Field(4, ge=1, le=1000, description="how many agents; each is one process, and 1 needs no Ray")
    input: str = Field("out/recorded", min_length=1, description="a JSON-lines file, or a directory of *.jsonl")
    out: str = Field("out/pipelines", min_length=1, description="the job's directory; one that is there is resumed")
    follow: bool = Field(False, description="go on when the input's end is reached: files grow, and new ones come")
    lease: float = Field(
        3.0,
        ge=0.5,
        le=600,
        allow_inf_nan=False,
        description="seconds after which a silent agent is taken for lost, if the job deploys the partition actor",
    )
    kill: int = Field(0, ge=0, description="how many agents get SIGKILL on the way")
    stop: int = Field(0, ge=0, description="how many agents are stopped on the way for longer than their lease")
    name: str = Field("partition-actor", min_length=1, description="the partition actor's name")
    namespace: str = Field("partition_actor", min_length=1, description="the partition actor's namespace")
    sources: tuple[Source, ...] = Field(min_length=1, strict=False)
    sinks: tuple[Sink, ...] = Field(min_length=1, strict=False)

    @property
    def needs_ray(self) -> bool:
        """Whether a publisher is an actor."""
        return any(isinstance(each, ActorPublisher) for sink in self.sinks for each in sink.publishers)

    def files_only(self) -> PipelinesConfig:
        """The same without publishers that others would notice."""
        sinks = tuple(
            sink.model_copy(
                update={"publishers": tuple(each for each in sink.publishers if isinstance(each, FilePublisher))}
            )
            for sink in self.sinks
        )
        return self.model_copy(update={"sinks": sinks})

    @property
    def fingerprint(self) -> str:
        """Equal for the configs whose pipelines have the same names and do the same."""
        said = self.model_dump_json(include={"sources", "sinks"})
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def load_config(path: str, overrides: Mapping[str, Any]) -> PipelinesConfig:
    """The config of a YAML file with the command line's values over it.

    Args:
        path: the YAML file.
        overrides: field name to value; from the command line.

    Raises:
        InputError: a line for every problem found, ``file:line: field: what is wrong``, or
            ``--option value: what is wrong``.
    """
    document = read_document(path)
    if not isinstance(document.value, dict):
        raise InputError(f"{document.place(())}: expected a mapping with sources and sinks")
    try:
        config = PipelinesConfig.model_validate({**document.value, **overrides})
    except ValidationError as error:
        # A list whose items are all wrong is too short for pydantic as well.
        found = [each for each in error.errors(include_url=False) if each["type"] != "too_short" or not each["input"]]
        problems = [_explain(each, document, overrides) for each in found]
    else:
        problems = [_placed(document, *problem) for problem in check(config.sources, config.sinks)]
    if problems:
        raise InputError("\n".join(text for _, text in sorted(problems)))
    if config.kill + config.stop >= max(config.agents, 1) and config.kill + config.stop:
        raise InputError(
            f"kill is {config.kill} and stop is {config.stop}, of {config.agents} agents: one must be left in peace"
        )
    return config


def _explain(error: Any, document: Document, overrides: Mapping[str, Any]) -> tuple[int, str]:
    """One error of pydantic's in our words, with its line."""
    where, kind = tuple(error["loc"]), error["type"]
    field = str(where[0])
    if field in overrides:
        return 0, f"--{field} {overrides[field]}: {_lower(error['msg'])}"
    where = tuple(step for n, step in enumerate(where) if not _is_tag(where, n))
    message = _lower(str(error.get("ctx", {}).get("error") or error["msg"]))
    if kind == "extra_forbidden":
        message = "there is no such key here" if len(where) > 1 else _no_such_setting()
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        where = (*where, "name")
        given = error["ctx"].get("tag")
        message = f"unknown transformer {given!r}" if given else "a transformer needs a name"
        message += f"; there are {', '.join(TRANSFORMERS)}"
    elif kind not in ("missing", "value_error") and not isinstance(error["input"], (dict, list)):
        message = f"{message}, got {error['input']!r}"
    return _placed(document, where, message)


def _placed(document: Document, where: Where, message: str) -> tuple[int, str]:
    return document.line(where), f"{document.place(where)}: {_dotted(where)}: {message}"


def _is_tag(where: Where, n: int) -> bool:
    # pydantic names the member of a tagged union between the index and the field.
    return n >= 2 and where[n - 2] == "transformers" and isinstance(where[n - 1], int) and where[n] in TRANSFORMERS


def _no_such_setting() -> str:
    return f"no such setting; there are {', '.join(PipelinesConfig.model_fields)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _dotted(where: Where) -> str:
    return ".".join(map(str, where))
