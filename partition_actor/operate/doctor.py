"""Checks what an operator would check first, and says of each trouble what to do about it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
import ray
from rich.text import Text

from partition_actor import deployment
from partition_actor.core.epochs import INCARNATION_ZERO
from partition_actor.core.messages import MINOR, PROTOCOL, check_version
from partition_actor.errors import PartitionActorNotFound, PartitionError, VersionMismatch
from partition_actor.operate import text
from partition_actor.operate.connection import LOOK, ask, join_ray
from partition_actor.operate.options import FAILED, PROGRAM, Chosen, Failure, Operation, example
from partition_actor.processes import own_process, watch
from partition_actor.ray_internals import has_exporter, lacking
from partition_actor.settings import Settings
from partition_actor.version import __version__

OK, WARN, FAIL = "OK", "WARN", "FAIL"
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red"}

SLOW_ANSWER = 0.5
"""Seconds. The partition actor answers within milliseconds."""
LONG_STEP = 0.25
"""Seconds. Its steps take up to 20 ms; on a busy machine they are interrupted."""
CLOCKS_APART = 2.0
"""Seconds between two wall clocks that NTP keeps are milliseconds. Leases do not need them; people who read logs do."""
GROUPS_LOOKED_AT = 20
"""Groups whose members are looked at: as many as ``observe`` takes."""


class Finding(NamedTuple):
    """What one check found."""

    check: str
    level: str
    what: str
    advice: str = ""
    """What to do about it."""


@click.command(cls=Operation, epilog=example("doctor", "doctor --json"))
def doctor() -> None:
    """Check everything, and say what to do. That is Ray, the partition actor, its node, clocks and settings.

    A line for each check. Exit code 1 if one of them is FAIL.
    """
    as_json, found = Chosen.now().as_json, []
    console = text.console()
    for finding in findings():
        found.append(finding)
        if not as_json:
            console.print(_line(finding), soft_wrap=True)
    if as_json:
        click.echo(text.to_json([finding._asdict() for finding in found]))
    if any(finding.level == FAIL for finding in found):
        click.get_current_context().exit(FAILED)


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level:<5}", _COLOURS[finding.level])
    line.append(f"{finding.check}: {text.printable(finding.what)}", "default not bold")
    if finding.advice:
        line.append(f"\n     -> {text.printable(finding.advice)}", "default not bold")
    return line


def findings() -> Iterator[Finding]:
    """One check after the other; those that need what an earlier one did not find are left out."""
    chosen = Chosen.now()
    try:
        join_ray(chosen.address)
    except Failure as error:
        yield Finding("ray", FAIL, error.message)
        yield _death_watch()
        return
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    yield Finding(
        "ray",
        OK,
        f"version {ray.__version__} at {ray.get_runtime_context().gcs_address}, "
        f"{text.plural(len(nodes), 'node')} alive",
    )
    yield _features()
    yield _death_watch()
    try:
        handle = deployment.find(chosen.name, chosen.namespace, LOOK)
        started = time.monotonic()
        hello = ask(handle, "hello", timeout=LOOK)
        took = time.monotonic() - started
    except PartitionActorNotFound as error:
        advice = f"`{PROGRAM} deploy` starts one; --name and --namespace choose another"
        yield Finding("partition actor", FAIL, str(error).partition(": ")[0], advice)
        return
    except (PartitionError, ray.exceptions.RayError) as error:
        yield Finding("partition actor", FAIL, _first_line(error), "see its log on the head: `ray logs actor --id ...`")
        return
    yield _answer(took)
    yield (version := _version(hello))
    if version.level == FAIL:
        return
    status = ask(handle, "status")
    yield _node(status, nodes)
    yield _clocks(status)
    yield from _settings(status)
    yield _metrics(status)
    yield _room(status)
    yield _recovery(status)
    yield _pace(status)
    yield from _groups(handle, status)
    if hasattr(handle, "fleets"):
        yield from _fleets(ask(handle, "fleets"))


def _features() -> Finding:
    """What this version of Ray lacks of what the library makes use of."""
    if lacks := lacking():
        return Finding("features of Ray", WARN, "; ".join(lacks), "a newer Ray has it; all else works without")
    return Finding("features of Ray", OK, "none is lacking")


def _death_watch() -> Finding:
    """Whether the kernel tells of the end of processes here, as it has to on the nodes of tasks and drivers."""
    if not own_process():
        what = "there is no /proc here"
    elif not hasattr(os, "pidfd_open"):
        what = "this Python has no os.pidfd_open"
    elif not asyncio.run(_is_watchable()):
        what = "the kernel does not let this process be watched"
    else:
        return Finding("death watch", OK, "the kernel of this machine tells of the end of processes (pidfd)")
    return Finding("death watch", WARN, what, "the death of tasks and drivers here is learnt late, or when leases end")


async def _is_watchable() -> bool:
    """Whether a watch on this process goes on, as it does not end."""
    task = asyncio.ensure_future(watch(own_process()))
    done, _ = await asyncio.wait([task], timeout=0.05)
    task.cancel()
    return not done


def _answer(took: float) -> Finding:
    if took > SLOW_ANSWER:
        return Finding(
            "partition actor", WARN, f"answers only after {text.seconds(took)}", "look at `top`: longest step"
        )
    return Finding("partition actor", OK, f"answers within {text.seconds(took)}")


def _version(hello: dict[str, Any]) -> Finding:
    theirs = hello["version"]
    try:
        check_version(hello, "it", "this program", by_actor=True)
    except VersionMismatch as error:
        what, _, advice = str(error).partition(": ")
        return Finding("version", FAIL, what, advice)
    if theirs == __version__:
        return Finding("version", OK, f"{theirs}, as here")
    what = f"{theirs}, here {__version__}; they work together, with protocols {_protocol(hello)} and {PROTOCOL}.{MINOR}"
    return Finding(
        "version", WARN, what, "update the older one; `partition-actor deploy --replace` puts the one here in"
    )


def _protocol(hello: dict[str, Any]) -> str:
    return f"{hello['protocol']}.{hello.get('minor', 0)}"


def _node(status: dict[str, Any], nodes: dict[str, Any]) -> Finding:
    node = nodes.get(status["node"])
    where = f"node {text.short(status['node'])}"
    if node is None:
        return Finding(
            "node", FAIL, f"Ray does not count {where} as alive", "a new one starts on a living node by itself"
        )
    if "node:__internal_head__" in node["Resources"]:
        return Finding("node", OK, f"runs on the head, {where}")
    advice = "an autoscaler may remove that node: set pin_to_head, shut down and deploy again"
    return Finding("node", WARN, f"runs on {where}, which is not the head", advice)


def _clocks(status: dict[str, Any]) -> Finding:
    """The partition actor's wall clock when it started, and how long it runs, against the wall clock here."""
    theirs = INCARNATION_ZERO + status["incarnation"] / 1000 + status["uptime"]
    apart = abs(time.time() - theirs)
    if apart > CLOCKS_APART:
        what = f"this machine's and the partition actor's are {text.seconds(apart)} apart, or one was set meanwhile"
        return Finding("clocks", WARN, what, "check NTP; leases do not depend on it, the times of events do")
    return Finding("clocks", OK, "this machine's and the partition actor's agree")


