import pytest
from polling.config import InputError, PollConfig, load_config


def refusal(path, text, **overrides):
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_config(str(path), overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "poll.yaml"


def test_without_a_file_the_defaults_hold():
    assert load_config(None, {}) == PollConfig()


def test_an_empty_file_is_the_defaults(path):
    path.write_text("# nothing yet\n")
    assert load_config(str(path), {}) == PollConfig()


def test_the_command_line_goes_over_the_file(path):
    path.write_text("agents: 3\ncycles: 5\n")
    config = load_config(str(path), {"agents": 7})
    assert (config.agents, config.cycles) == (7, 5)


def test_targets_become_resource_ids_relative_to_the_file_each_once(path):
    (path.parent / "a.log").write_text("x")
    path.write_text("targets: [a.log, ./a.log, 'localhost:80']\n")
    assert load_config(str(path), {}).targets == (f"file:{path.parent / 'a.log'}", "tcp:localhost:80")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--config .*gone\.yaml: No such file"):
        load_config(str(tmp_path / "gone.yaml"), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents: [", "not YAML"),
        ("- agents", "expected a mapping of settings, got list"),
        ("agnets: 4", "agnets: no such setting; there are agents, cycles"),
        ("1: 4", "1: no such setting"),
        ("agents: 0", "agents: input should be greater than or equal to 1, got 0"),
        ("agents: -1", "got -1"),
        ("agents: 1001", "got 1001"),
        ("agents: '4'", "agents: input should be a valid integer, got '4'"),
        ("agents: true", "agents: input should be a valid integer, got True"),
        ("agents: 2.5", "got 2.5"),
        ("agents:", "got None"),
        ("cycles: 0", "cycles: "),
        ("interval: -1", "interval: "),
        ("interval: .nan", "interval: input should be a finite number"),
        ("spread: .inf", "spread: input should be a finite number"),
        ("timeout: 0", "timeout: "),
        ("limit: 0", "limit: "),
        ("out: ''", "out: "),
        ("name: ''", "name: "),
        ("targets: /tmp", "targets: "),
        ("targets: [80]", "targets: "),
        ("targets: ['localhost:99999']", "the port must be a number from 1 to 65535"),
        ("targets: [no-such-file]", "no such file or directory"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_naming_file_field_and_value(path, text, said):
    message = refusal(path, text)
    assert said in message
    assert str(path) in message


def test_a_bad_option_is_named_as_the_user_typed_it(path):
    assert refusal(path, "", agents=0) == "--agents 0: input should be greater than or equal to 1"


def test_a_file_that_is_not_text_is_refused(path):
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(str(path), {})


def test_a_kill_must_leave_a_survivor(path):
    assert "at least one agent must survive" in refusal(path, "agents: 2", kill=2)


def test_a_kill_needs_a_cycle_before_and_one_after_the_two_around_it(path):
    assert "cycles is 3: with kill at least 4" in refusal(path, "cycles: 3", kill=1)


@pytest.mark.parametrize(("cycles", "middle"), [(4, 2), (5, 3), (8, 4)])
def test_the_kill_comes_half_way_with_a_judged_cycle_on_both_sides(cycles, middle):
    assert PollConfig(cycles=cycles, kill=1).kill_cycle == middle
    assert 1 < middle < cycles - 1


def test_without_kill_no_cycle_is_excused():
    assert PollConfig().kill_cycle is None
