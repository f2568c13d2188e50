"""Shared by the chaos programs: workers that log what they do, a Ray to attack, and the report."""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

from partition_actor import PartitionCoordinator, Settings


class Writer:
    """A worker that logs what it did, one JSON line at a time, to a file of its own."""

    def __init__(self, worker_id: str, actor: str, path: str, call_timeout: float = 5.0) -> None:
        self._id = worker_id
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._coordinator = PartitionCoordinator(worker_id, actor=actor, settings=Settings(call_timeout=call_timeout))
        self._coordinator.start()

    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        self._coordinator.stop()

    def _write(self, *lines: list[Any]) -> None:
        os.write(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(folder: Path) -> list[list[Any]]:
    """Every complete line of every worker's file. A killed worker may leave half a line."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The command line parser of a program with this docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser


@contextmanager
def ray_and_folder(seed: int, num_cpus: int = 16) -> Iterator[Path]:
    """Run the block with a Ray of the program's own; yields a folder for the workers' files."""
    print(f"seed {seed}", flush=True)
    ray.init(
        address="local", num_cpus=num_cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        ray.shutdown()


def show(done: str, findings: dict[str, list[str]]) -> int:
    """Print how much was done and what was found wrong, by kind. Returns 0 if nothing was wrong, else 1."""
    print(", ".join([done, *(f"{kind}: {len(found)}" for kind, found in findings.items())]))
    for found in findings.values():
        for line in found[:10]:
            print("  " + line)
    return 1 if any(findings.values()) else 0
