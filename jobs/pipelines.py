"""Agents on Ray share out pipelines, and the inputs that feed them; some agents may be killed or stopped.

::

    python jobs/record.py                                          records samples of this machine
    python jobs/pipelines.py --kill 1 --stop 1 --compare           a Ray of its own; compared with one agent's run
    python jobs/pipelines.py --agents 1                            one agent, and no Ray
    ray job submit --working-dir . -- python jobs/pipelines.py --input /var/tmp/recorded --out /var/tmp/pipelines

Exit status: 0 all is published and, with --compare, it is what one agent publishes; or it was interrupted while it
followed. 1 it is not, or the run failed. 2 the input is not usable, and nothing was started.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from piping.config import PipelinesConfig, load_config
from piping.reading import Inputs, find_inputs
from polling.joining import InputError, Parser, resolve

if TYPE_CHECKING:
    from piping.display import Display, Outcome
    from piping.worker import Job


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the job; returns the exit status."""
    try:
        return _main(arguments)
    except InputError as error:
        for line in str(error).splitlines():
            print(f"pipelines.py: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _main(arguments: Sequence[str] | None) -> int:
    options = vars(_parser().parse_args(arguments))
    path, address, compared = options.pop("config"), options.pop("address"), options.pop("compare")
    config = load_config(path, {key: value for key, value in options.items() if value is not None})
    if compared and config.follow:
        raise InputError("--compare: what is followed has no end to compare at")
    address = resolve(address, default="local")
    inputs = find_inputs(config.input)
    if not inputs.names() and not config.follow:
        raise InputError(f"--input {config.input}: expected *.jsonl in it")
    with _only_run_in(Path(config.out).absolute()) as directory:
        return _run(config, inputs, directory, address, compared)


def _run(config: PipelinesConfig, inputs: Inputs, directory: Path, address: str, compared: bool) -> int:
    # Ray prints the death of every worker, ours included, into the middle of the progress bar.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed")
    # Not before the input is known to be good: it takes a second, and with Ray more.
    from piping.display import Display
    from piping.lone import run_alone
    from piping.publishers import PublishError
    from piping.report import compare
    from piping.shard import LostSamples
    from piping.worker import Job

    job, display = Job(config, inputs, directory), Display()
    reference = replace(job, config=config.files_only(), directory=directory / "alone")
    _check_same_pipelines(job)
    try:
        alone = run_alone(reference, display, "one agent first")[0] if compared else None
        outcome = _outcome(job, address, display)
    except (PublishError, LostSamples, OSError) as error:
        print(f"pipelines.py: {error}", file=sys.stderr)
        return 1
    if outcome is None:
        return 1
    outcome.alone = alone
    if compared:
        outcome.comparison = compare(job.published, reference.published)
    display.summarise(outcome, directory)
    return 0 if outcome.good else 1


def _outcome(job: Job, address: str, display: Display) -> Outcome | None:
    """Runs the job, with Ray if it has several agents; None when that has failed, which is said."""
    if job.config.agents == 1:
        from piping.lone import run_lone

        if not job.config.needs_ray:
            return run_lone(job, display)
        from polling.cluster import joined

        with joined(address):
            return run_lone(job, display)
    from piping.fleet import AgentError
    from piping.run import run

    from partition_actor.errors import PartitionError

    try:
        return run(job, address, display)
    except (AgentError, PartitionError) as error:
        print(f"pipelines.py: {error}", file=sys.stderr)
        return None


def _check_same_pipelines(job: Job) -> None:
    offsets = job.offsets()
    try:
        known = offsets.made_with(job.config.fingerprint)
    finally:
        offsets.close()
    if known != job.config.fingerprint:
        raise InputError(f"--out {job.config.out}: was made with other pipelines; give another directory, or remove it")


@contextmanager
def _only_run_in(directory: Path) -> Iterator[Path]:
    """With a directory that no other run of the job is at work in."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"--out {directory}: another run is at work in it") from None
            yield directory
    except OSError as error:
        raise InputError(f"--out {directory}: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="pipelines.py", description="Run pipelines with agents on Ray.", allow_abbrev=False)
    default = Path(__file__).with_name("pipelines.yaml")
    parser.add_argument("--config", default=str(default), help="YAML file with pipelines and settings [%(default)s]")
    parser.add_argument(
        "--address", help="the Ray to join: auto, host:port, or local for one of its own [RAY_ADDRESS, or local]"
    )
    parser.add_argument("--input", help="a JSON-lines file, or a directory of *.jsonl [out/recorded]")
    parser.add_argument("--out", help="the job's directory; one that is there is resumed [out/pipelines]")
    parser.add_argument("--agents", type=int, help="how many agents; 1 needs no Ray [4]")
    parser.add_argument("--follow", action="store_true", default=None, help="go on when the input's end is reached")
    parser.add_argument("--kill", type=int, help="how many agents get SIGKILL on the way [0]")
    parser.add_argument("--stop", type=int, help="how many agents are stopped on the way, and go on later [0]")
    parser.add_argument("--lease", type=float, help="seconds after which a silent agent is taken for lost [3]")
    parser.add_argument("--compare", action="store_true", help="run it with one agent first, and compare")
    parser.add_argument("--name", help="the partition actor's name [partition-actor]")
    parser.add_argument("--namespace", help="the partition actor's namespace [partition_actor]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
