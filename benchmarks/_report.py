"""Shared by all benchmarks: options, measuring, and reporting as a table and as JSON in ``out/bench``."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

DEFAULT_OUT = Path("out/bench")


@dataclass(frozen=True)
class Target:
    """A number that the project promises, and what this run measured. `at_least`: more is better; else less is."""

    what: str
    wanted: float
    measured: float
    unit: str = "x"
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


def arguments(description: str | None) -> argparse.Namespace:
    """The options of every benchmark: ``--quick`` (bool) and ``--out`` (a directory)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to check that it runs: the numbers mean little"
    )
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="directory of the JSON (default: %(default)s)")
    return parser.parse_args()


def median_seconds(call: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of ``repeats`` calls by ``clock``. The garbage collector is off, as in ``timeit``."""
    times = []
    gc.disable()
    try:
        for _ in range(repeats):
            start = clock()
            call()
            times.append(clock() - start)
    finally:
        gc.enable()
    return statistics.median(times)


def machine(packages: Iterable[str]) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, Python, and versions of ``packages`` (None if not installed)."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
        "packages": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. Floats get three significant digits."""
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    # Do not cut columns when the output is a pipe.
    Console(width=None if os.isatty(1) else 160).print(table)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def show_targets(targets: Sequence[Target]) -> None:
    """Print what was promised and what was measured."""
    rows = [
        (
            target.what,
            f"{'≥' if target.at_least else '≤'} {target.wanted:g} {target.unit}",
            f"{target.measured:,.3g} {target.unit}"
            if target.measured < 1000
            else f"{target.measured:,.0f} {target.unit}",
            "yes" if target.met else "NO",
        )
        for target in targets
    ]
    show("Promises", ["promise", "wanted", "measured", "met"], rows)


def save(
    name: str, out: Path, quick: bool, packages: Iterable[str], targets: Sequence[Target], results: dict[str, Any]
) -> Path:
    """Write ``<out>/<name>.json`` and return its path."""
    document = {
        "benchmark": name,
        "quick": quick,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(packages),
        "targets": [
            {
                "what": target.what,
                "wanted": target.wanted,
                "at_least": target.at_least,
                "unit": target.unit,
                "measured": target.measured,
                "met": target.met,
            }
            for target in targets
        ],
        **results,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
