"""The commands that only show something."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO, NoReturn

import click
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from partition_actor.errors import MemberNotFound
from partition_actor.operate import screens, text
from partition_actor.operate.connection import ask, connect
from partition_actor.operate.keys import checked, published_ring, read_keys
from partition_actor.operate.observer import Observer
from partition_actor.operate.options import UNREACHABLE, USAGE, Chosen, Failure, Operation, example, note, show

INTERVAL = 1.0
"""Seconds between two looks of `top` and `events --follow`."""
LATEST = 200
"""Events that `top` has at hand: more than a screen has lines."""


@click.command(cls=Operation, epilog=example("status", "status pollers --sort share --limit 20"))
@click.argument("group", required=False)
@click.option(
    "--sort",
    type=click.Choice(list(screens.ORDERS)),
    default="lag",
    show_default=True,
    help="Which members come first.",
)
@click.option("--limit", type=click.IntRange(0), default=50, show_default=True, help="Groups or members shown; 0: all.")
def status(group: str | None, sort: str, limit: int) -> None:
    """Show all groups, or the members of GROUP.

    Of a member: its share of the ring and weight, the epoch that it has acknowledged and for how long it owes a later
    one (lag), what is left of its lease, when it was last heard, where it runs, and how its death would be learnt.
    """
    handle, console = connect(), text.console()
    if group is None:
        reply = ask(handle, "status")
        show(reply, screens.overview(reply, limit, console.width))
    else:
        reply = ask(handle, "status", group)
        show(reply, screens.group_details(reply, sort, limit, console.width))


@click.command(cls=Operation, epilog=example("top", "top --once --json"))
@click.option("--once", is_flag=True, help="Look for one interval, print, and end.")
@click.option("--interval", type=click.FloatRange(0.1), default=INTERVAL, show_default=True, help="Seconds.")
def top(once: bool, interval: float) -> None:
    """Watch it live. Shows heartbeats, lateness, hand-offs, who holds them up, fleets that fail, and what happens.

    Ctrl-C ends it. Without a terminal it prints one screen, as with --once; with --json, a line for each look.
    """
    as_json, console = Chosen.now().as_json, text.console()
    is_live = console.is_terminal and not once and not as_json
    handle = connect()
    observer = Observer(handle, since=max(0, ask(handle, "status")["events"] - LATEST))
    latest: deque[dict[str, Any]] = deque(maxlen=LATEST)
    screen: RenderableType = Text("")
    with (
        suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) if is_live else nullcontext() as live,
    ):
        for number, (said, rate) in enumerate(_looks(observer, interval)):
            if said is not None:
                latest.extend(said["events"]["events"])
                fleets = said.get("fleets", {})  # a partition actor of a version before knows of none
                screen = screens.top_screen(said["status"], fleets, rate, latest, console.width, console.height - 1)
            if live is not None:
                live.update(_with_loss(screen, observer), refresh=True)
            elif said is None:
                raise Failure(f"the partition actor is lost: {observer.reason}", UNREACHABLE)
            elif number and as_json:
                click.echo(text.to_json({"heartbeats_per_second": rate, **said}, line=True))
            elif number:
                console.print(screen)
            if number and live is None and (once or not as_json):
                return


def _looks(observer: Observer, interval: float) -> Iterator[tuple[dict[str, Any] | None, float]]:
    """What the partition actor says at each look, and the heartbeats a second since the one before."""
    before: dict[str, Any] | None = None
    while True:
        said = observer.ask()
        yield said, 0.0 if said is None else _rate(before, said["status"])
        before = before if said is None else said["status"]
        time.sleep(interval)


def _rate(before: dict[str, Any] | None, now: dict[str, Any]) -> float:
    """Heartbeats a second between two looks; 0 if they are of two partition actors."""
    if before is None or now["uptime"] <= before["uptime"]:
        return 0.0
    return float((now["heartbeats"] - before["heartbeats"]) / (now["uptime"] - before["uptime"]))


def _with_loss(screen: RenderableType, observer: Observer) -> RenderableType:
    if not observer.lost_for:
        return screen
    lost = f"LOST for {text.seconds(observer.lost_for)} ({observer.reason}); what follows is from before"
    return Lines(Text(lost, "bold white on red"), screen)


@click.command(
    cls=Operation, epilog=example("events", "events --since 10m --group pollers", "events --follow | grep died")
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option(
    "--since", metavar="ID|AGE", help="From this event on: its id, as --json has it, or its age: 90s, 10m, 2h, 1d."
)
@click.option("--group", help="Of this group only.")
@click.option("--last", "-n", type=click.IntRange(0), default=100, show_default=True, help="Without --since; 0: all.")
def events(follow: bool, since: str | None, group: str | None, last: int) -> None:
    """Show what happened to members and locks, and why. Each event is a line.

    The partition actor keeps the last 10,000 events. Where some are gone, a line says so. With --json each line is an
    object, and such a line is {"what": "missed", "missed": 12}.
    """
    first, age = _since(since)
    handle = connect()
    found: Iterable[dict[str, Any]]
    found, cursor, missed = _past(handle, first, group)
    if age is not None:
        oldest = time.time() - age
        found = [event for event in found if event["time"] >= oldest]
    elif since is None and last:
        found = found[-last:]
    if since is not None and age is None:
        _print_gap(missed)
    for event in found:
        _print_event(event)
    if not follow:
        return
    with suppress(KeyboardInterrupt):
        _follow(Observer(handle, cursor), group)


def _follow(observer: Observer, group: str | None) -> NoReturn:
    """Print what happens from now on, and say when the partition actor is lost and when it is back."""
    was_lost = False
    while True:
        sys.stdout.flush()
        said = observer.ask()
        if said is None:
            if not was_lost:
                note(f"the partition actor is lost ({observer.reason}); still looking")
            was_lost = True
            time.sleep(INTERVAL)
            continue
        if was_lost:
            note("the partition actor answers again")
            was_lost = False
        _print_gap(said["events"]["missed"])
        for event in said["events"]["events"]:
            if group in (None, event["group"]):
                _print_event(event)
        if not said["events"]["more"]:
            sys.stdout.flush()
            time.sleep(INTERVAL)


def _since(given: str | None) -> tuple[int, float | None]:
    """The id to begin with, and the age in seconds of what to begin with, if one is given."""
    if given is None:
        return 0, None
    if given.isdecimal():
        return int(given), None
    age = text.duration(given)
    if age is None:
        raise Failure(f"--since {given}: expected the id of an event, or an age such as 90s, 10m, 2h or 1d", USAGE)
    return 0, age


def _past(handle: Any, since: int, group: str | None) -> tuple[list[dict[str, Any]], int, int]:
    """All events that are kept from `since` on, the cursor behind them, and how many are gone."""
    found: list[dict[str, Any]] = []
    missed, more = 0, True
    while more:
        reply = ask(handle, "events", since, group)
        found += reply["events"]
        since, more = reply["next"], reply["more"]
        missed = missed or reply["missed"]
    return found, since, missed


def _print_event(event: dict[str, Any]) -> None:
    if Chosen.now().as_json:
        click.echo(text.to_json(event, line=True))
    else:
        text.console().print(screens.event_line(event), soft_wrap=True, end="\n")


def _print_gap(missed: int) -> None:
    if missed and Chosen.now().as_json:
        click.echo(text.to_json({"what": "missed", "missed": missed}, line=True))
    elif missed:
        click.echo(screens.gap_line(missed))


@click.command(cls=Operation, epilog=example("locks"))
def locks() -> None:
    """Show who holds locks, who leads, and who waits. Also each fencing token."""
    found = ask(connect(), "status")["locks"]
    show(found, screens.lock_table(found, text.console().width))


@click.command(cls=Operation, epilog=example("owner pollers tenant-1 tenant-2"))
@click.argument("group")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
def owner(group: str, keys: tuple[str, ...]) -> None:
    """Show which member of GROUP owns each KEY. Each is a line, with a tab between key and owner.

    Computed here from the members and their weights: the answer is the partition actor's own. A key's identity is its
    text.
    """
    wanted = [checked(key) for key in keys]
    ring, found = published_ring(connect(), group)
    owners = {key: ring.owner(key) for key in wanted}
    _warn_of_handoff(found, set(owners.values()))
    if Chosen.now().as_json:
        click.echo(text.to_json({"group": group, "epoch": found["epoch"], "owners": owners}))
        return
    for key in wanted:
        click.echo(f"{text.printable(key)}\t{text.printable(owners[key] or '-')}")


@click.command(
    cls=Operation, epilog=example("subset pollers agent-1 tenants.txt", "subset pollers agent-1 - < tenants.txt")
)
@click.argument("group")
@click.argument("member")
@click.argument("file", type=click.File("rb"))
def subset(group: str, member: str, file: BinaryIO) -> None:
    """Print those keys of FILE that MEMBER of GROUP owns.

    FILE has a key on each line, in UTF-8; - is standard input. It is read as a stream, so it may be of any length.
    With --json each key is a line with a JSON string.
    """
    ring, found = published_ring(connect(), group)
    if member not in ring.members:
        raise MemberNotFound(f"group {group!r} has no member {member!r} on its ring")
    _warn_of_handoff(found, {member})
    as_json, write = Chosen.now().as_json, sys.stdout.write
    for key in read_keys(file, getattr(file, "name", "<stdin>")):
        if ring.owner(key) == member:
            write(f"{text.to_json(key, line=True) if as_json else key}\n")


def _warn_of_handoff(group: dict[str, Any], owners: set[str | None]) -> None:
    for member in group["members"]:
        if member["id"] in owners and member["waits_for"]:
            others = text.some(member["waits_for"])
            note(f"a hand-off is under way: {member['id']} may not work yet on keys that {others} had before")
