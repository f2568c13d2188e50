"""A sample, and the line of JSON that it is written as."""

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
    """One measurement. A tuple of builtins, as it is pickled once for every pipeline that takes it."""

    id: str
    name: str  # the meter's
    type: str  # a Kind: gauge as it is now; delta since the last sample; cumulative since a start
    unit: str
    volume: float
    resource_id: str
    timestamp: str  # ISO 8601, as it came
    metadata: dict[str, Any]
    at: float  # the timestamp as Unix time, in seconds


class CorruptLine(ValueError):
    """A line is not a sample; the message is one line."""


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
    """The sample of a line of JSON: an object whose keys are the fields of ``Sample``, but for ``at``.

    ``type`` may be left out (gauge), and so may ``unit`` and ``metadata`` (empty). Other keys are passed over.
    A timestamp without an offset is UTC.

    Raises:
        CorruptLine: it is none.
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
    """A sample as a dict of what is written of it."""
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
    """The line of JSON of a sample, with its end; ``parse_sample`` gives the same sample back."""
    return pydantic_core.to_json(to_record(sample), inf_nan_mode="constants") + b"\n"


def _unix_time(timestamp: str) -> float:
    # Python 3.10 does not know the Z.
    text = f"{timestamp[:-1]}+00:00" if timestamp.endswith(("Z", "z")) else timestamp
    try:
        moment = datetime.fromisoformat(text)
        return ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - _EPOCH).total_seconds()
    except (ValueError, OverflowError):
        raise CorruptLine(f"timestamp: expected an ISO 8601 time, got {timestamp[:80]!r}") from None
