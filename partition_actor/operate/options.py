"""What all commands share: the options that say which partition actor, errors as one line, and the question first."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from partition_actor.deployment import NAME, NAMESPACE
from partition_actor.operate import text

FAILED, USAGE, UNREACHABLE, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes, as in ``docs/operate.md``."""

PROGRAM = "partition-actor"


class Failure(click.ClickException):
    """Ends the program with one line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Print the line."""
        note(f"{PROGRAM}: {self.message}")


def note(line: str) -> None:
    """Print a line that is no result."""
    click.echo(text.printable(line), err=True)


class Chosen:
    """Which partition actor is meant, and whether the output is for a program."""

    address: str | None
    namespace: str
    name: str
    as_json: bool

    @classmethod
    def now(cls) -> Chosen:
        """Those of the command that runs."""
        found = click.get_current_context().find_object(cls)
        assert found is not None
        return found


def _keep(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    """An option counts before the command as after it; the one after it wins, and both win over the environment."""
    assert option.name is not None
    chosen = ctx.find_root().ensure_object(Chosen)
    if ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE or not hasattr(chosen, option.name):
        setattr(chosen, option.name, value)


def _common() -> list[click.Parameter]:
    shared: dict[str, Any] = {"expose_value": False, "callback": _keep}
    return [
        click.Option(
            ["--address"],
            metavar="HOST:PORT",
            envvar="PARTITION_ACTOR_ADDRESS",
            help="The Ray cluster. Default: RAY_ADDRESS, or else the Ray that runs on this machine.",
            **shared,
        ),
        click.Option(
            ["--namespace"],
            default=NAMESPACE,
            show_default=True,
            envvar="PARTITION_ACTOR_NAMESPACE",
            help="The partition actor's namespace in Ray.",
            **shared,
        ),
        click.Option(
            ["--name"],
            default=NAME,
            show_default=True,
            envvar="PARTITION_ACTOR_NAME",
            help="The partition actor's name.",
            **shared,
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for programs.", **shared),
    ]


class Operation(click.Command):
    """A command with the options that all have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common()


class Operations(click.Group):
    """A group of commands, with the options that all have."""

    command_class = Operation

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common()


def example(*commands: str) -> str:
    """The end of a help text."""
    return "\b\nExample:\n" + "\n".join(f"  {PROGRAM} {command}" for command in commands)


def check_can_ask(ctx: click.Context, sure: bool) -> None:
    """Raise ``Failure`` if the user is not `sure` and nobody can be asked."""
    if not sure and not ctx.resilient_parsing and not sys.stdin.isatty():
        raise Failure(f"{ctx.command_path} changes what runs, and nobody can be asked here: add --yes to do it", USAGE)


def _can_ask(ctx: click.Context, _option: click.Parameter, sure: bool) -> bool:
    check_can_ask(ctx, sure)
    return sure


yes = click.option("--yes", "-y", "sure", is_flag=True, callback=_can_ask, help="Do it without being asked.")
"""The option of a command that calls `confirm`. It is refused at once where nobody can be asked."""


def confirm(consequences: str, sure: bool) -> None:
    """Say what will happen and ask, unless the user is `sure`. Raises ``Failure`` if the answer is not yes."""
    if sure:
        return
    click.echo("\n".join(map(text.printable, consequences.splitlines())), err=True)
    click.echo("Go on? [y/N] ", err=True, nl=False)  # click's own question would write to stdout
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")


def show(value: object, lines: Any) -> None:
    """Print a result: `value` as JSON, or else `lines`, something that rich can print."""
    if Chosen.now().as_json:
        click.echo(text.to_json(value))
    else:
        text.console().print(lines)
