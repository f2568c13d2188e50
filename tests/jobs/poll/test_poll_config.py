"""The settings of ``jobs.poll``: defaults, YAML and command line, and how problems are reported."""

import pytest

from jobs.driver.machine import DISCOVERED
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
        ("cycles: -1", "cycles: "),
        ("interval: -1", "interval: "),
        ("interval: .nan", "interval: got nan, expected a finite number"),
        ("interval: 1.0e+300", "interval: got 1e+300, expected a number less than or equal to 2592000"),
        ("interval: 1.0e+10", "interval: got 10000000000.0, expected a number less than or equal to 2592000"),
        ("limit: 0.5", "spread: got 1.0, expected less than limit"),
        ("spread: 60", "spread: got 60, expected less than limit, so that an agent can end its cycle, and limit is 60"),
        ("agents: 2\nagents: 2", "agents: got 2, expected it once: line 1 has it already"),
        ("group: ''", "group: "),
        ("sources: [{}]", "sources.0.name: field required"),
        ("sources: [{name: a b}]", "sources.0.name: "),
        ("sources: [{name: a, interval: -1}]", "sources.0.interval: got -1"),
        ("sources: [{name: a, meters: []}]", "sources.0.meters: "),
        ("sources: [{name: a, meters: ['!']}]", "sources.0.meters.0: expected a meter after the !"),
        ("sources: [{name: a, meters: [cpu.idel]}]", "meter 'cpu.idel': it matches none of cpu.guest, "),
        ("sources: [{name: a, resources: [gone]}]", "sources.0.resources.0: target 'gone': no such file"),
        ("sources: [{name: a, discovery: [proceses]}]", "expected local, processes, disks, "),
        ("sources: [{name: a, discovery: ['file:gone']}]", "discovery 'file:gone': there is no file"),
        ("sources: [{name: a, discovery: ['command:gone x']}]", "there is no program 'gone'"),
        ("sources: [{name: a, discovery: ['command:']}]", "there is no program ''"),
        ('sources: [{name: a, discovery: ["command:x \'"]}]', "No closing quotation"),
        ("sources: [{name: a}, {name: a}]", "sources.1.name: there is another of the name 'a'"),
        ("targets: ['localhost:80']\nsources: [{name: a}]", "targets: expected in the resources of a source"),
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
    assert line.startswith(f"{path}:{2 if 'once' in said else 1}: ")
    assert said in line


def test_every_problem_is_a_line_in_the_order_of_the_file(refused, path):
    text = "cycles: -1\ntargets:\n  - no-such-file\n  - localhost:99999\nagents: 2\nkill: 2\nagents: 3\n"
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


SOURCES = """\
interval: 3
sources:
  - name: fast
    interval: 0.5
    meters: ["cpu.*", "!cpu.idle"]
    project_id: p
    user_id: u
  - name: listed
    discovery: ["file:targets.txt", "command:sh list.sh --all", cores]
  - name: given
    resources: ["localhost:80", .]
"""


def test_sources_are_polled_instead_of_targets(path):
    (path.parent / "targets.txt").write_text("")
    path.write_text(SOURCES)
    config = load_config(str(path), {})
    fast, listed, given = config.polled
    assert [config.interval_of(source) for source in config.polled] == [0.5, 3, 3]
    assert [config.spread_of(source) for source in config.polled] == [0.25, 1.0, 1.0]
    assert (fast.project_id, fast.user_id, fast.meters) == ("p", "u", ("cpu.*", "!cpu.idle"))
    assert set(fast.kinds) == set(DISCOVERED)
    file, command, _ = listed.discovered
    assert (file.file, str(command).endswith("sh list.sh --all")) == (path.parent / "targets.txt", True)
    assert command.base == path.parent
    assert listed.kinds == ("cores",)
    assert (given.kinds, given.resources) == ((), ("tcp:localhost:80", f"directory:{path.parent}"))


def test_without_sources_there_is_one_of_the_machine_and_the_targets(path):
    path.write_text("targets: ['localhost:80']\ninterval: 0\n")
    config = load_config(str(path), {})
    (source,) = config.polled
    assert (source.name, source.resources, set(source.kinds)) == ("all", ("tcp:localhost:80",), set(DISCOVERED))
    assert (config.interval_of(source), config.spread_of(source)) == (0, 1.0)


def test_without_kill_no_cycle_is_excused():
    assert PollConfig().kill_cycle is None
