"""The commands that change a cluster. Each says what will happen, and asks first."""

from __future__ import annotations

import time
from typing import Any

import click
import yaml
from ray.exceptions import RayActorError

import partition_actor
from partition_actor import deployment
from partition_actor.errors import GroupNotFound, MemberNotFound, PartitionActorNotFound
from partition_actor.operate import screens, text
from partition_actor.operate.connection import LOOK, ask, connect, join_ray
from partition_actor.operate.options import (
    TIMED_OUT,
    USAGE,
    Chosen,
    Failure,
    Operation,
    Operations,
    confirm,
    example,
    note,
    show,
    yes,
)
from partition_actor.settings import Settings, told

POLL = 0.25
"""Seconds between two looks whether a drained member is gone."""


@click.command(cls=Operation, epilog=example("deploy", "deploy --settings partition_actor.yaml", "deploy --replace"))
@click.option("--settings", "file", type=click.Path(exists=True, dir_okay=False), help="YAML: field names and values.")
@click.option("--replace", is_flag=True, help="Put a new one in the place of the one that runs; no key moves.")
def deploy(file: str | None, replace: bool) -> None:
    """Start the partition actor, or find the one that runs. Wait until it answers.

    Settings apply only to one that is started or replaces another; a running one keeps its own, and the differences are
    named. With --replace the running one hands its state over and ends: new code and settings come in without a pause.
    If the new code does not start, the running one goes on.
    """
    chosen = Chosen.now()
    wanted = Settings.load(file) if file else Settings()
    join_ray(chosen.address)
    if replace:
        _replace(chosen, wanted if file else None)
        return
    try:
        handle, is_new = deployment.connect(chosen.name, chosen.namespace, LOOK), False
    except PartitionActorNotFound:
        handle, is_new = _start(chosen, wanted), True
    reply = _hello(handle)
    has = reply["settings"]
    differing = sorted(name for name, value in wanted.to_dict().items() if has.get(name) != value) if file else []
    what = "is deployed" if is_new else "runs already"
    lines = [f"partition actor {chosen.name} {what}: version {reply['version']}, namespace {chosen.namespace}"]
    for name in differing:
        lines.append(f"  {name} is {has.get(name)}, not {wanted.to_dict()[name]}: see `settings set`")
    result = {"name": chosen.name, "namespace": chosen.namespace, "created": is_new, "differing": differing, **reply}
    show(result, "\n".join(map(text.printable, lines)))


def _hello(handle: Any) -> dict[str, Any]:
    """The versions and settings of a partition actor."""
    reply = ask(handle, "hello")
    return {**{name: reply[name] for name in reply if name != "later_settings"}, "settings": told(reply)}


def _replace(chosen: Chosen, settings: Settings | None) -> None:
    handle = partition_actor.deploy(chosen.name, chosen.namespace, settings, replace=True)
    reply, status = _hello(handle), ask(handle, "status")
    sessions = text.plural(status["sessions"], "session")
    result = {"name": chosen.name, "namespace": chosen.namespace, "sessions": status["sessions"], **reply}
    show(
        result,
        text.printable(
            f"partition actor {chosen.name} is replaced: version {reply['version']}, namespace {chosen.namespace}, "
            f"{sessions} taken over"
        ),
    )


def _start(chosen: Chosen, settings: Settings) -> Any:
    try:
        return partition_actor.deploy(chosen.name, chosen.namespace, settings)
    except RayActorError as error:
        last = str(error).strip().splitlines()[-1]
        raise Failure(f"it does not start ({last}): is this library installed on the cluster's nodes?") from None


@click.command(cls=Operation, epilog=example("forget pollers agent-3"))
@click.argument("group")
@click.argument("member")
@yes
def forget(group: str, member: str, sure: bool) -> None:
    """Take MEMBER off the ring of GROUP now, as if it were dead. This cannot be undone.

    For a member that is gone and whose lease still runs. One that is alive rejoins: use drain to make it leave.
    """
    handle = connect()
    found = ask(handle, "status", group)
    entry = _member(found, member)
    then = "the others get its keys at once"
    if found["exclusive"]:
        lease = text.seconds(entry["lease"])
        then = f"the group is exclusive, so its keys have no owner until its lease has ended, in up to {lease}"
    confirm(
        f"Forget {member} of group {group}: it loses {text.percent(entry['share'])} of the keys now.\n"
        f"Then {then}. If it is alive, it rejoins. This cannot be undone.",
        sure,
    )
    epoch = ask(handle, "forget", group, member)
    show(_changed(group, member, epoch), f"{text.printable(member)} is off the ring{_as_of(epoch)}")


