"""What is shown of the partition actor's replies, in the columns that there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from partition_actor.operate import text
from partition_actor.settings import Settings

Reply = dict[str, Any]

LOCK, LEADER = "lock:", "leader:"
"""How the partition actor names a lock, and that whose holder leads a group."""

_COLOURS = {
    **dict.fromkeys(("joined", "rejoined", "recovered", "started"), "green"),
    **dict.fromkeys(("died", "expired", "fenced", "lock_lost", "lock_broken", "slot_lost"), "red"),
    **dict.fromkeys(("superseded", "ending"), "red"),
    **dict.fromkeys(("left", "drained", "forgotten", "settings"), "yellow"),
    **dict.fromkeys(("handed_over", "leader", "lock_granted", "slot"), "cyan"),
}


class Field(NamedTuple):
    """A column: as wide as its longest cell, if there is room."""

    heading: str
    cells: Sequence[str | Text]
    least: int | None = None
    """Characters that are enough where there is little room; None: it is never cut."""
    importance: int = 0
    """Where there is no room even so, the fields of the highest number are left out first; never those of 0."""
    left: bool = False
    wraps: bool = False


# -- everything ---------------------------------------------------------------------------------------------------


def overview(status: Reply, limit: int, width: int) -> RenderableType:
    """A partition actor and `limit` of its groups, or all with 0: those with something under way first."""
    groups = status["groups"]
    names = sorted(groups, key=lambda name: (not _is_under_way(groups[name]), text.natural(name)))
    shown = names[:limit] if limit else names
    lines: list[RenderableType] = [*heading(status), "", group_table(status, shown, width)]
    if len(shown) < len(names):
        lines.append(f"and {len(names) - len(shown):,} more groups: --limit 0 shows all")
    if status["locks"]:
        lines += ["", f"{text.plural(len(status['locks']), 'lock')} held or waited for: see `locks`"]
    return Lines(*lines)


def _is_under_way(group: Reply) -> bool:
    return bool(group["handoff"] or group["recovering"] or group["waiting"])


def heading(status: Reply, heartbeats: float | None = None) -> list[Text]:
    """A partition actor in a few lines, and what is out of the ordinary with it."""
    lines = [
        Text(f"{text.printable(status['name'])}", "bold").append(
            f"  version {status['version']}, in namespace {text.printable(status['namespace'])}", "not bold"
        ),
        Text(f"up {text.seconds(status['uptime'])} · node {text.short(status['node'])} · pid {status['pid']}"),
        Text(
            f"{status['sessions']:,} of {text.plural(status['max_members'], 'session')} · a heartbeat every "
            f"{text.seconds(status['interval'])} · leases of {text.seconds(status['ttl'])}"
        ),
    ]
    if heartbeats is not None:
        late, step = text.seconds(status["late"]), text.seconds(status["longest_step"])
        pace = f"{heartbeats:,.1f} heartbeats/s, {status['held']:,} held"
        lines.append(Text(f"{pace} · last 10 s: late by {late}, longest step {step}"))
    if status["recovering"]:
        lines.append(Text("RECOVERING: it waits for the leases of a former one, and admits nobody before", "bold red"))
    if draining := status.get("draining"):
        left = (text.short(node) + (f" ({text.seconds(end)} left)" if end else "") for node, end in draining.items())
        lines.append(Text(f"DRAINING: members leave {text.plural(len(draining), 'node')}: {', '.join(left)}", "bold"))
    if status["sessions"] >= 0.9 * status["max_members"]:
        lines.append(Text("NEARLY FULL: raise max_members before more workers join", "bold red"))
    return lines


def group_table(status: Reply, names: Iterable[str], width: int) -> RenderableType:
    """Groups by name, a line each."""
    groups = [(name, status["groups"][name]) for name in names]
    if not groups:
        return Text("no groups: nobody has joined one")
    return _table(
        [
            Field("Group", [text.printable(name) for name, _ in groups], 10, left=True),
            Field("Mode", ["exclusive" if group["exclusive"] else "plain" for _, group in groups], left=True),
            Field("Members", [f"{group['members']:,}" for _, group in groups]),
            Field("Waiting", [str(group["waiting"] or "") for _, group in groups], importance=3),
            Field("Epoch", [text.counter(group["epoch"]) for _, group in groups]),
            Field("Watchers", [str(group["watchers"] or "") for _, group in groups], importance=4),
            Field("Leader", [text.printable(group["leader"] or "-") for _, group in groups], 8, left=True),
            Field("Hand-off", [_handoff(group) for _, group in groups], 30, left=True),
        ],
        width,
    )


def _handoff(group: Reply) -> Text:
    if group["recovering"]:
        return Text("recovering", "red")
    handoff = group["handoff"]
    if handoff is None:
        return Text("-")
    who = text.some(handoff["held_up_by"], 3, handoff["members"])
    return Text(f"{text.seconds(handoff['seconds'])}, held up by {who}", "yellow")


# -- one group ------------------------------------------------------------------------------------------------------

ORDERS: dict[str, Callable[[Reply], Any]] = {
    "lag": lambda member: (-member["lag"], text.natural(member["id"])),
    "id": lambda member: text.natural(member["id"]),
    "share": lambda member: (-member["share"], text.natural(member["id"])),
    "lease": lambda member: (member["lease"], text.natural(member["id"])),
    "age": lambda member: (member["age"], text.natural(member["id"])),
}
"""How members can be sorted."""


def group_details(group: Reply, order: str, limit: int, width: int) -> RenderableType:
    """A group and its members: `limit` of them, or all with 0."""
    members = sorted(group["members"], key=ORDERS[order])
    shown = members[:limit] if limit else members
    lines: list[RenderableType] = [*_group_heading(group), *_notes(group), ""]
    lines.append(_member_table(group, shown, width) if shown else Text("no members"))
    if len(shown) < len(members):
        lines.append(f"and {len(members) - len(shown):,} more: --limit 0 shows all")
    return Lines(*lines)


def _group_heading(group: Reply) -> list[Text]:
    members = [member for member in group["members"] if member["has_place"]]
    weight = sum(member["weight"] for member in members)
    parts = [
        "exclusive" if group["exclusive"] else "plain",
        text.plural(len(members), "member"),
        f"epoch {text.counter(group['epoch'])}",
        f"leader {text.printable(group['leader'] or '-')}",
    ]
    balance = []
    if len(members) > 1:
        most = max(member["share"] * weight / member["weight"] for member in members)
        balance = [Text(f"the fullest has {most:.2f} x the share of its weight")]
    return [Text(text.printable(group["name"]), "bold").append("  " + " · ".join(parts), "not bold"), *balance]


def _notes(group: Reply) -> list[Text]:
    """What is under way in a group: a line for each kind, however many members it is about."""
    handoff, members = group["handoff"], group["members"]
    notes = [Text("RECOVERING: waits for the leases of a former partition actor", "red")] if group["recovering"] else []
    if handoff:
        who = text.some(handoff["held_up_by"], 5, handoff["members"])
        notes.append(Text(f"hand-off for {text.seconds(handoff['seconds'])}: held up by {who}", "yellow"))
    waits = Counter(tuple(member["waits_for"]) for member in members if member["waits_for"])
    for others, number in waits.most_common(3):
        who = next(member["id"] for member in members if tuple(member["waits_for"]) == others)
        waiting = f"{text.printable(who)} waits" if number == 1 else f"{number:,} members wait"
        notes.append(Text(f"{waiting} for keys of {text.some(list(others))}", "yellow"))
    leaving = [member["id"] for member in members if member["leaving"]]
    placeless = [member["id"] for member in members if not member["has_place"] and not member["leaving"]]
    for what, ids in (("leaving", leaving), ("not on the ring", placeless), ("waiting to join", group["waiting"])):
        if ids:
            notes.append(Text(f"{what}: {text.some(ids)}", "yellow"))
    return notes


def _member_table(group: Reply, members: list[Reply], width: int) -> Table:
    return _table(
        [
            Field("Member", [_member(member) for member in members], 12, left=True),
            Field("Share", [text.percent(member["share"]) for member in members]),
            Field("Wt", [str(member["weight"]) for member in members]),
            Field("Epoch", [text.counter(member["acknowledged"], group["epoch"]) for member in members]),
            Field("Lag", [_lag(member) for member in members]),
            Field("Lease", [text.seconds(member["lease"]) for member in members]),
            Field("Heard", [text.seconds(member["heartbeat_age"]) for member in members], importance=2),
            Field("Age", [text.seconds(member["age"]) for member in members], importance=3),
            Field("Node", [text.short(member["node"]) for member in members], left=True),
            Field("Pid", ["-" if member["pid"] is None else str(member["pid"]) for member in members]),
            Field("Watched", [_watched(member) for member in members], left=True),
            Field("Session", [text.printable(member["session"]) for member in members], 16, importance=5, left=True),
            Field(
                "Metadata",
                [text.printable(member["metadata"] or "") for member in members],
                12,
                importance=6,
                left=True,
            ),
        ],
        width,
    )


def _member(member: Reply) -> Text:
    style = "yellow" if member["leaving"] or member["waits_for"] or not member["has_place"] else ""
    return Text(text.printable(member["id"]), style)


def _lag(member: Reply) -> Text:
    return Text(text.seconds(member["lag"]), "red") if member["lag"] else Text("-")


def _watched(member: Reply) -> Text:
    return Text(member["watched_by"], "yellow" if member["watched_by"] == "lease" else "")


def _table(fields: list[Field], width: int) -> Table:
    """The fields that fit into `width` columns, without those of little importance that say nothing."""
    gap = 1 if width < 100 else 2
    fields = [each for each in fields if not each.importance or any(str(cell) not in ("", "-") for cell in each.cells)]
    whole = {each.heading: max(cell_len(str(cell)) for cell in (each.heading, *each.cells)) for each in fields}
    widths = {
        each.heading: max(len(each.heading), min(whole[each.heading], each.least or whole[each.heading]))
        for each in fields
    }
    while sum(widths.values()) + gap * (len(fields) - 1) > width and any(each.importance for each in fields):
        dropped = max(fields, key=lambda each: each.importance)
        fields.remove(dropped)
        del widths[dropped.heading]
    left = width - sum(widths.values()) - gap * (len(fields) - 1)
    while left > 0 and (cut := [name for name in widths if widths[name] < whole[name]]):
        for name in cut[:left]:
            widths[name] += 1
        left -= len(cut[:left])
    table = Table(box=None, padding=(0, gap, 0, 0), pad_edge=False, header_style="dim")
    for each in fields:
        justify: Literal["left", "right"] = "left" if each.left else "right"
        table.add_column(each.heading, justify=justify, no_wrap=not each.wraps, width=widths[each.heading])
    for row in zip(*(each.cells for each in fields), strict=True):
        table.add_row(*row)
    return table


# -- fleets ---------------------------------------------------------------------------------------------------------

LATE_AFTER = 6.0
"""Seconds. A fleet's controller tells of it every 2 s."""


