"""The programs of tests/chaos, each for a short time: real clusters and real signals, judged by the workers' logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parent


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "command",
    [["ledger.py", "--seconds", "45", "--seed", "7"], ["cut_off.py"], ["routed.py", "--calls", "3000", "--seed", "7"]],
    ids=[
        "workers and the partition actor under attack",
        "the partition actor cut off from the GCS",
        "calls to the owners of keys under attack",
    ],
)
def test_no_key_ever_has_two_owners_and_no_token_goes_back(command: list[str]) -> None:
    shown = run(*command)
    assert "overlaps: 0, reversals: 0" in shown


@pytest.mark.timeout(400)
def test_no_lock_ever_has_two_holders_and_its_tokens_grow() -> None:
    shown = run("locks.py", "--holds", "300", "--seed", "7")
    assert "overlaps: 0, reversals: 0" in shown
    assert "'kill'" in shown


def run(*command: str) -> str:
    program = subprocess.run(
        [sys.executable, *command], cwd=CHAOS, capture_output=True, text=True, check=False, timeout=380
    )
    assert program.returncode == 0, program.stdout[-4000:] + program.stderr[-4000:]
    return program.stdout