def _settings(status: dict[str, Any]) -> Iterator[Finding]:
    settings = status["settings"]
    usual, troubles = Settings(), []
    if settings["ttl"] < 3 * settings["hold"]:
        troubles.append(("ttl is less than 3 x hold: two lost heartbeats cost a member its keys", "raise ttl"))
    if settings["ttl"] < 2.0:
        troubles.append(("ttl is below 2 s: a pause of a worker may cost it its keys", "raise ttl"))
    if settings["handoff_timeout"] > 6 * settings["ttl"]:
        troubles.append(("handoff_timeout is more than 6 x ttl: a key may pause for that long", "lower it"))
    if status["interval"] > 1.05 * settings["hold"]:
        what = f"with {status['sessions']:,} sessions, leases have grown to {text.seconds(status['ttl'])}"
        troubles.append((what, "raise max_heartbeats_per_second if the head has a core to spare"))
    for what, advice in troubles:
        yield Finding("settings", WARN, what, advice)
    if not troubles:
        own = sorted(name for name, value in usual.to_dict().items() if settings.get(name, value) != value)
        yield Finding("settings", OK, f"sane; not the defaults: {', '.join(own)}" if own else "the defaults")


def _metrics(status: dict[str, Any]) -> Finding:
    """Whether what is recorded is also exported, as far as this machine knows."""
    if not status["settings"]["metrics"]:
        return Finding("metrics", OK, "off")
    if not has_exporter():
        advice = "pip install 'partition-actor[metrics]' on every node; or `settings set metrics=false` turns them off"
        return Finding("metrics", WARN, "recorded, but not exported: plain ray is installed here", advice)
    return Finding("metrics", OK, "recorded, and exported by Ray")