def fleet_table(fleets: Reply, width: int) -> RenderableType:
    """All fleets, those that are not ready first."""
    if not fleets:
        return Text("no fleets: none has told this partition actor of itself within 30 s")
    found = sorted(fleets.values(), key=lambda fleet: (fleet["ready"], text.natural(fleet["name"])))
    return _table(
        [
            Field("Fleet", [text.printable(fleet["name"]) for fleet in found], 10, left=True),
            Field("Group", [text.printable(fleet["group"]) for fleet in found], 8, left=True),
            Field("Size", [f"{fleet['size']:,}" for fleet in found]),
            Field("Serving", [_serving(fleet) for fleet in found]),
            Field("State", [_state(fleet) for fleet in found], left=True),
            Field("Version", [str(fleet["version"]) for fleet in found]),
            Field("Restarts", [str(fleet["restarts"] or "") for fleet in found], importance=1),
            Field("Told", [_told(fleet) for fleet in found], importance=3),
            Field("Last event", [_last_event(fleet) for fleet in found], 20, importance=2, left=True),
        ],
        width,
    )


def _serving(fleet: Reply) -> Text:
    return Text(f"{fleet['serving']:,}", "" if fleet["serving"] == fleet["size"] else "yellow")


def _state(fleet: Reply) -> Text:
    if fleet["stopping"]:
        return Text("stopping", "yellow")
    if fleet.get("cannot_start"):
        return Text("cannot start", "red")
    parts = ["ready" if fleet["ready"] else "not ready"]
    if fleet["updating"]:
        parts.append("updating")
    if fleet["update_failed"]:
        parts.append("update failed")
    usual = fleet["ready"] and len(parts) == 1
    return Text(", ".join(parts), "green" if usual else "red" if fleet["update_failed"] else "yellow")