@click.command(cls=Operation, epilog=example("drain pollers agent-3 --wait --timeout 60"))
@click.argument("group")
@click.argument("member")
@click.option("--wait", is_flag=True, help="Wait until it has handed its keys over, and say who holds that up.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds to wait at most; exit code 4 then.")
@yes
def drain(group: str, member: str, wait: bool, timeout: float | None, sure: bool) -> None:
    """Make MEMBER hand its keys over and leave GROUP. It stays out until its program joins again.

    The member itself goes on running: end it when it has left.
    """
    if timeout is not None and not wait:
        raise Failure("--timeout is for --wait", USAGE)
    handle = connect()
    found = ask(handle, "status", group)
    entry = _member(found, member)
    others = sum(each["has_place"] for each in found["members"]) - 1
    then = f"{text.plural(others, 'other member')} will get them" if others else "NOBODY is left to get them"
    confirm(
        f"Drain {member} of group {group}: it hands {text.percent(entry['share'])} of the keys over and leaves.\n"
        f"{then}. "
        "It stays out until its program joins again.",
        sure,
    )
    epoch = ask(handle, "drain", group, member)
    started = time.monotonic()
    if wait:
        _wait_until_gone(handle, group, (member, entry["session"]), timeout)
    took = time.monotonic() - started if wait else None
    done = f"has handed its keys over in {text.seconds(took)}" if wait else "is leaving"
    show({**_changed(group, member, epoch), "seconds": took}, f"{text.printable(member)} {done}{_as_of(epoch)}")


def _wait_until_gone(handle: Any, group: str, key: tuple[str, str], timeout: float | None) -> None:
    """Wait until a session is no participant of the group any more, and say what it takes."""
    until, said = None if timeout is None else time.monotonic() + timeout, ""
    while True:
        try:
            found = ask(handle, "status", group)
        except GroupNotFound:
            return
        entry = next((each for each in found["members"] if (each["id"], each["session"]) == key), None)
        if entry is None:
            return
        reason = (
            f"waiting for {key[0]} to hand its keys over: it has not acknowledged epoch {text.counter(found['epoch'])}"
        )
        if entry["waits_for"]:
            reason = f"waiting for {key[0]}, which itself waits for {text.some(entry['waits_for'])}"
        if until is not None and time.monotonic() >= until:
            raise Failure(f"after {timeout:g} s still {reason}", TIMED_OUT)
        if reason != said:
            said = reason
            note(reason)
        time.sleep(POLL)


@click.command("break-lock", cls=Operation, epilog=example("break-lock migrate", "break-lock leader:pollers"))
@click.argument("lock")
@yes
def break_lock(lock: str, sure: bool) -> None:
    """Take LOCK from whoever holds it. Wait until the holders know or have lost their leases.

    LOCK is a name as in `locks`; leader:GROUP is the lock of a group's leader. Work that was done under the lock is not
    undone, and storage that checks fencing tokens refuses what comes late.
    """
    handle = connect()
    found = ask(handle, "status")["locks"]
    name = lock if lock in found else screens.LOCK + lock
    if name not in found:
        raise Failure(f"nobody holds or waits for lock {lock!r}: see `locks`")
    holders = text.some([holder["id"] for holder in found[name]["holders"]]) or "nobody"
    waiting = text.some(found[name]["waiting"]) or "nobody"
    confirm(
        f"Break lock {lock}: {holders} loses it, and the next to get it: {waiting}.\n"
        "Work under it is interrupted where its holder checks `held`. This cannot be undone.",
        sure,
    )
    number = ask(handle, "break_lock", name)
    show(
        {"lock": name, "holders": number}, f"{text.printable(lock)} is broken: {text.plural(number, 'holder')} lost it"
    )


