"""Options, error messages and exit statuses of the programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from jobs.driver.extras import MissingExtra
from partition_actor.errors import InvalidArgument, InvalidSettings


class InputError(Exception):
    """The input is unusable; the message is for the user, a line for each mistake."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``InputError`` instead of printing its usage and exiting."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(prog=f"python -m {program}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise ``InputError``."""
        raise InputError(message)


def together(*parts: Callable[[], Any]) -> list[Any]:
    """Return what each part returns, or raise ``InputError`` with the messages of all that refuse the input."""
    results, refusals = [], []
    for part in parts:
        try:
            results.append(part())
        except (InputError, InvalidSettings, MissingExtra) as error:
            refusals.append(str(error))
    if refusals:
        raise InputError("\n".join(refusals))
    return results


def exit_status(program: str, body: Callable[[], int], *failures: type[Exception]) -> int:
    """Run a program's body and return the process's exit status; print the errors that it raises, line by line.

    Args:
        program: the prefix of each line.
        body: returns the exit status itself if it raises nothing.
        failures: exceptions that mean that the run failed.

    Returns:
        The body's status; 1 for one of the failures; 2 for unusable input; 130 for Ctrl-C.
    """
    try:
        return body()
    except (InputError, InvalidArgument, InvalidSettings) as error:
        lines, status = str(error).splitlines(), 2
    except failures as error:
        lines, status = [_message(error)], 1
    except KeyboardInterrupt:
        return 130
    for line in lines:
        print(f"{program}: {line}", file=sys.stderr)
    return status


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
