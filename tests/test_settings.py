"""Settings: what is refused and how it is said, the YAML file's lines, and the arithmetic of the pace."""

import dataclasses
import math
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from partition_actor.errors import InvalidSettings, PartitionError
from partition_actor.settings import UNKNOWN_TO_MINOR_0, Settings, to_tell, told


@pytest.fixture
def refused(tmp_path):
    """Write a YAML file, load it, and return the lines of the refusal without the file's path."""

    def load(text):
        path = tmp_path / "settings.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InvalidSettings) as caught:
            Settings.load(path)
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}:") for line in lines)
        return [line.removeprefix(f"{path}:") for line in lines]

    return load


@pytest.fixture
def loaded(tmp_path):
    def load(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return Settings.load(str(path))

    return load


def test_the_defaults_are_the_documented_ones():
    assert Settings().to_dict() == {
        "ttl": 10.0,
        "hold": 2.0,
        "clock_rate_margin": 0.02,
        "handoff_timeout": 10.0,
        "publish_window": 0.02,
        "max_members": 1000,
        "max_heartbeats_per_second": 500.0,
        "vnodes": 160,
        "hash_function": "xxh3",
        "pin_to_head": True,
        "new_cluster_wait": 0.0,
        "call_timeout": 5.0,
        "node_proof_interval": 1.0,
        "leave_draining_nodes": True,
        "metrics": True,
    }


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_field_says_its_unit_and_its_reason(name):
    description = Settings.model_fields[name].description
    summary, _, reason = description.partition("\n\n")
    assert summary.endswith(".")
    assert len(reason) > 40


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ttl", -1, "greater than or equal to 0.001"),
        ("ttl", 0, "greater than or equal to 0.001"),
        ("ttl", 86_401, "less than or equal to 86400"),
        ("ttl", math.nan, "a finite number"),
        ("ttl", math.inf, "a finite number"),
        ("ttl", 10**400, "a valid number"),
        ("ttl", True, "a valid number"),
        ("ttl", "10", "a valid number"),
        ("ttl", None, "a valid number"),
        ("ttl", [10], "a valid number"),
        ("hold", 0.0, "greater than or equal to 0.001"),
        ("clock_rate_margin", 0, "greater than 0"),
        ("clock_rate_margin", 1.0, "less than 1"),
        ("handoff_timeout", -0.5, "greater than or equal to 0.001"),
        ("publish_window", -0.01, "greater than or equal to 0"),
        ("max_members", 0, "greater than or equal to 1"),
        ("max_members", 10.0, "a valid integer"),
        ("max_members", True, "a valid integer"),
        ("max_heartbeats_per_second", 0.5, "greater than or equal to 1"),
        ("vnodes", 0, "greater than or equal to 1"),
        ("vnodes", 100_001, "less than or equal to 100000"),
        ("vnodes", 1.5, "a valid integer"),
        ("hash_function", "sha256", "'xxh3' or 'md5'"),
        ("hash_function", b"md5", "'xxh3' or 'md5'"),
        ("pin_to_head", 1, "a valid boolean"),
        ("pin_to_head", "yes", "a valid boolean"),
        ("call_timeout", 0, "greater than or equal to 0.001"),
        ("node_proof_interval", 0, "greater than or equal to 0.001"),
    ],
)
def test_a_value_that_no_field_takes_is_refused_by_name(field, value, expected):
    with pytest.raises(InvalidSettings) as caught:
        Settings(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}: got ")
    assert message.endswith(expected)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ttl": 4}, "ttl: got 4, expected more than 2 * hold, and hold is 2.0"),
        ({"hold": 5}, "ttl: got 10.0, expected more than 2 * hold, and hold is 5"),
        ({"handoff_timeout": 1.9}, "handoff_timeout: got 1.9, expected at least hold, and hold is 2.0"),
        ({"publish_window": 2}, "publish_window: got 2, expected less than hold, and hold is 2.0"),
        (
            {"node_proof_interval": 5},
            "node_proof_interval: got 5, expected less than ttl / 2, and ttl is 10.0",
        ),
    ],
)
def test_two_fields_that_cannot_go_together_are_both_named(fields, message):
    with pytest.raises(InvalidSettings) as caught:
        Settings(**fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl": 4.001, "hold": 2.0},
        {"handoff_timeout": 2.0},
        {"publish_window": 0},
        {"publish_window": 1.999},
        {"node_proof_interval": 4.999},
        {
            "ttl": 0.003,
            "hold": 0.001,
            "handoff_timeout": 0.001,
            "publish_window": 0,
            "node_proof_interval": 0.001,
        },
        {"vnodes": 1},
        {"vnodes": 100_000},
        {"max_members": 1},
    ],
)
def test_the_edges_are_allowed(fields):
    settings = Settings(**fields)
    assert settings.to_dict().items() >= fields.items()


