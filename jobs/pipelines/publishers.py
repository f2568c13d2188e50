"""Where samples go: files, the log, an actor; and how files are read back.

To publish is done before the checkpoint is written, so an owner that dies between the two leaves samples that its
successor publishes again. They are the same to the last bit, and their ids tell them from new ones.
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
    """One publisher of a sink, for one owner's time."""

    async def publish(self, samples: Sequence[Sample]) -> None:
        """Returns when they are published. Raises ``PublishError``; some of them may be published then."""

    def close(self) -> None:
        """Lets files go."""


def make_publisher(wanted: definitions.Publisher, directory: Path, path: str, owner: str) -> Publisher:
    """The publisher that the YAML asks for.

    Args:
        wanted: what it asks for.
        directory: where all that is published in files goes.
        path: the sink's.
        owner: part of file names; nobody else has it at the same time.
    """
    if isinstance(wanted, definitions.FilePublisher):
        kind = JsonLines if wanted.format == "json" else ParquetParts
        return kind(directory / path, owner)
    if isinstance(wanted, definitions.LogPublisher):
        return Log(path)
    return ToActor(wanted)


def warm_up(wanted: Iterable[definitions.Publisher]) -> None:
    """Does now what would hold up the first batch of such publishers."""
    if any(isinstance(each, definitions.FilePublisher) and each.format == "parquet" for each in wanted):
        pa.array([])  # with its first array pyarrow imports pandas, if that is installed: half a second


class JsonLines:
    """Lines in a new file, which nobody else writes: a line that a SIGKILL cuts off is its last."""

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
    """A part of a Parquet dataset for each batch; written under a hidden name and renamed, so it is there whole."""

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
    """A line of the log for each sample."""

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
    """A call of a named Ray actor for each batch; it has taken it when the call returns."""

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
    """What is in the files: for each, the sink's path and its records, repeats included.

    A last line without an end was cut off by a SIGKILL, and was published again.
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
