"""What the command line shows of replies, at several widths."""

import io
import json

import pytest
from fleet_statuses import fleet, worker
from replies import INCARNATION, event, group, member, status, summary
from rich.console import Console

from partition_actor.operate import screens, text


def shown(renderable, width):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def row(lines, first):
    return next(line.split() for line in lines if line.startswith(first))


@pytest.mark.parametrize("width", [80, 160])
def test_a_member_line_says_what_an_operator_asks(width):
    members = [
        member("agent-1", 0.31, weight=2),
        member("agent-2", 0.69, lag=2.3, acknowledged=(INCARNATION, 16), watched_by="connection", pid=4194304),
    ]
    lines = shown(screens.group_details(group(members, exclusive=True), "lag", 0, width), width)
    assert max(map(len, lines)) <= width
    first, second = row(lines, "agent-1"), row(lines, "agent-2")
    assert all(part in first for part in ("31.0%", "2", "17", "9.2", "3f2a91", "12345", "actor"))
    assert all(part in second for part in ("69.0%", "16", "2.3", "4194304", "connection"))


def test_a_wide_terminal_shows_more_of_a_member():
    members = [member("agent-1", 1.0, metadata={"zone": "a"})]
    narrow, wide = (shown(screens.group_details(group(members), "lag", 0, width), width) for width in (80, 160))
    assert "agent-1-process.1" not in " ".join(narrow)
    assert "agent-1-process.1" in " ".join(wide)
    assert "{'zone': 'a'}" in " ".join(wide)


def test_a_thousand_members_stay_readable_and_the_laggard_comes_first():
    big = group(1000)
    big["members"][500].update(lag=3.0)
    for each in big["members"][:400]:
        each["waits_for"] = [big["members"][500]["id"]]
    lines = shown(screens.group_details(big, "lag", 50, 80), 80)
    assert len(lines) < 60
    heading = next(number for number, line in enumerate(lines) if line.startswith("Member"))
    assert lines[heading + 1].startswith(big["members"][500]["id"])
    assert f"400 members wait for keys of {big['members'][500]['id']}" in lines
    assert "and 950 more: --limit 0 shows all" in lines


def test_members_are_sorted_as_people_count():
    lines = shown(screens.group_details(group(12), "id", 0, 80), 80)
    assert [line.split()[0] for line in lines if line.startswith("agent-")] == [f"agent-{n}" for n in range(1, 13)]


def test_what_is_under_way_in_a_group_is_said():
    members = [
        member("agent-1", 1.0, waits_for=["agent-2"]),
        member("agent-2", 0.0, has_place=False, leaving=True, lag=1.0),
        member("agent-3", 0.0, has_place=False),
    ]
    handoff = {"seconds": 4.2, "held_up_by": ["agent-2"], "members": 1}
    lines = shown(screens.group_details(group(members, handoff=handoff, waiting=["agent-4"]), "lag", 0, 80), 80)
    assert "hand-off for 4.2 s: held up by agent-2" in lines
    assert "agent-1 waits for keys of agent-2" in lines
    assert "leaving: agent-2" in lines
    assert "not on the ring: agent-3" in lines
    assert "waiting to join: agent-4" in lines


def test_an_epoch_of_a_former_partition_actor_is_marked():
    lines = shown(screens.group_details(group([member("agent-1", 1.0, acknowledged=(5, 3))]), "id", 0, 80), 80)
    assert "3'" in row(lines, "agent-1")


def test_a_member_id_cannot_write_to_the_terminal():
    evil = "agent\x1b[2J\n\u202e[red]"
    lines = shown(screens.group_details(group([member(evil, 1.0)], name=evil, leader=evil), "id", 0, 160), 160)
    said = "\n".join([*lines, *shown(screens.event_line(event(member=evil, why=evil)), 200)])
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "[red]" in said


@pytest.mark.parametrize("width", [80, 160])
def test_the_overview_names_each_group_and_who_holds_its_handoff_up(width):
    groups = {
        "pollers": summary(1000, leader="agent-17"),
        "pipelines": summary(
            4, exclusive=True, handoff={"seconds": 4.2, "held_up_by": ["agent-4", "agent-5"], "members": 7}
        ),
    }
    lines = shown(screens.overview(status(groups), 50, width), width)
    assert max(map(len, lines)) <= width
    assert {"plain", "1,000", "17", "agent-17"} <= set(row(lines, "pollers"))
    assert "4.2 s, held up by agent-4" in next(line for line in lines if line.startswith("pipelines"))