def _told(fleet: Reply) -> Text:
    ago = fleet["seconds_ago"]
    return Text(f"{text.seconds(ago)} ago", "red" if ago > LATE_AFTER else "")


def _last_event(fleet: Reply) -> str:
    if not fleet["events"]:
        return "-"
    last = fleet["events"][-1]
    return f"{text.seconds(last['seconds_ago'])} ago: {text.printable(last['what'])}"


def fleet_details(fleet: Reply, width: int) -> RenderableType:
    """A fleet, its workers, and what happened to it."""
    workers, slots = fleet["workers"], {each["slot"] for each in fleet["workers"]}
    parts = [
        f"group {text.printable(fleet['group'])}",
        f"{fleet['serving']:,} of {text.plural(fleet['size'], 'worker')} serve",
        f"version {fleet['version']}",
        text.plural(fleet["restarts"], "restart"),
    ]
    title = Text(text.printable(fleet["name"]), "bold").append("  " + " · ".join(parts) + " · ", "not bold")
    lines: list[RenderableType] = [title + _state(fleet)]
    if fleet["seconds_ago"] > LATE_AFTER:
        lines.append(Text(f"its controller last told of it {text.seconds(fleet['seconds_ago'])} ago", "red"))
    for what, why in (("cannot start", fleet.get("cannot_start")), ("update failed", fleet["update_failed"])):
        if why:
            lines.append(Text(f"{what}: {text.printable(why)}", "red"))
    for each in (each for each in fleet["waiting"] if each["slot"] not in slots):
        then = f"slot {each['slot']} starts again in {text.seconds(each['seconds'])}"
        lines.append(Text(f"{then}: {text.printable(each['reason'])}", "yellow"))
    lines += ["", _worker_table(workers, width) if workers else Text("no workers")]
    if len(workers) < (number := fleet.get("all_workers", 0)):
        lines.append(f"and {number - len(workers):,} more workers, which serve")
    if fleet["events"]:
        happened = Table.grid(padding=(0, 2))
        happened.add_column(justify="right", style="dim", no_wrap=True)
        for event in fleet["events"]:
            happened.add_row(f"{text.seconds(event['seconds_ago'])} ago", text.printable(event["what"]))
        lines += ["", happened]
    return Lines(*lines)


