"""Agents on Ray share out what there is to poll, on every node, and poll it; some agents may be killed.

::

    python -m jobs.poll --config jobs/poll.yaml --kill 1          a Ray of its own
    python -m jobs.poll --config jobs/poll.yaml --agents 1        no Ray
    python -m jobs.poll --cycles 0 --follow --address auto        the Ray that runs on this machine, until Ctrl-C
    python -m jobs.poll --cycles 0 --join --address auto          further agents for the run above
    ray job submit --working-dir . -- python -m jobs.poll --config jobs/poll.yaml

SIGTERM, SIGINT and SIGHUP end a run in good order. Exit status: 0 success; 1 a cycle other than those around a kill has
a gap or a duplicate, a signal came before all cycles were over, or the run failed; 2 the input is unusable, and nothing
was started.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from jobs.driver.cluster import resolve
from jobs.driver.command_line import InputError, Parser, exit_status, together
from jobs.driver.extras import check_extra
from jobs.poll.config import load_config
from jobs.poll.crew import AgentError
from jobs.poll.display import Display
from jobs.poll.plot import plot
from jobs.poll.run import run
from partition_actor.errors import PartitionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    return exit_status("jobs.poll", lambda: _run(arguments), AgentError, PartitionError, OSError)


def _run(arguments: Sequence[str] | None) -> int:
    options = vars(_parser().parse_args(arguments))
    path, address, *flags = (options.pop(name) for name in ("config", "address", "join", "follow", "plot"))
    join, follow, plotted = flags
    config, address = together(
        lambda: load_config(path, {key: value for key, value in options.items() if value is not None}),
        lambda: resolve(address, default="local"),
        lambda: check_extra("--plot", "matplotlib") if plotted else None,
    )[:2]
    directory = _new_run(config.out)
    display = Display(config.cycles, follow)
    try:
        outcome = run(config, address, join, directory, display)
    except InputError:
        directory.rmdir()
        raise
    if directory.exists():
        with open(directory / "summary.txt", "w") as file:  # the terminal may be gone
            Display(config.cycles, console=Console(file=file, width=120)).summarise(outcome, directory)
    display.summarise(outcome, directory)
    if plotted and outcome.recent:
        plot(outcome, directory / "plot.png")
        display.say(f"plot        {directory / 'plot.png'}")
    return 0 if outcome.good else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.poll", "Poll machines with agents on Ray.")
    parser.add_argument("--config", help="YAML file with the settings; the options below override it")
    parser.add_argument(
        "--address", help="the Ray to join: auto, host:port, or local for one of its own [RAY_ADDRESS, or local]"
    )
    parser.add_argument(
        "--agents", type=int, help="number of agents on each node; 1 without --address needs no Ray [4]"
    )
    parser.add_argument("--cycles", type=int, help="number of cycles; 0: until a signal [8]")
    parser.add_argument("--interval", type=float, help="seconds from one cycle's start to the next one's [2]")
    parser.add_argument("--kill", type=int, help="number of agents that get SIGKILL in the middle cycle [0]")
    parser.add_argument("--group", help="the agents' group [pollers]")
    parser.add_argument("--join", action="store_true", help="add the agents to those of another run, in its group")
    parser.add_argument("--follow", action="store_true", help="show on a terminal who polls what")
    parser.add_argument(
        "--plot", action="store_true", help="draw shares, gaps and moved keys into the dataset's directory"
    )
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
