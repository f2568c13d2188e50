"""Agents on Ray share out pipelines and the inputs that feed them; some agents may be killed or stopped.

::

    python -m jobs.record                                          record samples of this machine
    python -m jobs.pipelines --kill 1 --stop 1 --compare           a Ray of its own; compared with one agent's run
    python -m jobs.pipelines --agents 1                            one agent, and no Ray
    ray job submit --working-dir . -- python -m jobs.pipelines --input /var/tmp/recorded --out /var/tmp/pipelines

Exit status: 0 everything is published and, with --compare, equals what one agent publishes; or a run with --follow was
interrupted. 1 otherwise, or the run failed. 2 the input is unusable, and nothing was started.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from jobs.driver.cluster import joined, resolve
from jobs.driver.command_line import InputError, Parser, exit_status
from jobs.pipelines.agents import AgentError
from jobs.pipelines.config import load_config
from jobs.pipelines.display import Display, Outcome
from jobs.pipelines.publishers import PublishError
from jobs.pipelines.reading import find_inputs
from jobs.pipelines.report import compare
from jobs.pipelines.run import run
from jobs.pipelines.shard import LostSamples
from jobs.pipelines.single_agent import run_job, run_single
from jobs.pipelines.worker import Job
from partition_actor.errors import PartitionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return the exit status."""
    failures = (PublishError, LostSamples, AgentError, PartitionError, OSError)
    return exit_status("jobs.pipelines", lambda: _main(arguments), *failures)


def _main(arguments: Sequence[str] | None) -> int:
    options = vars(_parser().parse_args(arguments))
    path, address, compared = options.pop("config"), options.pop("address"), options.pop("compare")
    config = load_config(path, {key: value for key, value in options.items() if value is not None})
    if compared and config.follow:
        raise InputError("--compare: with --follow the run has no end to compare at")
    address = resolve(address, default="local")
    inputs = find_inputs(config.input)
    if not inputs.names() and not config.follow:
        raise InputError(f"--input {config.input}: expected *.jsonl in it")
    with _only_run_in(Path(config.out).absolute()) as directory:
        return _run(Job(config, inputs, directory), address, compared)


def _run(job: Job, address: str, compared: bool) -> int:
    display = Display()
    reference = replace(job, config=job.config.files_only(), directory=job.directory / "one_agent")
    _check_same_pipelines(job)
    single = run_single(reference, display, "one agent first")[0] if compared else None
    outcome = _outcome(job, address, display)
    outcome.single = single
    if compared:
        outcome.comparison = compare(job.published, reference.published)
    display.summarise(outcome, job.directory)
    return 0 if outcome.good else 1


def _outcome(job: Job, address: str, display: Display) -> Outcome:
    if job.config.agents > 1:
        return run(job, address, display)
    if not job.config.needs_ray:
        return run_job(job, display)
    with joined(address):
        return run_job(job, display)


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
    """Lock the job's directory, so that no other run works in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / "lock", "w")  # noqa: SIM115 - closed below; errors of the body must not be caught here
    except OSError as error:
        raise InputError(f"--out {directory}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {directory}: another run is at work in it") from None
        yield directory


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.pipelines", "Run pipelines with agents on Ray.")
    default = Path(__file__).parents[1] / "pipelines.yaml"
    parser.add_argument("--config", default=str(default), help="YAML file with pipelines and settings [%(default)s]")
    parser.add_argument(
        "--address", help="the Ray to join: auto, host:port, or local for one of its own [RAY_ADDRESS, or local]"
    )
    parser.add_argument("--input", help="a JSON-lines file, or a directory of *.jsonl [out/recorded]")
    parser.add_argument("--out", help="the job's directory; an existing one is resumed [out/pipelines]")
    parser.add_argument("--agents", type=int, help="number of agents; 1 needs no Ray [4]")
    parser.add_argument("--follow", action="store_true", default=None, help="continue at the end of the input")
    parser.add_argument("--kill", type=int, help="number of agents that get SIGKILL during the run [0]")
    parser.add_argument("--stop", type=int, help="number of agents that are stopped for longer than their lease [0]")
    parser.add_argument("--lease", type=float, help="seconds after which a silent agent counts as lost [3]")
    parser.add_argument("--compare", action="store_true", help="run it with one agent first, and compare")
    parser.add_argument("--name", help="the partition actor's name [partition-actor]")
    parser.add_argument("--namespace", help="the partition actor's namespace [partition_actor]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
