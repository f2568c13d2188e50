"""Deploy the partition actor by itself, for the workers of other jobs; show its status; shut it down.

::

    python -m jobs.deploy                    into the Ray that runs on this machine; safe to repeat
    python -m jobs.deploy --status           what it knows, as JSON
    python -m jobs.deploy --down
    ray job submit --working-dir . -- python -m jobs.deploy

Exit status: 0; 1 there is no such partition actor, or it did not answer; 2 the input is unusable.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import ray

import partition_actor
from jobs.driver.cluster import join, resolve
from jobs.driver.command_line import InputError, Parser, exit_status
from partition_actor import Settings
from partition_actor.errors import PartitionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return the exit status."""
    return exit_status("jobs.deploy", lambda: _run(arguments), PartitionError)


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    settings = None if options.settings is None else Settings.load(options.settings)
    join(_address(options.address))
    name, namespace = options.name, options.namespace
    if options.down:
        partition_actor.connect(name=name, namespace=namespace)
        partition_actor.shutdown(name=name, namespace=namespace)
        print(f"{name} in namespace {namespace} is down")
    elif options.status:
        handle = partition_actor.connect(name=name, namespace=namespace)
        print(json.dumps(ray.get(handle.status.remote()), indent=2, default=str))
    else:
        partition_actor.deploy(name=name, namespace=namespace, settings=settings)
        print(
            f"{name} in namespace {namespace} serves; connect with\n"
            f"    PartitionCoordinator(my_id, actor={name!r}, namespace={namespace!r})\n"
            f"    ray.get_actor({name!r}, namespace={namespace!r})"
        )
    return 0


def _address(given: str | None) -> str:
    address = resolve(given, default="auto")
    if address == "local":
        # A detached actor ends with its cluster, and a local cluster ends with this program.
        raise InputError("--address local: the partition actor would end with this program")
    return address


def _parser() -> argparse.ArgumentParser:
    parser = Parser("jobs.deploy", "Deploy the partition actor by itself.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--settings", help="YAML file with the partition actor's settings")
    what.add_argument("--down", action="store_true", help="shut the partition actor down")
    what.add_argument("--status", action="store_true", help="print what the partition actor knows, as JSON")
    parser.add_argument("--address", help="the Ray to join [RAY_ADDRESS, or the one on this machine]")
    parser.add_argument("--name", default="partition-actor", help="the partition actor's name [%(default)s]")
    parser.add_argument("--namespace", default="partition_actor", help="the partition actor's namespace [%(default)s]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
