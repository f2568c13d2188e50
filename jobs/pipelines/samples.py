"""A sample, and its line of JSON."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Annotated, Any, Literal, NamedTuple

import pydantic_core
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

Kind = Literal["gauge", "delta", "cumulative"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Text = Annotated[str, Field(min_length=1)]


class Sample(NamedTuple):
    """One measurement; a tuple of builtins, because it is pickled for every pipeline that takes it."""

    id: str
    name: str  # the meter's
    type: str  # a Kind: gauge is the current value; delta is since the last sample; cumulative is since a start
    unit: str
    volume: float
    resource_id: str
    timestamp: str  # ISO 8601, as received
    metadata: dict[str, Any]
    at: float  # the timestamp as Unix time, in seconds


class CorruptLine(ValueError):
    """The line is not a sample; the message is one line."""


class _Line(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    id: _Text
    name: _Text
    type: NotRequired[Kind]
    unit: NotRequired[str]
    volume: Annotated[float, Field(allow_inf_nan=False)]
    resource_id: _Text
    timestamp: _Text
    metadata: NotRequired[dict[str, Any]]


_adapter = TypeAdapter(_Line)


def parse_sample(line: bytes) -> Sample:
    """Return the sample in a line of JSON: an object whose keys are the fields of ``Sample`` except ``at``.

    ``type`` is optional (gauge), and so are ``unit`` and ``metadata`` (empty). Other keys are ignored. A timestamp
    without an offset is UTC.

    Raises:
        CorruptLine: the line is not a sample.
    """
    try:
        got = _adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise CorruptLine(f"{field}: {first['msg'].lower()}" if field else first["msg"]) from None
    return Sample(
        got["id"],
        got["name"],
        got.get("type", "gauge"),
        got.get("unit", ""),
        got["volume"],
        got["resource_id"],
        got["timestamp"],
        got.get("metadata", {}),
        _unix_time(got["timestamp"]),
    )


def to_record(sample: Sample) -> dict[str, Any]:
    """Return the dict of a sample that is published."""
    return {
        "id": sample.id,
        "name": sample.name,
        "type": sample.type,
        "unit": sample.unit,
        "volume": sample.volume,
        "resource_id": sample.resource_id,
        "timestamp": sample.timestamp,
        "metadata": sample.metadata,
    }


def to_line(sample: Sample) -> bytes:
    """Return the sample as a line of JSON with a newline, which ``parse_sample`` reads back."""
    return pydantic_core.to_json(to_record(sample), inf_nan_mode="constants") + b"\n"


def _unix_time(timestamp: str) -> float:
    # Python 3.10 does not accept the Z.
    text = f"{timestamp[:-1]}+00:00" if timestamp.endswith(("Z", "z")) else timestamp
    try:
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - _EPOCH).total_seconds()
    except (ValueError, OverflowError):
        raise CorruptLine(f"timestamp: expected an ISO 8601 time, got {timestamp[:80]!r}") from None
