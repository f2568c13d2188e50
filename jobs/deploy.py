"""Deploys the partition actor alone, for the workers of other jobs to find, and takes it down again.

::

    python jobs/deploy.py                    into the Ray that runs on this machine; safe to repeat
    python jobs/deploy.py --status           what it knows, as JSON
    python jobs/deploy.py --down
    ray job submit --working-dir . -- python jobs/deploy.py

Exit status: 0; 1 there is no such partition actor, or it did not answer; 2 the input is not usable.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import ray
from polling.joining import InputError, Parser, join, resolve

import partition_actor
from partition_actor import Settings
from partition_actor.errors import InvalidArgument, InvalidSettings, PartitionError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit status."""
    try:
        options = _parser().parse_args(arguments)
        settings = None if options.settings is None else _load(options.settings)
        join(_address(options.address))
        _act(options, settings)
    except (InputError, InvalidArgument, InvalidSettings) as error:
        print(f"deploy.py: {error}", file=sys.stderr)
        return 2
    except PartitionError as error:
        print(f"deploy.py: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> Parser:
    parser = Parser(prog="deploy.py", description="Deploy the partition actor alone.", allow_abbrev=False)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--settings", help="YAML file with the partition actor's settings")
    what.add_argument("--down", action="store_true", help="take the partition actor down")
    what.add_argument("--status", action="store_true", help="print what the partition actor knows, as JSON")
    parser.add_argument("--address", help="the Ray to join [RAY_ADDRESS, or the one on this machine]")
    parser.add_argument("--name", default="partition-actor", help="the partition actor's name [%(default)s]")
    parser.add_argument("--namespace", default="partition_actor", help="the partition actor's namespace [%(default)s]")
    return parser


def _load(path: str) -> Settings:
    try:
        return Settings.load(path)
    except OSError as error:
        raise InputError(f"--settings {path}: {error.strerror}") from None


def _address(given: str | None) -> str:
    # A detached actor outlives its job but not its cluster: a Ray of this program's own makes no sense.
    address = resolve(given, default="auto")
    if address == "local":
        raise InputError("--address local: the partition actor would end with this program")
    return address


def _act(options: argparse.Namespace, settings: Settings | None) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