def _worker_table(workers: Sequence[Reply], width: int) -> Table:
    return _table(
        [
            Field("Slot", [str(worker["slot"]) for worker in workers]),
            Field("Member", [text.printable(worker["member_id"]) for worker in workers], 10, left=True),
            Field(
                "Phase",
                [
                    Text(text.printable(worker["phase"]), "" if worker["phase"] == "serving" else "yellow")
                    for worker in workers
                ],
                left=True,
            ),
            Field("Since", [text.seconds(worker["seconds"]) for worker in workers]),
            Field("Node", [text.printable(text.short(worker["node"])) for worker in workers], left=True),
            Field("Pid", ["-" if worker["pid"] is None else str(worker["pid"]) for worker in workers]),
            Field("Version", [str(worker["version"]) for worker in workers], importance=2),
            Field(
                "Load", ["-" if worker["load"] is None else f"{worker['load']:g}" for worker in workers], importance=1
            ),
            Field("Restarts", [str(worker["restarts"] or "") for worker in workers], importance=3),
            Field(
                "Last failure", [text.printable(worker["reason"]) for worker in workers], 16, importance=4, left=True
            ),
        ],
        width,
    )


def _phase(worker: Reply) -> Text:
    return Text(text.printable(worker["phase"]), "" if worker["phase"] == "serving" else "yellow")


# -- locks, settings ------------------------------------------------------------------------------------------------


def lock_table(locks: Reply, width: int) -> RenderableType:
    """All locks; a leader's is that of its group."""
    if not locks:
        return Text("no lock is held or waited for")
    named = [(*_kind(name), lock) for name, lock in locks.items()]
    return _table(
        [
            Field("Lock", [name for name, _, _ in named], 16, left=True),
            Field("Kind", [kind for _, kind, _ in named], left=True),
            Field("Held by", [_holders(lock) for _, _, lock in named], 16, left=True),
            Field("Waiting", [text.some(lock["waiting"], 3) or "-" for _, _, lock in named], 12, left=True),
            Field("Token", [_tokens(lock) for _, _, lock in named]),
        ],
        width,
    )


