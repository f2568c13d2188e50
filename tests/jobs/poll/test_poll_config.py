"""The settings of ``jobs.poll``: defaults, YAML and command line, and how problems are reported."""

import pytest

from jobs.poll.config import PollConfig, load_config
from partition_actor.errors import InvalidSettings


@pytest.fixture
def path(tmp_path):
    return tmp_path / "poll.yaml"


@pytest.fixture
def refused(path):
    """Load a file that has problems, and return the lines of the refusal."""

    def refused(text, **overrides):
        path.write_text(text)
        with pytest.raises(InvalidSettings) as refusal:
            load_config(str(path), overrides)
        return str(refusal.value).splitlines()

    return refused


def test_without_a_file_the_defaults_hold():
    assert load_config(None, {}) == PollConfig()


def test_an_empty_file_is_the_defaults(path):
    path.write_text("# nothing yet\n")
    assert load_config(str(path), {}) == PollConfig()


def test_the_command_line_overrides_the_file(path):
    path.write_text("agents: 3\ncycles: 5\n")
    config = load_config(str(path), {"agents": 7})
    assert (config.agents, config.cycles) == (7, 5)


def test_targets_become_resource_ids_relative_to_the_file_each_once(path):
    (path.parent / "a.log").write_text("x")
    path.write_text("targets: [a.log, ./a.log, 'localhost:80']\n")
    assert load_config(str(path), {}).targets == (f"file:{path.parent / 'a.log'}", "tcp:localhost:80")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidSettings, match=r"/gone\.yaml: cannot be read: No such file"):
        load_config(str(tmp_path / "gone.yaml"), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents: [", "not YAML"),
        ("- agents", "got '- agents', expected a mapping of settings, such as 'agents: 4'"),
        ("agnets: 4", "agnets: got 4, expected the name of a setting: did you mean agents?"),
        ("1: 4", "1: got 4, expected the name of a setting: they are agents, cycles"),
        ("agents: 0", "agents: got 0, expected a number greater than or equal to 1"),
        ("agents: -1", "agents: got -1, "),
        ("agents: 1001", "agents: got 1001, expected a number less than or equal to 1000"),
        ("agents: '4'", "agents: got '4', expected a valid integer"),
        ("agents: true", "agents: got True, expected a valid integer"),
        ("agents: 2.5", "agents: got 2.5, "),
        ("agents:", "agents: got None, "),
        ("cycles: 0", "cycles: "),
        ("interval: -1", "interval: "),
        ("interval: .nan", "interval: got nan, expected a finite number"),
        ("spread: .inf", "spread: got inf, expected a finite number"),
        ("timeout: 0", "timeout: "),
        ("limit: 0", "limit: "),
        ("out: ''", "out: got '', expected 1 or more characters"),
        ("name: ''", "name: "),
        ("targets: /tmp", "targets: got '/tmp', expected a list"),
        ("targets: [80]", "targets.0: got 80, expected a valid string"),
        ("targets: ['localhost:99999']", "the port must be a number from 1 to 65535"),
        ("targets: [no-such-file]", "no such file or directory"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_naming_file_field_and_value(refused, path, text, said):
    (line,) = refused(text)
    assert line.startswith(f"{path}:1: ")
    assert said in line


def test_every_problem_is_a_line_in_the_order_of_the_file(refused, path):
    text = "cycles: 0\ntargets:\n  - no-such-file\n  - localhost:99999\nagents: 2\nkill: 2\nagents: 3\n"
    assert [line.split(": ")[:2] for line in refused(text, interval=-1.0)] == [
        ["--interval -1.0", "expected a number greater than or equal to 0"],
        [f"{path}:1", "cycles"],
        [f"{path}:3", "targets.0"],
        [f"{path}:4", "targets.1"],
        [f"{path}:6", "kill"],
        [f"{path}:7", "agents"],
    ]


def test_a_bad_option_is_named_as_the_user_typed_it(refused):
    assert refused("", agents=0) == ["--agents 0: expected a number greater than or equal to 1"]


def test_a_file_that_is_not_text_is_refused(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSettings, match="not UTF-8"):
        load_config(str(path), {})


def test_a_kill_must_leave_a_survivor(refused):
    assert refused("agents: 2", kill=2) == [
        "--kill 2: expected fewer than agents, so that at least one survives, and agents is 2"
    ]


def test_a_kill_needs_a_cycle_before_and_one_after_the_two_around_it(refused, path):
    (line,) = refused("\ncycles: 3", kill=1)
    assert line.startswith(f"{path}:2: cycles: got 3, expected at least 4 with kill: ")
    assert line.endswith(", and kill is 1")


@pytest.mark.parametrize(("cycles", "middle"), [(4, 2), (5, 3), (8, 4)])
def test_the_kill_comes_half_way_with_a_judged_cycle_on_both_sides(cycles, middle):
    assert PollConfig(cycles=cycles, kill=1).kill_cycle == middle
    assert 1 < middle < cycles - 1


def test_without_kill_no_cycle_is_excused():
    assert PollConfig().kill_cycle is None