@click.command(cls=Operation, epilog=example("shutdown", "shutdown --force --yes"))
@click.option("--force", is_flag=True, help="Kill it: members keep their keys until their leases end.")
@yes
def shutdown(force: bool, sure: bool) -> None:
    """End the partition actor for good, and wait until it is gone.

    In good order it withdraws all leases and waits until members have let go, at most one longest lease. Members keep
    looking for the next partition actor, and join it.
    """
    chosen = Chosen.now()
    join_ray(chosen.address)
    handle = deployment.find(chosen.name, chosen.namespace, LOOK)
    if not sure:
        confirm(_consequences(handle, chosen, force), sure)
    partition_actor.shutdown(chosen.name, chosen.namespace, force)
    show(
        {"name": chosen.name, "namespace": chosen.namespace, "ended": True}, f"{text.printable(chosen.name)} has ended"
    )


def _consequences(handle: Any, chosen: Chosen, force: bool) -> str:
    what = f"Shut {chosen.name} (namespace {chosen.namespace}) down"
    if force:
        return (
            f"{what} by killing it: members keep their keys until their leases end, and the next partition actor waits "
            "for that.\nThis cannot be undone."
        )
    status = ask(handle, "status")
    sessions, groups = text.plural(status["sessions"], "session"), text.plural(len(status["groups"]), "group")
    return f"{what}: {sessions} in {groups} lose all keys and locks until the next is deployed.\nThis cannot be undone."


@click.group(cls=Operations, invoke_without_command=True, epilog=example("settings", "settings set ttl=5 hold=1"))
@click.pass_context
def settings(ctx: click.Context) -> None:
    """Show the settings, or change some while it runs."""
    if ctx.invoked_subcommand is None:
        found = _hello(connect())["settings"]
        show(found, screens.settings_table(found, text.console().width))


def _assignments(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Each ``field=value``, the value as in YAML."""
    changes = {}
    for each in given:
        field, equals, value = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r}: expected field=value, such as ttl=5")
        if field not in Settings.model_fields:
            raise click.BadParameter(f"{field!r} is no setting; these are: {', '.join(sorted(Settings.model_fields))}")
        try:
            changes[field] = yaml.safe_load(value)
        except Exception:  # PyYAML lets the errors of int(), date() and recursion through
            shown = each if len(each) <= 80 else f"{each[:60]}…"
            raise click.BadParameter(f"{shown!r}: the value is not YAML") from None
    return changes


def _complete(_ctx: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    return [f"{field}=" for field in sorted(Settings.model_fields) if field.startswith(begun)]


@settings.command("set", cls=Operation, epilog=example("settings set ttl=5 hold=1"))
@click.argument(
    "changes", nargs=-1, required=True, metavar="FIELD=VALUE...", callback=_assignments, shell_complete=_complete
)
@yes
def set_settings(changes: dict[str, Any], sure: bool) -> None:
    """Change settings of the running partition actor. No key moves.

    Members learn of it with their next heartbeats. A field that cannot change while it runs is refused by its name.
    """
    handle = connect()
    before = _hello(handle)["settings"]
    wanted = Settings(**before).changed(changes).to_dict()
    differing = {name: value for name, value in wanted.items() if before.get(name) != value}
    if not differing:
        show(before, "nothing to change: these are the settings already")
        return
    lines = [f"{name}: {before.get(name)} -> {value}" for name, value in sorted(differing.items())]
    confirm("\n".join(["Change the settings of the running partition actor:", *lines]), sure)
    show(ask(handle, "configure", differing), "\n".join(lines))  # another operator may change others meanwhile


def _member(group: dict[str, Any], member: str) -> dict[str, Any]:
    """The entry of a member: that of the session on the ring, if one is."""
    found: list[dict[str, Any]] = [each for each in group["members"] if each["id"] == member]
    if not found:
        raise MemberNotFound(f"group {group['name']!r} has no member {member!r}")
    return max(found, key=lambda each: bool(each["has_place"]))


def _changed(group: str, member: str, epoch: Any) -> dict[str, Any]:
    return {"group": group, "member": member, "epoch": epoch}


def _as_of(epoch: Any) -> str:
    return f" (epoch {text.counter(epoch)})" if epoch else ""
