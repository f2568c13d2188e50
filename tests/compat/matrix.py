"""Runs what must work on every supported Ray and Python, each pair in an environment of its own.

::

    python tests/compat/matrix.py                                 every pair, and members of two versions: an hour
    python tests/compat/matrix.py --oldest                        what CI runs: the oldest Ray, a small set
    python tests/compat/matrix.py --ray 2.40.0 --python 3.11      one pair
    python tests/compat/matrix.py --table                         the README's table, from the results in out/compat

A pair gets plain ``ray`` and this package first, as ``pip install`` chooses the rest, and what works without extras is
tried; then the extras, the tests of `TESTS` on a real cluster, ``jobs.poll`` with a kill, and a measurement of
failovers. Results are JSON in ``out/compat``. The environments lie there too, one at a time, and are removed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "compat"

NEWEST = "2.60.0"
RAYS = ("2.31.0", "2.40.0", "2.49.2", NEWEST)
"""The oldest that pyproject.toml allows, two in the middle, and that of constraints.txt."""
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST_FOR = {"3.13": "2.45.0"}
"""The oldest Ray that has a wheel for a Python, where that is not the oldest of all."""
MAIN = "3.11"
"""The Python on which every Ray of `RAYS` runs all of `TESTS`; on the others the oldest and the newest run `SMALL`."""

SMALL = (
    ("tests/actor/test_words_of_ray.py", "tests/member/test_coordinator.py"),
    ("tests/actor/test_bare_callers.py", "-k", "not another_node"),
    ("tests/fleet/test_fleet.py", "-k", "killed or busy"),
)
"""Arguments of each run of pytest. Tests that add a node to the cluster have one of their own: after a node has left,
Ray 2.31 sometimes does not send the first call of a new worker."""
TESTS = (
    *SMALL,
    ("tests/actor/test_bare_callers.py", "-k", "another_node"),
    ("tests/actor/test_partition_actor.py", "tests/member/test_exclusive.py", "tests/test_deployment.py"),
    ("tests/router/test_router_faults.py", "tests/router/test_nested_calls.py"),
    ("tests/fleet/test_fleet.py", "-k", "not (killed or busy)"),
)
LIMIT = 1800  # s, for one step

Runs = tuple[tuple[str, ...], ...]


class Unavailable(Exception):
    """This Python or this Ray cannot be had here."""


def pairs() -> list[tuple[str, str, Runs]]:
    """Ray, Python and tests."""
    found = [(ray, MAIN, TESTS) for ray in RAYS]
    for python in PYTHONS:
        if python != MAIN:
            found += [(OLDEST_FOR.get(python, RAYS[0]), python, SMALL), (NEWEST, python, SMALL)]
    return found


def interpreter(python: str) -> str:
    """A Python of this version on this machine."""
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == python:
        return sys.executable
    for installed in sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python")):
        return str(installed)
    if found := shutil.which(f"python{python}"):
        return found
    raise Unavailable(f"there is no Python {python} on this machine")


class Environment:
    """A virtual environment with one Ray, removed at the end of a ``with``."""

    def __init__(self, ray: str, python: str, keep: bool) -> None:
        self.ray, self.python, self._keep = ray, interpreter(python), keep
        self._home = OUT / f"venv-{ray}-{python}"

    def __enter__(self) -> Environment:
        shutil.rmtree(self._home, ignore_errors=True)
        OUT.mkdir(parents=True, exist_ok=True)
        subprocess.run([self.python, "-m", "venv", self._home], check=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._keep:
            shutil.rmtree(self._home, ignore_errors=True)

    def install(self, *packages: str) -> None:
        """Install packages beside this Ray."""
        log = self.run("-m", "pip", "install", "--quiet", f"ray=={self.ray}", *packages)
        if log.returncode:
            if f"No matching distribution found for ray=={self.ray}" in log.stderr:
                raise Unavailable(f"Ray {self.ray} has no wheel for {self.python}")
            raise SystemExit(f"cannot install {packages}: {log.stderr}")

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run Python there, from the root of the checkout."""
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        environment = {key: value for key, value in environment.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
        environment["PATH"] = f"{self._home / 'bin'}{os.pathsep}{environment['PATH']}"
        command = [self._home / "bin" / "python", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)

    def pytest(self, *runs: tuple[str, ...]) -> dict[str, Any]:
        """Run tests there; returns how many passed and were skipped, and which failed."""
        total: dict[str, Any] = {"passed": 0, "failed": [], "skipped": 0}
        for run in runs:
            for what, found in self._pytest(run).items():
                total[what] += found
        return total

    def _pytest(self, tests: tuple[str, ...]) -> dict[str, Any]:
        report = self._home / "report.xml"
        report.unlink(missing_ok=True)
        log = self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests)
        cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []
        bad = [f"{case.get('classname')}.{case.get('name')}" for case in cases if _has(case, "failure", "error")]
        skipped = sum(_has(case, "skipped") for case in cases)
        if log.returncode:
            print(log.stdout[-20_000:], log.stderr[-5_000:])
        passed = len(cases) - len(bad) - skipped
        return {"passed": passed, "failed": bad or ([] if log.returncode == 0 else ["pytest"]), "skipped": skipped}


def _has(case: ElementTree.Element, *kinds: str) -> bool:
    return any(case.find(kind) is not None for kind in kinds)