def _room(status: dict[str, Any]) -> Finding:
    used, most = status["sessions"], status["max_members"]
    what = f"{used:,} of {text.plural(most, 'session')} (max_members)"
    if used >= most:
        return Finding("room", FAIL, what, "new workers are refused: raise max_members, shut down and deploy again")
    if used >= 0.8 * most:
        return Finding("room", WARN, what, "raise max_members before it is full: more joins are refused")
    return Finding("room", OK, what)


def _recovery(status: dict[str, Any]) -> Finding:
    groups = [name for name, group in status["groups"].items() if group["recovering"]]
    if status["recovering"] or groups:
        what = "it waits for the leases of a former partition actor to end"
        if groups:
            what += f" in {text.some(sorted(groups), 3)}"
        advice = f"nobody is admitted for one longest lease, {text.seconds(status['ttl'])} or more: wait"
        return Finding("recovery", WARN, what, advice)
    return Finding("recovery", OK, "none: no lease of a former partition actor is waited for")


def _pace(status: dict[str, Any]) -> Finding:
    late, step, stalled = status["late"], status["longest_step"], status["stalled"]
    what = f"late by up to {text.seconds(late)}, longest step {text.seconds(step)}, in the last 10 s"
    if late > status["interval"] / 2:
        return Finding("pace", WARN, what, "heartbeats come late: workers or the network are busy")
    if step > LONG_STEP:
        return Finding("pace", WARN, what, "the partition actor is held up: does its node have a core to spare?")
    if stalled > 1:
        what += f"; since its start it did not run for {text.seconds(stalled)}"
        return Finding("pace", WARN, what, "its process or node was stopped; leases were not counted meanwhile")
    return Finding("pace", OK, what)


def _groups(handle: Any, status: dict[str, Any]) -> Iterator[Finding]:
    limit = status["settings"]["handoff_timeout"]
    held_up = {
        name: group["handoff"]
        for name, group in sorted(status["groups"].items())
        if group["handoff"] and group["handoff"]["seconds"] > limit
    }
    for name, handoff in list(held_up.items())[:5]:
        who = text.some(handoff["held_up_by"], 5, handoff["members"])
        what = f"one in {name} takes {text.seconds(handoff['seconds'])}: held up by {who}"
        yield Finding("hand-off", WARN, what, "its callbacks for lost keys do not return; its lease there ends soon")
    if not held_up:
        yield Finding("hand-off", OK, "none takes longer than handoff_timeout")
    names = sorted(status["groups"])[:GROUPS_LOOKED_AT]
    seen = ask(handle, "observe", names, status["events"])["groups"]
    members = [member for group in seen.values() if group for member in group["members"]]
    unwatched = [member["id"] for member in members if member["watched_by"] == "lease"]
    of = "" if len(names) == len(status["groups"]) else f" (of the first {len(names)} groups)"
    if not members:
        yield Finding("members", OK, f"none{of}")
    elif unwatched:
        what = f"{len(unwatched)} of {text.plural(len(members), 'member')} are watched by their leases only{of}: "
        advice = "their deaths are learnt when leases end; workers with only the handle pass actor=, as in the README"
        yield Finding("members", WARN, what + text.some(unwatched, 3), advice)
    else:
        yield Finding(
            "members", OK, f"the death of each of {text.plural(len(members), 'member')} is learnt at once" + of
        )


def _fleets(fleets: dict[str, Any]) -> Iterator[Finding]:
    running = {name: fleet for name, fleet in fleets.items() if not fleet["stopping"]}
    troubles = [name for name, fleet in running.items() if not fleet["ready"] or fleet["update_failed"]]
    for name in troubles[:5]:
        fleet = running[name]
        what = f"{name}: {fleet['serving']:,} of {text.plural(fleet['size'], 'worker')} serve"
        failed = [each for each in (*fleet["waiting"], *fleet["workers"]) if each["reason"]]
        if fleet["update_failed"]:
            what += f"; {fleet['update_failed']}"
        elif failed:
            what += f"; slot {failed[0]['slot']}: {failed[0]['reason']}"
        yield Finding("fleet", WARN, what, f"`{PROGRAM} fleet {name}` shows its workers and what happened")
    if running and not troubles:
        yield Finding("fleets", OK, f"{text.plural(len(running), 'fleet')}, all ready")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
