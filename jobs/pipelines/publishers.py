"""Publish samples to files, to the log or to an actor; read the files back.

Samples are published before the checkpoint is written. If an owner dies in between, its successor publishes them a
second time: identical, and recognisable by their ids.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet
import pydantic_core

from jobs.pipelines import definitions
from jobs.pipelines.samples import Sample, to_line, to_record

log = logging.getLogger("pipelines.published")


class PublishError(Exception):
    """Samples could not be published; the message is one line for the user."""


class Publisher(Protocol):
    """One publisher of a sink, used by one owner."""

    async def publish(self, samples: Sequence[Sample]) -> None:
        """Return when the samples are published. Raises ``PublishError``; then some may be published."""

    def close(self) -> None:
        """Close files."""


def make_publisher(wanted: definitions.Publisher, directory: Path, path: str, owner: str) -> Publisher:
    """Create the publisher that the YAML defines.

    Args:
        wanted: the definition.
        directory: of all published files.
        path: the sink's.
        owner: part of the file names; unique at any time.
    """
    if isinstance(wanted, definitions.FilePublisher):
        kind = JsonLines if wanted.format == "json" else ParquetParts
        return kind(directory / path, owner)
    if isinstance(wanted, definitions.LogPublisher):
        return Log(path)
    return ToActor(wanted)


def warm_up(wanted: Iterable[definitions.Publisher]) -> None:
    """Do now what would otherwise delay the first batch of such publishers."""
    if any(isinstance(each, definitions.FilePublisher) and each.format == "parquet" for each in wanted):
        pa.array([])  # for its first array pyarrow imports pandas, if installed, which takes half a second


class JsonLines:
    """Writes lines to a file that nobody else writes, so that a SIGKILL can cut off only the last line."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self._owner = owner
        self._file: BinaryIO | None = None

    async def publish(self, samples: Sequence[Sample]) -> None:
        try:
            if self._file is None:
                self._file = _new_file(self._directory, self._owner)
            self._file.write(b"".join(map(to_line, samples)))
        except OSError as error:
            raise PublishError(f"{self._directory}: {error.strerror}") from None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class ParquetParts:
    """Writes a part of a Parquet dataset per batch, under a hidden name and then renamed, so that it is complete."""

    def __init__(self, directory: Path, owner: str) -> None:
        self._directory = directory
        self._owner = owner
        self._parts = 0

    async def publish(self, samples: Sequence[Sample]) -> None:
        columns = {
            "id": [sample.id for sample in samples],
            "name": [sample.name for sample in samples],
            "type": [sample.type for sample in samples],
            "unit": [sample.unit for sample in samples],
            "volume": [sample.volume for sample in samples],
            "resource_id": [sample.resource_id for sample in samples],
            "timestamp": [sample.timestamp for sample in samples],
            "metadata": [json.dumps(sample.metadata) for sample in samples],
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            while (part := self._directory / f"{self._owner}-{self._parts:06d}.parquet").exists():
                self._parts += 1
            unfinished = part.with_name(f".{part.name}.unfinished")
            pyarrow.parquet.write_table(pa.table(columns), unfinished)
            os.replace(unfinished, part)
        except OSError as error:
            raise PublishError(f"{self._directory}: {error.strerror or error}") from None
        self._parts += 1

    def close(self) -> None:
        pass


class Log:
    """Logs a line per sample."""

    def __init__(self, path: str) -> None:
        self._path = path
        log.setLevel(logging.INFO)
        if not log.hasHandlers():
            log.addHandler(logging.StreamHandler())

    async def publish(self, samples: Sequence[Sample]) -> None:
        for sample in samples:
            log.info("%s %s", self._path, to_line(sample).decode().rstrip())

    def close(self) -> None:
        pass


class ToActor:
    """Calls a named Ray actor for each batch and waits for the call to return."""

    def __init__(self, wanted: definitions.ActorPublisher) -> None:
        self._wanted = wanted
        self._handle: Any = None

    async def publish(self, samples: Sequence[Sample]) -> None:
        import ray
        from ray.exceptions import RayError

        wanted = self._wanted
        try:
            if self._handle is None:
                self._handle = ray.get_actor(wanted.name, wanted.namespace)
            await getattr(self._handle, wanted.method).remote([to_record(sample) for sample in samples])
        except (RayError, ValueError, AttributeError) as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise PublishError(f"actor://{wanted.namespace}/{wanted.name}?method={wanted.method}: {reason}") from None

    def close(self) -> None:
        pass


def read_published(directory: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the sink's path and the records of each published file, repeats included.

    A last line without a newline was cut off by a SIGKILL; its sample was published a second time.
    """
    for file in sorted(directory.glob("*/[!.]*")):
        if file.suffix == ".jsonl":
            whole = file.read_bytes().rpartition(b"\n")[0]
            yield file.parent.name, [pydantic_core.from_json(line) for line in whole.split(b"\n") if line]
        elif file.suffix == ".parquet":
            rows = pyarrow.parquet.read_table(file).to_pylist()
            yield file.parent.name, [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


def _new_file(directory: Path, owner: str) -> BinaryIO:
    directory.mkdir(parents=True, exist_ok=True)
    n = 0
    while True:
        try:
            return open(directory / f"{owner}-{n}.jsonl", "xb", buffering=0)
        except FileExistsError:
            n += 1