def try_pair(ray: str, python: str, tests: Runs, *, keep: bool, measure: bool) -> dict[str, Any]:
    """Everything for one pair. Raises ``Unavailable``."""
    started = time.monotonic()
    with Environment(ray, python, keep) as environment:
        environment.install(str(ROOT), "pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")
        versions = environment.run("-c", "import platform; print(platform.python_version())").stdout.strip()
        result: dict[str, Any] = {
            "ray": ray,
            "python": versions,
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "plain": environment.pytest(("tests/compat/plain_ray.py",)),
        }
        environment.install(f"{ROOT}[jobs,page]")
        result["tests"] = environment.pytest(*tests)
        job = ("-m", "jobs.poll", "--config", "jobs/poll.yaml", "--kill", "1", "--out", OUT / "poll")
        log = environment.run(*job)
        result["poll"] = log.returncode
        if log.returncode:
            print(log.stdout[-5_000:], log.stderr[-5_000:])
        shutil.rmtree(OUT / "poll", ignore_errors=True)
        if measure:
            log = environment.run("tests/compat/failover.py")
            result["failover"] = json.loads(log.stdout.splitlines()[-1]) if log.returncode == 0 else log.stderr[-2_000:]
        result["seconds"] = round(time.monotonic() - started)
    (OUT / f"{ray}-{python}.json").write_text(json.dumps(result, indent=1))
    return result


def try_wheels(*, keep: bool) -> bool:
    """Members and partition actors of two versions on one Ray."""
    with Environment(NEWEST, MAIN, keep) as environment:
        environment.install(f"{ROOT}[jobs]", "pytest>=8", "pytest-timeout>=2.3")
        found = environment.pytest(("tests/compat/wheels.py",))
    (OUT / "wheels.json").write_text(json.dumps(found))
    print(f"members and partition actors of two versions: {told(found)}")
    return not found["failed"]


def told(found: dict[str, Any]) -> str:
    """A result of pytest in words."""
    bad = f", FAILED: {', '.join(found['failed'])}" if found["failed"] else ""
    return f"{found['passed']} passed{bad}" + (f", {found['skipped']} skipped" if found["skipped"] else "")


def is_good(result: dict[str, Any]) -> bool:
    """Whether nothing has failed."""
    failover = result.get("failover", {})
    return not (result["plain"]["failed"] or result["tests"]["failed"] or result["poll"] or isinstance(failover, str))


def show(result: dict[str, Any]) -> None:
    """A line about a pair."""
    failover = result.get("failover")
    took = ""
    if isinstance(failover, dict):
        took = f", failover {failover['ms']:.0f} ms, {failover['ratio']:.1f} x Ray's floor"
    elif failover:
        took = f", failover FAILED: {failover}"
    print(
        f"{'ok  ' if is_good(result) else 'FAIL'} Ray {result['ray']} on Python {result['python']}: tests "
        f"{told(result['tests'])}; plain ray {told(result['plain'])}; jobs.poll ends with {result['poll']}{took} "
        f"({result['seconds']} s)",
        flush=True,
    )


def table() -> str:
    """The README's table."""
    results = [json.loads(path.read_text()) for path in OUT.glob("*-*.json")]
    results.sort(key=lambda each: [[int(part) for part in each[name].split(".")] for name in ("ray", "python")])
    lines = [
        "| Ray | Python | tests on a real cluster | plain `ray` | `jobs.poll --kill 1` | failover | over Ray's floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in results:
        failover = each.get("failover")
        took = (f"{failover['ms']:.0f} ms", f"{failover['ratio']:.1f}") if isinstance(failover, dict) else ("", "")
        cells = (
            *(each["ray"], each["python"], told(each["tests"]), told(each["plain"])),
            *("ok" if each["poll"] == 0 else "FAILED", *took),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"Run on {max(each['date'] for each in results)}.", "", *lines])


def oldest(keep: bool) -> bool:
    """What CI runs: the oldest Ray that has a wheel for this Python."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for ray in (*RAYS[:1], *OLDEST_FOR.values(), *RAYS[1:]):
        try:
            result = try_pair(ray, python, SMALL, keep=keep, measure=False)
        except Unavailable as error:
            print(f"{error}: the next one is taken")
            continue
        show(result)
        # The plain closing line that counts in any language.
        counts = [result["plain"], result["tests"]]
        print(f"compat: {sum(c['passed'] for c in counts)} passed, {sum(len(c['failed']) for c in counts)} failed")
        return is_good(result)
    raise SystemExit(f"no supported Ray has a wheel for Python {python}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", action="store_true", help="what CI runs")
    parser.add_argument("--ray", help="of one pair")
    parser.add_argument("--python", default=MAIN, help="of one pair (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="the small set of tests for one pair")
    parser.add_argument("--wheels", action="store_true", help="members of two versions alone")
    parser.add_argument("--table", action="store_true", help="print the README's table, and run nothing")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if options.table:
        print(table())
        return
    if options.oldest:
        sys.exit(not oldest(options.keep))
    if options.wheels:
        sys.exit(not try_wheels(keep=options.keep))
    chosen = [(options.ray, options.python, SMALL if options.small else TESTS)] if options.ray else pairs()
    good = True
    for ray, python, tests in chosen:
        try:
            result = try_pair(ray, python, tests, keep=options.keep, measure=True)
        except Unavailable as error:
            print(f"left out: {error}")
            continue
        show(result)
        good &= is_good(result)
    if not options.ray:
        good &= try_wheels(keep=options.keep)
    sys.exit(not good)


if __name__ == "__main__":
    main()
