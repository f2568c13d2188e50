"""Sources and sinks as the YAML defines them, much like ceilometer's ``pipeline.yaml``.

A source takes meters and feeds sinks. A sink runs samples through its transformers in order, and passes the results to
its publishers and to further sinks. A pipeline is a source with one of its sinks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from jobs.driver.meters import Wildcard
from jobs.pipelines.samples import Kind
from partition_actor.yaml_models import Problem

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


class Target(_Part):
    """What a transformer changes in a sample; missing fields stay unchanged."""

    name: str | None = Field(None, min_length=1)
    unit: str | None = None
    type: Kind | None = None
    scale: Number = 1.0  # factor for the volume


class RateParameters(_Part):
    target: Target = Target()


class DeltaParameters(_Part):
    target: Target = Target()
    growth_only: bool = False


class Origin(_Part):
    """The samples that a conversion applies to; others pass unchanged."""

    name: Annotated[str, AfterValidator(_is_pattern)] = ".*"  # regular expression that must match the whole name
    unit: str | None = None


class ConversionParameters(_Part):
    source: Origin = Origin()
    target: Target = Target()  # its name may refer to groups of the source's name: \1

    @model_validator(mode="after")
    def _groups_are_there(self) -> ConversionParameters:
        if self.target.name is not None:
            try:
                # The alternative matches the empty string, so that the groups are empty.
                re.sub(f"|{self.source.name}", self.target.name, "", count=1)
            except (re.error, IndexError) as error:
                raise ValueError(f"target.name {self.target.name!r}: {error}") from None
        return self


class AggregatorParameters(_Part):
    """When an aggregate is complete: after ``size`` samples, or at the first sample of another ``window``."""

    size: int | None = Field(None, ge=1)
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # seconds, by the samples' timestamps
    function: Literal["mean", "sum", "min", "max", "last", "count"] | None = None  # None: depends on the sample's type
    target: Target = Target()

    @model_validator(mode="after")
    def _it_ends(self) -> AggregatorParameters:
        if self.size is None and self.window is None:
            raise ValueError("expected size, window or both: otherwise no aggregate is ever complete")
        return self


class RateOfChange(_Part):
    name: Literal["rate_of_change"]
    parameters: RateParameters = RateParameters()


class Delta(_Part):
    name: Literal["delta"]
    parameters: DeltaParameters = DeltaParameters()


class UnitConversion(_Part):
    name: Literal["unit_conversion"]
    parameters: ConversionParameters = ConversionParameters()


class Aggregator(_Part):
    name: Literal["aggregator"]
    parameters: AggregatorParameters


Transformer = Annotated[RateOfChange | Delta | UnitConversion | Aggregator, Field(discriminator="name")]


class FilePublisher(NamedTuple):
    """``file://`` or ``file://?format=parquet``: files in ``published/<pipeline>/`` of the job's directory."""

    format: Literal["json", "parquet"]


class LogPublisher(NamedTuple):
    """``log://``: a line per sample in the agent's log."""


class ActorPublisher(NamedTuple):
    """``actor://namespace/name?method=publish``: calls the method with lists of records."""

    namespace: str
    name: str
    method: str


Publisher = FilePublisher | LogPublisher | ActorPublisher


def parse_publisher(url: object) -> object:
    """Return the publisher that a URL stands for.

    Raises:
        ValueError: it stands for none; the message says what was expected.
    """
    if isinstance(url, get_args(Publisher)):
        return url
    if not isinstance(url, str):
        raise ValueError(f"expected a URL such as file://, got {url!r}")
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "file" and not parts.netloc and not parts.path and set(options) <= {"format"}:
        if options.get("format", "json") not in ("json", "parquet"):
            raise ValueError(f"{url}: the format is json or parquet")
        return FilePublisher("parquet" if options.get("format") == "parquet" else "json")
    if parts.scheme == "log" and url.rstrip("/") == "log:":
        return LogPublisher()
    name = parts.path.strip("/")
    if parts.scheme == "actor" and parts.netloc and name and "/" not in name and set(options) <= {"method"}:
        method = options.get("method", "publish")
        if method.isidentifier():
            return ActorPublisher(parts.netloc, name, method)
    raise ValueError(
        f"{url}: expected file://, file://?format=parquet, log:// or actor://namespace/name?method=publish"
    )


class Sink(_Part):
    name: Name
    transformers: tuple[Transformer, ...] = Field((), strict=False)
    publishers: tuple[Annotated[Any, BeforeValidator(parse_publisher)], ...] = Field((), strict=False)
    sinks: tuple[str, ...] = Field((), strict=False, description="also get what the transformers put out")


class Source(_Part):
    name: Name
    meters: tuple[Wildcard, ...] = Field(min_length=1, strict=False)
    sinks: tuple[str, ...] = Field(min_length=1, strict=False)
    shards: int = Field(1, ge=1, le=1024, description="1: a pipeline has one owner; more: its resources are split")


def check(sources: tuple[Source, ...], sinks: tuple[Sink, ...]) -> Iterator[Problem]:
    """Yield the problems among sources and sinks that are each well-formed."""
    known = {sink.name: sink for sink in sinks}
    for kind, parts in (("sources", sources), ("sinks", sinks)):
        yield from _references(kind, parts, known)
    for n, sink in enumerate(sinks):
        if not sink.publishers and not sink.sinks:
            yield Problem(("sinks", n), f"the sink {sink.name!r} is empty: it has no publisher and feeds no sink")
        if cycle := _cycle(sink.name, known):
            yield Problem(("sinks", n, "sinks"), f"the sink {sink.name!r} feeds itself: {' -> '.join(cycle)}")


def _references(kind: str, parts: Sequence[Source | Sink], known: Mapping[str, Sink]) -> Iterator[Problem]:
    names = [part.name for part in parts]
    for n, part in enumerate(parts):
        if part.name in names[:n]:
            yield Problem((kind, n, "name"), f"there is another of the name {part.name!r}")
        for m, fed in enumerate(part.sinks):
            if fed not in known:
                yield Problem((kind, n, "sinks", m), f"there is no sink {fed!r}")
            if fed in part.sinks[:m]:
                yield Problem((kind, n, "sinks", m), f"the sink {fed!r} is there twice")


def _cycle(start: str, sinks: Mapping[str, Sink]) -> list[str]:
    """Return the shortest path from a sink back to itself; [] if there is none."""
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop(0)
        for name in sinks[way[-1]].sinks if way[-1] in sinks else ():
            if name == start:
                return [*way, name]
            if name not in seen:
                seen.add(name)
                ways.append([*way, name])
    return []