def test_an_int_is_taken_where_a_float_is():
    assert type(Settings(ttl=11).ttl) is float


def test_an_unknown_field_is_refused_with_the_nearest_name():
    with pytest.raises(InvalidSettings, match=r"^tll: got 5, expected the name of a setting: did you mean ttl\?$"):
        Settings(tll=5)


def test_an_unknown_field_like_no_other_is_refused_with_all_names():
    with pytest.raises(InvalidSettings) as caught:
        Settings(colour="red")
    assert all(name in str(caught.value) for name in Settings.model_fields)


def test_every_problem_is_listed():
    with pytest.raises(InvalidSettings) as caught:
        Settings(ttl="x", vnodes=0, hold=3, publish_window=4, tll=1)
    fields = [line.split(":")[0] for line in str(caught.value).splitlines()]
    assert fields == ["ttl", "vnodes", "tll", "publish_window"]


def test_no_error_of_pydantic_reaches_the_caller():
    with pytest.raises(PartitionError) as caught:
        Settings(ttl=-1)
    assert not isinstance(caught.value, ValidationError)
    assert isinstance(caught.value, ValueError)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(InvalidSettings) as caught:
        Settings(ttl="x" * 1_000_000)
    assert len(str(caught.value)) < 200


def test_settings_do_not_change():
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.ttl = 20.0
    assert settings == Settings()
    assert hash(settings) == hash(Settings())


def test_settings_cross_a_call_as_a_dict_of_builtins():
    settings = Settings(ttl=20, hash_function="md5", pin_to_head=False)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert {type(value) for value in settings.to_dict().values()} <= {float, int, str, bool}
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("data", [None, [], "ttl", 5, {1: 2}, {b"ttl": 5}, {None: 5}])
def test_from_dict_refuses_what_is_no_mapping_of_names(data):
    with pytest.raises(InvalidSettings, match="expected a mapping of names to values"):
        Settings.from_dict(data)


def test_from_dict_checks_the_values():
    with pytest.raises(InvalidSettings, match=r"^ttl: got -1"):
        Settings.from_dict({"ttl": -1})


# The arithmetic of the pace.


@dataclasses.dataclass
class Pace:
    members: int
    interval: float
    ttl: float


@pytest.mark.parametrize(
    "pace",
    [
        Pace(0, 2.0, 10.0),
        Pace(1, 2.0, 10.0),
        Pace(1_000, 2.0, 10.0),
        Pace(1_001, 2.002, 10.01),
        Pace(5_000, 10.0, 50.0),
        Pace(10_000, 20.0, 100.0),
    ],
)
def test_the_interval_and_the_lease_grow_together_above_the_pace(pace):
    settings = Settings(max_members=10_000)
    assert settings.interval_for(pace.members) == pytest.approx(pace.interval)
    assert settings.ttl_for(pace.members) == pytest.approx(pace.ttl)


@pytest.mark.parametrize("members", [0, 7, 999, 1_000, 12_345, 1_000_000])
def test_heartbeats_stay_below_the_pace_and_leases_keep_their_proportion(members):
    settings = Settings(ttl=7, hold=3)
    assert settings.interval_for(members) >= settings.hold
    assert members / settings.interval_for(members) <= settings.max_heartbeats_per_second
    assert settings.ttl_for(members) > 2 * settings.interval_for(members)


def test_max_ttl_is_the_lease_of_as_many_as_are_served():
    assert Settings().max_ttl == 10.0
    assert Settings(max_members=10_000).max_ttl == pytest.approx(100.0)
    assert Settings(max_members=10_000, max_heartbeats_per_second=5_000).max_ttl == 10.0


def test_the_longest_lease_of_all_is_still_a_number():
    settings = Settings(
        ttl=86_400,
        hold=0.001,
        publish_window=0,
        max_members=1_000_000,
        max_heartbeats_per_second=1,
    )
    assert math.isfinite(settings.max_ttl)


# The file.


def test_a_file_is_read(loaded):
    settings = loaded("# a comment\nttl: 30\nhold: 2.5\nhash_function: md5\npin_to_head: false\nvnodes: 40\n")
    assert settings == Settings(ttl=30, hold=2.5, hash_function="md5", pin_to_head=False, vnodes=40)


@pytest.mark.parametrize("text", ["", "# ttl: 30\n", "---\n", "{}"])
def test_a_file_that_sets_nothing_means_the_defaults(loaded, text):
    assert loaded(text) == Settings()


