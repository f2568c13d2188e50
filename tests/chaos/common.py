"""What the programs here share: workers that write down what they do, and what comes before and after an attack."""

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

from partition_actor import PartitionCoordinator


class Writer:
    """A worker with a file of its own, in which each line is what it did."""

    def __init__(self, worker_id: str, actor: str, path: str) -> None:
        self._id = worker_id
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._coordinator = PartitionCoordinator(worker_id, actor=actor)
        self._coordinator.start()

    def pid(self) -> int:
        return os.getpid()

    def stop(self) -> None:
        self._coordinator.stop()

    def _write(self, *lines: list[Any]) -> None:
        os.write(self._file, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(folder: Path) -> list[list[Any]]:
    """Every whole line of every worker's file; a killed worker may leave half a line."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


def make_parser(doc: str) -> argparse.ArgumentParser:
    """The command line of a program with this docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    return parser


@contextmanager
def ray_and_folder(seed: int, num_cpus: int = 16) -> Iterator[Path]:
    """With a Ray of the program's own, and a folder for the workers' files."""
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
    """Print how much was done and what was found wrong, kind by kind; 0 when nothing was, else 1."""
    print(", ".join([done, *(f"{kind}: {len(found)}" for kind, found in findings.items())]))
    for found in findings.values():
        for line in found[:10]:
            print("  " + line)
    return 1 if any(findings.values()) else 0
