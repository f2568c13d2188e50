"""Agents on Ray share out this machine's resources and poll them; some agents may be killed.

::

    python -m jobs.poll --config jobs/poll.yaml --kill 1          a Ray of its own
    python -m jobs.poll --config jobs/poll.yaml --address auto    the Ray that runs on this machine
    ray job submit --working-dir . -- python -m jobs.poll --config jobs/poll.yaml

Exit status: 0 success; 1 a cycle other than the two around a kill has a gap or a duplicate, or the run failed; 2 the
input is unusable, and nothing was started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from jobs.driver.cluster import resolve
from jobs.driver.command_line import InputError, Parser, exit_status
from jobs.poll.config import load_config
from jobs.poll.display import Display
from jobs.poll.fleet import AgentError
from jobs.poll.run import run
from partition_actor.errors import PartitionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    return exit_status("jobs.poll", lambda: _run(arguments), AgentError, PartitionError)


def _run(arguments: Sequence[str] | None) -> int:
    options = vars(_parser().parse_args(arguments))
    config_path, address = options.pop("config"), options.pop("address")
    config = load_config(config_path, {key: value for key, value in options.items() if value is not None})
    address = resolve(address, default="local")
    directory = _new_run(config.out)
    display = Display(config.cycles)
    try:
        outcome = run(config, address, directory, display)
    except InputError:
        directory.rmdir()
        raise
    display.summarise(outcome, directory)
    return 0 if outcome.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.poll", "Poll this machine with agents on Ray.")
    parser.add_argument("--config", help="YAML file with the settings; the options below override it")
    parser.add_argument(
        "--address", help="the Ray to join: auto, host:port, or local for one of its own [RAY_ADDRESS, or local]"
    )
    parser.add_argument("--agents", type=int, help="number of agents [4]")
    parser.add_argument("--cycles", type=int, help="number of cycles [8]")
    parser.add_argument("--interval", type=float, help="seconds from one cycle's start to the next one's [2]")
    parser.add_argument("--kill", type=int, help="number of agents that get SIGKILL in the middle cycle [0]")
    parser.add_argument("--out", help="directory in which the run creates its dataset [out/poll]")
    parser.add_argument("--name", help="the partition actor's name [partition-actor]")
    parser.add_argument("--namespace", help="the partition actor's namespace [partition_actor]")
    return parser


def _new_run(out: str) -> Path:
    now = datetime.now(timezone.utc)
    directory = Path(out).absolute() / f"{now:%Y%m%dT%H%M%S}-{os.getpid()}"
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}") from None
    return directory


if __name__ == "__main__":
    sys.exit(main())