def test_an_anchor_and_its_alias_are_read(loaded):
    assert loaded("handoff_timeout: &long 20\nttl: *long\n").ttl == 20.0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("ttl: 10\ntll: 5\n", ["2: tll: got 5, expected the name of a setting: did you mean ttl?"]),
        ("\n\nttl: soon\n", ["3: ttl: got 'soon', expected a valid number"]),
        ("ttl: yes\n", ["1: ttl: got True, expected a valid number"]),
        ("ttl: '10'\n", ["1: ttl: got '10', expected a valid number"]),
        ("ttl: 1e1\n", ["1: ttl: got '1e1', expected a valid number"]),
        ("ttl:\n", ["1: ttl: got None, expected a valid number"]),
        ("ttl: .inf\nvnodes: .nan\n", ["1: ttl: got inf, expected a finite number"]),
        ("ttl:\n  - 10\n", ["1: ttl: got '- 10', expected a valid number"]),
        ("ttl: {a: 1}\n", ["1: ttl: got '{a: 1}', expected a valid number"]),
        ("ttl: 2020-99-99\n", ["1: ttl: got '2020-99-99', expected a valid number"]),
        ("ttl: !!int x\n", ["1: ttl: got '!!int x', expected a valid number"]),
        ("hash_function: !mine md5\n", ["1: hash_function: got '!mine md5', expected 'xxh3' or 'md5'"]),
        ("hold: 1.5\nttl: 3\n", ["2: ttl: got 3, expected more than 2 * hold, and hold is 1.5"]),
        ("vnodes: 9\nhold: 5\n", ["2: ttl: got 10.0, expected more than 2 * hold, and hold is 5"]),
        ("ttl: 20\nhold: 2\nttl: 30\n", ["3: ttl: got 30, expected it once: line 1 has it already"]),
        ("[a]: 3\n", ["1: [a]: got 3, expected the name of a setting"]),
        ("'a\\nb': 3\n", ["1: a\\nb: got 3, expected the name of a setting"]),
        ('"a\\nb": 3\n', ["1: 'a\\nb': got 3, expected the name of a setting"]),
        ("<<: {ttl: 3}\n", ["1: <<: got '{ttl: 3}', expected the name of a setting"]),
        ("- ttl: 10\n", ["1: got '- ttl: 10', expected a mapping"]),
        ("\nttl\n", ["2: got 'ttl', expected a mapping"]),
        ("ttl: 10\nhold: 2: 3\n", ["2: not YAML: mapping values are not allowed here"]),
        ("ttl: *x\n", ["1: not YAML: found undefined alias 'x'"]),
        ("ttl: 1\n---\nhold: 3\n", ["2: not YAML: but found another document"]),
        ("ttl: 10\nhold: \x01\n", ["2: not YAML: special characters are not allowed"]),
        ("[" * 100_000, ["1: not YAML: nested too deeply"]),
        (b"ttl: \xff\n", [" got bytes that are not UTF-8, expected a YAML file"]),
    ],
)
def test_a_bad_file_is_refused_with_the_line(refused, text, lines):
    said = refused(text)
    for line, start in zip(said, lines, strict=False):
        assert line.startswith(start)


def test_every_problem_of_a_file_is_listed_in_its_order(refused):
    said = refused("vnodes: 0\nttl: 10\npublish_window: 9\nholdd: 1\nttl: 11\nhash_function: crc\n")
    assert [line.split(": got")[0] for line in said] == [
        "1: vnodes",
        "3: publish_window",
        "4: holdd",
        "5: ttl",
        "6: hash_function",
    ]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InvalidSettings, match=r"none\.yaml: cannot be read: No such file"):
        Settings.load(tmp_path / "none.yaml")
    with pytest.raises(InvalidSettings, match="cannot be read: Is a directory"):
        Settings.load(Path(tmp_path))


def test_what_is_told_is_read_by_this_version_and_by_minor_version_0():
    settings = Settings(ttl=7.0, hold=1.0, leave_draining_nodes=False)
    hello = to_tell(settings)
    assert Settings.from_dict(told(hello)) == settings
    assert hello["settings"].keys().isdisjoint(UNKNOWN_TO_MINOR_0)
    assert Settings.from_dict(told({"settings": hello["settings"]})) == Settings(ttl=7.0, hold=1.0)


def test_a_setting_of_a_later_version_is_ignored():
    assert told({"settings": {"ttl": 7.0, "of a later version": 1}}) == {"ttl": 7.0}


def test_minor_version_0_is_told_the_fields_that_it_knows_and_no_other():
    """It refuses any other, and its members would have no keys."""
    known = "ttl hold clock_rate_margin handoff_timeout publish_window max_members max_heartbeats_per_second vnodes "
    known += "hash_function pin_to_head call_timeout node_proof_interval metrics"
    assert to_tell(Settings())["settings"].keys() == set(known.split())