def _kind(name: str) -> tuple[str, str]:
    if name.startswith(LEADER):
        return text.printable(name.removeprefix(LEADER)), "leader"
    return text.printable(name.removeprefix(LOCK)), "lock"


def _holders(lock: Reply) -> Text:
    ids = [holder["id"] for holder in lock["holders"]]
    is_broken = any(holder["broken"] for holder in lock["holders"])
    shared = ", shared" if any(holder["shared"] for holder in lock["holders"]) else ""
    who = (text.some(ids, 3) or "-") + shared + (" (broken, not let go yet)" if is_broken else "")
    return Text(who, "yellow" if is_broken else "")


def _tokens(lock: Reply) -> str:
    return str(max((holder["token"] for holder in lock["holders"]), default="-"))


def settings_table(settings: Reply, width: int) -> Table:
    """The settings, and what each means."""
    defaults = Settings().to_dict()
    names = sorted(settings)
    changed = [settings[name] != defaults.get(name) for name in names]
    return _table(
        [
            Field("Setting", names, left=True),
            Field(
                "Value",
                [Text(str(settings[name]), "bold" if new else "") for name, new in zip(names, changed, strict=True)],
                6,
            ),
            Field("Default", ["" if name not in defaults else str(defaults[name]) for name in names]),
            Field("Meaning", [_meaning(name) for name in names], 30, left=True, wraps=True),
        ],
        width,
    )


def _meaning(name: str) -> str:
    field = Settings.model_fields.get(name)
    paragraph = "" if field is None else (field.description or "").partition("\n\n")[0]
    return " ".join(paragraph.replace("``", "").split())


# -- events -----------------------------------------------------------------------------------------------------------


def event_line(event: Reply) -> Text:
    """An event in one line: when, what, where, who, and why."""
    where = event["group"] or ""
    if event["lock"] is not None:
        name, kind = _kind(event["lock"])
        where = f"leader of {name}" if kind == "leader" else f"lock {name}"
    line = Text(text.clock(event["time"]), "dim", no_wrap=True, end="")
    line.append(f"  {event['what'].replace('_', ' '):<13}", f"not dim {_COLOURS.get(event['what'], '')}".strip())
    parts = [text.printable(each) for each in (where, event["member"]) if each]
    line.append("  ".join(parts), "not dim bold")
    facts = [f"epoch {text.counter(event['epoch'])}"] if event["epoch"] else []
    if event["what"] == "handed_over" and event["seconds"] is not None:
        facts.append(f"took {text.seconds(event['seconds'])}")
    line.append("".join(f"{'  ' if parts or n else ''}{fact}" for n, fact in enumerate(facts)), "dim")
    if event["why"]:
        line.append(f"{': ' if parts or facts else ''}{text.printable(event['why'])}", "not dim")
    return line


def gap_line(missed: int) -> str:
    """That events are gone."""
    if missed < 0:
        return "-- another partition actor has taken over: the events of the former one that are not shown are lost --"
    return f"-- {text.plural(missed, 'event')} not shown: the partition actor keeps the last 10,000 --"


# -- top ----------------------------------------------------------------------------------------------------


def top_screen(
    status: Reply, fleets: Reply, heartbeats: float, events: Sequence[Reply], width: int, height: int
) -> RenderableType:
    """Everything on one screen: groups with a hand-off first, then the largest, and the latest events below."""
    lines = heading(status, heartbeats)
    if failing := [name for name, fleet in sorted(fleets.items()) if not fleet["ready"] or fleet["update_failed"]]:
        shown_fleets = [f"{text.printable(name)} ({_state(fleets[name])})" for name in failing[:3]]
        lines.append(Text(f"fleets: {text.some(shown_fleets, 3, len(failing))}: see `fleets`", "yellow"))
    groups = status["groups"]
    names = sorted(groups, key=lambda name: (not _is_under_way(groups[name]), -groups[name]["members"], name))
    room = max(6, height - len(lines) - 4)
    latest = list(events)[-max(3, room - len(names)) :]
    shown = names[: max(3, room - len(latest) - 2)]
    parts: list[RenderableType] = [*lines, "", group_table(status, shown, width)]
    if len(shown) < len(names):
        parts.append(Text(f"and {len(names) - len(shown):,} more groups", "dim"))
    parts.append("")
    for event in latest:
        line = event_line(event)
        line.truncate(width, overflow="ellipsis")
        line.end = "\n"
        parts.append(line)
    return Lines(*parts)
