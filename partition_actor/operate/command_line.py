"""The program ``partition-actor``: its commands, and how their errors end it. ``docs/operate.md`` is its page."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click
from ray.exceptions import RayActorError, RayError

from partition_actor.errors import (
    InvalidArgument,
    InvalidSettings,
    PartitionActorNotFound,
    PartitionActorUnavailable,
    PartitionError,
)
from partition_actor.operate import change, look
from partition_actor.operate.connection import check_ray
from partition_actor.operate.demo import demo
from partition_actor.operate.doctor import doctor
from partition_actor.operate.fleets import fleet, fleets
from partition_actor.operate.options import (
    INTERRUPTED,
    PROGRAM,
    UNREACHABLE,
    USAGE,
    Chosen,
    Failure,
    Operation,
    Operations,
    example,
)
from partition_actor.version import __version__


class Program(Operations):
    """All commands. An error that this library or Ray raises ends the program with a line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they were added: what is used together stands together."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (KeyboardInterrupt, click.Abort):
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            with suppress(OSError, ValueError):  # else Python would say so when it flushes at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except PartitionActorNotFound as error:
            line = str(error).partition(": ")[0]
            raise Failure(f"{line}: `{PROGRAM} deploy` starts one, --name and --namespace choose another", 3) from None
        except PartitionActorUnavailable as error:
            raise Failure(f"{error} (`{PROGRAM} doctor` tells more)", UNREACHABLE) from None
        except (InvalidArgument, InvalidSettings) as error:
            raise Failure(str(error), USAGE) from None
        except PartitionError as error:
            raise Failure(str(error)) from None
        except RayActorError:
            raise Failure(
                "the partition actor died meanwhile: what was asked may have been done", UNREACHABLE
            ) from None
        except RayError as error:
            raise Failure(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}") from None


@click.group(
    PROGRAM,
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("status", "--namespace prod status pollers"),
)
@click.version_option(__version__, prog_name=PROGRAM)
def program() -> None:
    """Look at a partition actor and its groups, and change them.

    Run it on a node of the Ray cluster. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no Ray or no
    partition actor, 4 waited for too long.
    """


@click.command(cls=Operation, epilog=example("page", "page --port 8270 --allow-changes"))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine a token is needed."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8270, show_default=True, help="0: any that is free.")
@click.option("--allow-changes", is_flag=True, help="Let the page drain and forget members.")
@click.option("--token", envvar="PARTITION_ACTOR_TOKEN", help="What a browser has to give: 16 characters or more.")
def page(host: str, port: int, allow_changes: bool, token: str | None) -> None:
    """Serve the same as a page for browsers, until Ctrl-C."""
    try:
        run = importlib.import_module("partition_actor.operate.page").run
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "aiohttp":
            raise
        raise Failure("the page needs aiohttp: pip install 'partition-actor[page]'") from None
    chosen = Chosen.now()
    check_ray(chosen.address)  # the page joins Ray in a process of its own
    run(chosen.address, chosen.namespace, chosen.name, host, port, allow_changes, token)


for command in (
    change.deploy,
    look.status,
    look.top,
    look.events,
    look.owner,
    look.subset,
    change.forget,
    change.drain,
    fleets,
    fleet,
    look.locks,
    change.break_lock,
    change.settings,
    change.shutdown,
    doctor,
    demo,
    page,
):
    program.add_command(command)


def main() -> None:
    """Run the program on the arguments of this process, and end the process."""
    with suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    program(prog_name=PROGRAM)
