"""Agents on Ray share out the resources of this machine and poll them; some of them may be killed.

::

    python jobs/poll.py --config jobs/poll.yaml --kill 1          a Ray of its own
    python jobs/poll.py --config jobs/poll.yaml --address auto    the Ray that runs on this machine
    ray job submit --working-dir . -- python jobs/poll.py --config jobs/poll.yaml

Exit status: 0 all is well; 1 a cycle outside the two around a kill has a gap or a duplicate, or the run
failed; 2 the input is not usable, and nothing was started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from polling.config import load_config
from polling.joining import InputError, Parser, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status."""
    try:
        return _main(arguments)
    except InputError as error:
        print(f"poll.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _main(arguments: Sequence[str] | None) -> int:
    options = vars(_parser().parse_args(arguments))
    config_path, address = options.pop("config"), options.pop("address")
    config = load_config(config_path, {key: value for key, value in options.items() if value is not None})
    address = resolve(address, default="local")
    directory = _new_run(config.out)

    # Ray prints the death of every worker, ours included, into the middle of the progress bar.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    # Not before the input is known to be good: importing Ray takes seconds.
    from polling.display import Display
    from polling.fleet import AgentError
    from polling.run import run

    from partition_actor.errors import PartitionError

    display = Display(config.cycles)
    try:
        outcome = run(config, address, directory, display)
    except InputError:
        directory.rmdir()
        raise
    except (AgentError, PartitionError) as error:
        print(f"poll.py: {error}", file=sys.stderr)
        return 1
    display.summarise(outcome, directory)
    return 0 if outcome.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="poll.py", description="Poll this machine with agents on Ray.", allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with the settings; the options below go over it")
    parser.add_argument(
        "--address", help="the Ray to join: auto, host:port, or local for one of its own [RAY_ADDRESS, or local]"
    )
    parser.add_argument("--agents", type=int, help="how many agents [4]")
    parser.add_argument("--cycles", type=int, help="how many cycles [8]")
    parser.add_argument("--interval", type=float, help="seconds from a cycle's start to the next one's [2]")
    parser.add_argument("--kill", type=int, help="how many agents get SIGKILL in the middle cycle [0]")
    parser.add_argument("--out", help="directory in which the run makes its dataset [out/poll]")
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