def test_many_groups_stay_readable_and_a_handoff_comes_first():
    groups = {f"group-{number}": summary(1) for number in range(2000)}
    groups["group-7"]["handoff"] = {"seconds": 1.0, "held_up_by": ["agent-1"], "members": 1}
    lines = shown(screens.overview(status(groups), 50, 80), 80)
    first = next(number for number, line in enumerate(lines) if line.startswith("Group")) + 1
    assert [lines[first].split()[0], lines[first + 1].split()[0]] == ["group-7", "group-0"]
    assert "and 1,950 more groups: --limit 0 shows all" in lines


def test_trouble_is_said_above_everything():
    lines = shown(screens.overview(status(recovering=True, sessions=950), 50, 80), 80)
    assert any("RECOVERING" in line for line in lines[:5])
    assert any("NEARLY FULL" in line for line in lines[:5])


def test_draining_nodes_are_shown_with_the_time_that_they_have_left():
    lines = shown(screens.overview(status(draining={"abcdef123456": 25.0, "123456abcdef": None}), 50, 100), 100)
    assert "DRAINING: members leave 2 nodes: abcdef (25 s left), 123456" in lines


def test_top_fits_the_screen_and_shows_handoffs_first():
    groups = {f"group-{number}": summary(number) for number in range(100)}
    groups["slow"] = summary(1, handoff={"seconds": 2.0, "held_up_by": ["agent-1"], "members": 1})
    events = [event(number, why="no heartbeat for 10.2 s " * 9) for number in range(200)]
    fleets = {"a": fleet("a"), "billers": failing()}
    lines = shown(screens.top_screen(status(groups), fleets, 5.9, events, 80, 24), 80)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[next(n for n, line in enumerate(lines) if line.startswith("Group")) + 1].startswith("slow")
    assert any("5.9 heartbeats/s" in line for line in lines)
    assert sum("joined" in line for line in lines) >= 3
    assert "fleets: billers (not ready, update failed): see `fleets`" in lines


def test_an_event_is_one_line_that_says_why():
    why = "killed: the kernel of its node said so 4 ms after its end"
    line = str(screens.event_line(event(what="died", member="agent-3", why=why)))
    assert all(part in line for part in ("died", "pollers", "agent-3", "epoch 17", why))
    handed_over = str(screens.event_line(event(what="handed_over", member=None, why="held up by agent-3", seconds=2.1)))
    assert "took 2.1 s: held up by agent-3" in handed_over
    assert "lock migrate" in str(
        screens.event_line(event(what="lock_granted", group=None, epoch=None, lock="lock:migrate"))
    )
    assert "leader of pollers  agent-1" in str(
        screens.event_line(event(what="leader", group=None, lock="leader:pollers"))
    )


def test_a_gap_in_the_events_is_said():
    assert "12 events not shown" in screens.gap_line(12)
    assert "another partition actor" in screens.gap_line(-1)


def failing():
    workers = [
        worker(0, restarts=2, reason="it was killed", load=4.5, version=1),
        worker(1, phase="starting", seconds=2.1, pid=None, node=None),
    ]
    event = {"seconds_ago": 125.0, "what": "the worker in slot 2 has failed: no database"}
    waiting = [{"slot": 2, "seconds": 3.0, "reason": "no database"}]
    said = {"size": 3, "ready": False, "update_failed": "version 2 was rolled back: no database", "seconds_ago": 9.0}
    return fleet("billers", "pollers", workers, waiting=waiting, events=[event], **said)


@pytest.mark.parametrize("width", [80, 160])
def test_fleets_are_a_line_each_and_those_that_are_not_ready_come_first(width):
    fleets = {"a": fleet("a", version=3), "billers": failing(), "c": fleet("c", ready=False, updating=True)}
    fleets["z"] = fleet("z", stopping=True, ready=False)
    lines = shown(screens.fleet_table(fleets, width), width)
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:]] == ["billers", "c", "z", "a"]
    assert {"pollers", "3", "1", "2"} <= set(row(lines, "billers"))
    for name, state in {"billers": "not ready, update failed", "c": "not ready, updating", "z": "stopping"}.items():
        assert state in next(line for line in lines if line.startswith(name))
    if width == 160:
        assert "2 min ago: the worker in slot 2 has failed" in lines[1]
        assert "9.0 s ago" in lines[1]


