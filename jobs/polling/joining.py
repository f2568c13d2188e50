"""Which Ray to join, and joining it: also for ``jobs/deploy.py``."""

from __future__ import annotations

import argparse
import os
import socket
from typing import NoReturn

# Seconds in which a cluster's head must accept a connection.
_CONNECT_LIMIT = 10.0


class InputError(Exception):
    """The input is not usable; the message is one line for the user."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is an ``InputError``, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raises ``InputError``."""
        raise InputError(message)


def resolve(given: str | None, default: str) -> str:
    """The address to join: the given one, or else ``RAY_ADDRESS``, or else the default.

    Returns:
        ``auto``, ``local`` or ``host:port``.

    Raises:
        InputError: it is none of them.
    """
    chosen = given or os.environ.get("RAY_ADDRESS") or default
    address = os.environ.get("RAY_ADDRESS") or "auto" if chosen == "auto" else chosen
    if "://" in address:
        raise InputError(
            f"--address {address}: expected auto, local or host:port of a cluster that this machine is in; "
            "for another cluster use ray job submit"
        )
    _, _, port = address.rpartition(":")
    if address not in ("auto", "local") and not (":" in address and port.isdecimal()):
        raise InputError(f"--address {address}: expected auto, local or host:port")
    return address


def join(address: str) -> None:
    """Joins the Ray at the address as a driver that prints no worker's output; ``local`` starts one.

    Raises:
        InputError: there is none.
    """
    if address not in ("auto", "local"):
        _check_that_something_listens(address)

    import logging

    import ray  # takes seconds: not for input that is refused

    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray has a bare one for processes of its own that did not come up in time
        raise InputError(f"--address {address}: cannot join Ray: {' '.join(str(error).split())}") from None


def _check_that_something_listens(address: str) -> None:
    # Ray itself would try for a quarter of an hour.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_LIMIT).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: cannot join Ray: {error}") from None
