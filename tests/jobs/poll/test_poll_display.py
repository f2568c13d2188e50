import io

import pytest
from rich.console import Console

from jobs.poll.display import Display
from jobs.poll.report import Kill, Outcome, Report


def outcome(*, gaps=None, duplicates=None, kills=(), lost=(), kill_cycle=None):
    report = Report(
        cycles=5,
        resources=9,
        samples=90,
        polls={"agent-10": 10, "agent-2": 30},
        gaps=gaps or {},
        duplicates=duplicates or {},
    )
    return Outcome(report, kill_cycle, kills, lost)


@pytest.fixture
def shown(tmp_path):
    def shown(outcome):
        file = io.StringIO()
        Display(5, Console(file=file, width=100)).summarise(outcome, tmp_path)
        return file.getvalue().splitlines()

    return shown


def line(lines, first_word):
    return next(line for line in lines if line.startswith(f"{first_word} "))


@pytest.mark.parametrize(
    ("shown", "good"),
    [
        ({}, True),
        ({"gaps": {2: ["x"]}}, False),
        ({"duplicates": {2: ["x"]}}, False),
        ({"gaps": {2: ["x"]}, "duplicates": {3: ["x"]}, "kill_cycle": 2}, True),
        ({"gaps": {1: ["x"]}, "kill_cycle": 2}, False),
        ({"duplicates": {4: ["x"]}, "kill_cycle": 2}, False),
        ({"kills": [Kill("a", 1, 0.02), Kill("b", 2, None)], "kill_cycle": 2}, False),
        ({"kills": [Kill("a", 1, 0.02)], "kill_cycle": 2}, True),
    ],
)
def test_only_the_two_cycles_around_a_kill_are_excused(shown, good):
    assert outcome(**shown).good is good


def test_shares_are_of_all_polls_and_in_the_agents_order(shown):
    rows = [row.split("│") for row in shown(outcome(kills=[Kill("agent-2", 1, 0.5)], kill_cycle=2)) if "%" in row]
    assert [[cell.strip() for cell in row[1:-1]] for row in rows] == [
        ["agent-2", "30", "75.0%", "killed in cycle 2"],
        ["agent-10", "10", "25.0%", ""],
    ]


def test_without_a_kill_the_table_has_no_column_for_it(shown):
    (row,) = (row for row in shown(outcome()) if "agent-2" in row)
    assert row.count("│") == 4


def test_a_run_without_faults_says_so(shown):
    lines = shown(outcome())
    assert line(lines, "gaps").split() == ["gaps", "none"]
    assert line(lines, "duplicates").split() == ["duplicates", "none"]


def test_faults_are_listed_by_cycle_with_examples_where_they_count(shown):
    lines = shown(outcome(gaps={1: ["a", "b", "c", "d"], 2: ["e"]}, duplicates={4: ["f"]}, kill_cycle=2))
    assert line(lines, "gaps") == "gaps        4 in cycle 1: a, b, c, …; 1 in cycle 2 (around the kill)"
    assert line(lines, "duplicates") == "duplicates  1 in cycle 4: f"


def test_kills_and_losses_are_listed(shown):
    kills = [Kill("agent-1", 1, 0.0234), Kill("agent-2", 2, None)]
    text = "\n".join(shown(outcome(kills=kills, kill_cycle=2, lost=["agent-3"])))
    assert "agent-1 in cycle 2: survivors covered everything again after 23 ms" in text
    assert "agent-2 in cycle 2: the survivors did NOT cover everything again" in text
    assert "agent-3, which nobody killed" in text


def test_a_long_path_is_not_broken(tmp_path):
    file = io.StringIO()
    path = tmp_path / ("x" * 200)
    Display(5, Console(file=file, width=40, soft_wrap=True)).summarise(outcome(), path)
    assert str(path) in file.getvalue()


def one_cycle(file, **console):
    display = Display(5, Console(file=file, width=100, **console))
    display.begin(1, 7)
    display.advance(3)
    display.say("a line")
    display.end(1, 7)
    display.close()
    return file.getvalue()


def test_a_terminal_shows_a_bar():
    shown = one_cycle(io.StringIO(), force_terminal=True, color_system=None)
    assert "cycle 1 of 5" in shown
    assert "7/7 resources" in shown
    assert "a line" in shown


def test_a_log_gets_plain_lines():
    assert one_cycle(io.StringIO()) == "a line\ncycle 1 of 5: 7 resources\n"
