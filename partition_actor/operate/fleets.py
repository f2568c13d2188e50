"""The commands about fleets."""

from __future__ import annotations

from typing import Any

import click

from partition_actor import Fleet
from partition_actor.errors import FleetNotFound
from partition_actor.operate import screens, text
from partition_actor.operate.connection import ask, connect
from partition_actor.operate.options import USAGE, Chosen, Failure, Operation, check_can_ask, confirm, example, show


@click.command(cls=Operation, epilog=example("fleets", "fleets --json"))
def fleets() -> None:
    """Show all fleets. A line for each: its size, how many serve, its version, and what happened last."""
    found = ask(connect(), "fleets")
    show(found, screens.fleet_table(found, text.console().width))


@click.command(cls=Operation, epilog=example("fleet billers", "fleet billers --scale 8", "fleet billers --stop --yes"))
@click.argument("wanted", metavar="NAME")
@click.option("--scale", "size", type=click.IntRange(0), help="Have so many workers; with per_node, so many on a node.")
@click.option("--stop", is_flag=True, help="Let all workers hand over, and end the fleet. Wait until it has ended.")
@click.option("--yes", "-y", "sure", is_flag=True, help="Do it without being asked.")
@click.pass_context
def fleet(ctx: click.Context, wanted: str, size: int | None, stop: bool, sure: bool) -> None:
    """Show fleet NAME, its workers and what happened, or change it.

    Of a worker: its slot, member id, phase and since when, where it runs, its version and load, how often its slot was
    restarted, and why the last one failed. --scale and --stop are for a fleet that was deployed.
    """
    if size is not None and stop:
        raise Failure("--scale and --stop exclude each other", USAGE)
    if size is not None or stop:
        check_can_ask(ctx, sure)
    found = ask(connect(), "fleets", wanted).get(wanted)
    if size is not None:
        _scale(wanted, size, found, sure)
    elif stop:
        _stop(wanted, found, sure)
    elif found is None:
        raise FleetNotFound(f"there is no fleet {wanted!r}, or it has not told of itself for 30 s: see `fleets`")
    else:
        show(found, screens.fleet_details(found, text.console().width))


def _deployed(name: str, found: dict[str, Any] | None) -> Fleet:
    try:
        return Fleet.connect(name, Chosen.now().namespace)
    except FleetNotFound as error:
        if found is None:
            raise
        raise Failure(f"fleet {name!r} was not deployed, so only its program can change it ({error})") from None


def _scale(name: str, size: int, found: dict[str, Any] | None, sure: bool) -> None:
    running = _deployed(name, found)
    before = running.status()
    per_node = before["per_node"]
    was, each = (per_node, " on each node") if per_node is not None else (before["size"], "")
    then = " The workers in the highest slots hand over, leave and are ended." if size < was else ""
    confirm(f"Scale fleet {name} from {was} to {text.plural(size, 'worker')}{each}.{then}", sure)
    running.scale(size)
    show({"fleet": name, "before": was, "size": size}, f"{text.printable(name)} scales from {was} to {size}{each}")


def _stop(name: str, found: dict[str, Any] | None, sure: bool) -> None:
    running = _deployed(name, found)
    workers = text.plural(running.status()["serving"], "worker")
    confirm(f"Stop fleet {name}: {workers} hand over, leave and are ended.\nThis cannot be undone.", sure)
    running.stop()
    show({"fleet": name, "ended": True}, f"{text.printable(name)} has ended")