@pytest.mark.parametrize("width", [80, 160])
def test_a_fleet_shows_its_workers_and_what_happened(width):
    lines = shown(screens.fleet_details(failing(), width), width)
    assert max(map(len, lines)) <= width
    assert "1 of 3 workers serve" in lines[0]
    text_of_all = " ".join(" ".join(lines).split())
    for said in (
        "its controller last told of it 9.0 s ago",
        "update failed: version 2 was rolled back: no database",
        "slot 2 starts again in 3.0 s: no database",
        "2 min ago the worker in slot 2 has failed: no database",
    ):
        assert said in text_of_all
    first, second = row(lines, "   0"), row(lines, "   1")
    assert {"billers/0", "serving", "67", "3f2a91", "12345", "4.5"} <= set(first)
    assert {"billers/1", "starting", "2.1", "-"} <= set(second)
    if width == 160:
        assert "it was killed" in next(line for line in lines if "billers/0" in line)


def test_no_word_of_a_fleet_reaches_a_terminal_as_an_escape():
    odd = "\x1b[2J\r\u202e"
    workers = [worker(0, odd, phase=odd, node=odd, reason=odd)]
    event = {"seconds_ago": 1.0, "what": odd}
    waiting = [{"slot": 1, "seconds": 1.0, "reason": odd}]
    said = {"update_failed": odd, "events": [event], "waiting": waiting}
    for width in (80, 160):
        found = fleet(odd, odd, workers, **said)
        lines = [
            *shown(screens.fleet_details(found, width), width),
            *shown(screens.fleet_table({odd: found}, width), width),
        ]
        assert all(line.isprintable() for line in lines)


def test_a_fleet_says_how_many_workers_are_not_shown():
    lines = shown(screens.fleet_details(fleet(workers=3, all_workers=700, size=700), 80), 80)
    assert "and 697 more workers, which serve" in lines
    assert shown(screens.fleet_table({}, 80), 80)[0].startswith("no fleets")


def test_a_fleet_that_cannot_start_says_why():
    found = fleet(workers=0, size=2, ready=False, cannot_start="RuntimeError: no database")
    assert "cannot start" in shown(screens.fleet_table({"billers": found}, 80), 80)[1]
    assert "cannot start: RuntimeError: no database" in shown(screens.fleet_details(found, 80), 80)


def test_locks_say_who_holds_them_and_whether_they_lead():
    hold = {"id": "agent-1", "session": "s", "shared": False, "token": 42, "broken": True}
    locks = {
        "lock:migrate": {"holders": [hold], "waiting": ["agent-2"]},
        "leader:pollers": {"holders": [{**hold, "broken": False}], "waiting": []},
    }
    lines = shown(screens.lock_table(locks, 80), 80)
    assert {"lock", "agent-1", "(broken,", "agent-2", "42"} <= set(row(lines, "migrate"))
    assert {"leader", "agent-1", "42"} <= set(row(lines, "pollers"))


def test_durations_are_short():
    given = (None, 0.0, 0.004, 0.25, 2.13, 59.9, 119.0, 125.0, 7300.0, 200_000.0)
    expected = ["-", "0 ms", "4 ms", "0.2 s", "2.1 s", "60 s", "119 s", "2 min", "2 h", "2 d"]
    assert list(map(text.seconds, given)) == expected


@pytest.mark.parametrize(
    ("given", "expected"), [("90s", 90), ("1.5h", 5400), ("10m", 600), ("2d", 172_800), ("x", None)]
)
def test_ages(given, expected):
    assert text.duration(given) == expected


def test_json_holds_whatever_metadata_holds():
    value = {1: (1, 2), "set": {2, 1}, "bytes": b"\x00\xff", "odd": float("inf"), "text": "ä\udcff\x1b"}
    assert json.loads(text.to_json(value)) == {
        "1": [1, 2],
        "set": [1, 2],
        "bytes": {"hex": "00ff"},
        "odd": None,
        "text": "ä\udcff\x1b",
    }
    assert text.to_json(value, line=True).isprintable()
