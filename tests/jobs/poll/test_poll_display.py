import io

import pytest
from rich.console import Console

from jobs.poll.agent import View
from jobs.poll.crew import Member
from jobs.poll.display import Display
from jobs.poll.report import Kill, Outcome, Tally

MEMBER = Member("agent-0", None, View("10.0.0.1", 4711, (None, None), (frozenset(), frozenset())))


def tally(cycle=1, source="all", gaps=(), duplicates=()):
    return Tally(source, cycle, 9, 18, {"agent-10": 2, "agent-2": 6}, list(gaps), list(duplicates), 3)


def outcome(*tallies, kill_cycle=None, **others):
    outcome = Outcome(excused={("all", kill_cycle), ("all", (kill_cycle or 0) + 1)}, **others)
    for each in tallies or [tally()]:
        outcome.add(each)
    return outcome


@pytest.fixture
def shown(tmp_path):
    def shown(outcome):
        file = io.StringIO()
        Display(5, console=Console(file=file, width=100)).summarise(outcome, tmp_path)
        return file.getvalue().splitlines()

    return shown


def line(lines, first_word):
    return next(line for line in lines if line.startswith(f"{first_word} "))


def test_shares_are_of_all_polls_and_in_the_agents_order(shown):
    rows = [row.split("│") for row in shown(outcome(kills=[Kill("agent-2", 2, 0.5)])) if "%" in row]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["agent-2", "6", "75.0%", "killed in cycle 2"],
        ["agent-10", "2", "25.0%", ""],
    ]


def test_without_a_kill_the_table_has_no_column_for_it(shown):
    (row,) = (row for row in shown(outcome()) if "agent-2" in row)
    assert row.count("│") == 4


def test_a_run_without_faults_says_so(shown):
    lines = shown(outcome())
    assert line(lines, "gaps").split() == ["gaps", "none"]
    assert line(lines, "duplicates").split() == ["duplicates", "none"]


def test_faults_are_listed_by_cycle_with_examples_where_they_count(shown):
    tallies = (
        tally(1, gaps=["a", "b", "c", "d"]),
        tally(2, gaps=["e"]),
        tally(4, duplicates=["f"]),
        tally(1, "s", gaps="x"),
    )
    lines = shown(outcome(*tallies, kill_cycle=2))
    assert (
        line(lines, "gaps")
        == "gaps        4 in cycle 1: a, b, c, …; 1 in cycle 2 (around the kill); 1 in cycle 1 of s: x"
    )
    assert line(lines, "duplicates") == "duplicates  1 in cycle 4: f"


def test_of_many_faults_the_last_are_listed(shown):
    lines = shown(outcome(*(tally(n, gaps=["a"]) for n in range(1, 31))))
    assert line(lines, "gaps").startswith("gaps        10 before; 1 in cycle 11: a; ")


def test_what_happened_to_agents_and_data_is_listed(shown):
    kills = [Kill("agent-1", 2, 0.0234), Kill("agent-2", 2, None)]
    text = "\n".join(shown(outcome(kills=kills, lost=["agent-3"], missing=7, ended_by="SIGHUP")))
    assert "agent-1 in cycle 2: survivors covered everything again after 23 ms" in text
    assert "agent-2 in cycle 2: the survivors did NOT cover everything again" in text
    assert "agent-3, which nobody killed" in text
    assert "7 rows that were written" in text
    assert "by SIGHUP, before all cycles were over" in text


def test_a_long_path_is_not_broken(tmp_path):
    file = io.StringIO()
    path = tmp_path / ("x" * 200)
    Display(5, console=Console(file=file, width=40, soft_wrap=True)).summarise(outcome(), path)
    assert str(path) in file.getvalue()


def one_cycle(file, cycles=5, follow=False, **console):
    display = Display(cycles, follow, Console(file=file, width=100, **console))
    display.begin("all", 1, 7, [MEMBER])
    display.advance("all", {"agent-0": 3})
    display.say("a line")
    display.end(tally())
    display.begin("all", 2, 7, [MEMBER])
    display.advance("all", {"agent-0": 4})
    display.close()
    return file.getvalue()


def test_a_terminal_shows_a_bar():
    shown = one_cycle(io.StringIO(), force_terminal=True, color_system=None)
    assert "cycle 2 of 5" in shown
    assert "4/7 resources" in shown
    assert "a line" in shown
    assert "10.0.0.1" not in shown


def test_a_terminal_that_follows_shows_who_polls_what():
    shown = one_cycle(io.StringIO(), cycles=0, follow=True, force_terminal=True, color_system=None)
    assert "cycle 2 " in shown
    rows = [[cell.strip() for cell in row.split("│")[1:-1]] for row in shown.splitlines() if row.startswith("│")]
    assert ["all", "1", "9", "18", "0", "0", "3"] in rows
    assert ["agent-0", "10.0.0.1", "4711", "4", "0", "0.0%"] in rows


def test_a_log_gets_plain_lines():
    assert one_cycle(io.StringIO(), follow=True) == "a line\ncycle 1 of 5: 9 resources\n"
