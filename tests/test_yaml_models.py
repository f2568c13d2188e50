"""YAML files as models: where a problem is reported that the file, the command line or two fields cause."""

import operator

import pytest
from pydantic import BaseModel, ConfigDict, Field

from partition_actor.errors import InvalidSettings
from partition_actor.yaml_models import Document, Rule


class Inner(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    size: int


class Outer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    low: int = 1
    high: int = 2
    parts: tuple[Inner, ...] = Field((), strict=False)


RULES = [Rule("low", "high", operator.lt, "less than high")]


@pytest.fixture
def load(tmp_path):
    def load(text, **overrides):
        (tmp_path / "f.yaml").write_text(text)
        return Document(tmp_path / "f.yaml", example="low: 1").load(Outer, overrides, RULES)

    return load


@pytest.fixture
def refused(load, tmp_path):
    """Load a file that has problems, and return the lines of the refusal without the file's directory."""

    def refused(text, **overrides):
        with pytest.raises(InvalidSettings) as refusal:
            load(text, **overrides)
        return [line.removeprefix(f"{tmp_path}/") for line in str(refusal.value).splitlines()]

    return refused


def test_overrides_replace_the_values_of_the_file(load):
    assert load("low: 5\nhigh: 9\n", low=3) == Outer(low=3, high=9)


def test_without_a_file_there_are_overrides_and_defaults():
    assert Document(None, example="low: 1").load(Outer, {"low": 0}, RULES) == Outer(low=0)


def test_a_clash_is_reported_where_its_field_was_given(refused):
    said = "less than high, and high is"
    assert refused("\nlow: 5\n") == [f"f.yaml:2: low: got 5, expected {said} 2"]
    assert refused("\nhigh: 0\n") == [f"f.yaml:2: low: got 1, expected {said} 0"]
    assert refused("\nhigh: 4\n", low=7) == [f"--low 7: expected {said} 4"]
    assert refused("\nlow: 3\n", high=1) == [f"f.yaml:2: low: got 3, expected {said} 1"]
    assert refused("", high=1) == [f"--high 1: low: got 1, expected {said} 1"]


def test_a_problem_deep_in_the_file_has_its_own_line_and_the_path_to_it(refused):
    assert refused("parts:\n  - size: 1\n  - size:\n      - 1\n  - {}\n  - {size: 1, sise: 2}\n  - 3\n") == [
        "f.yaml:3: parts.1.size: got '- 1', expected a valid integer",
        "f.yaml:5: parts.2.size: field required",
        "f.yaml:6: parts.3.sise: got 2, expected no such key here",
        "f.yaml:7: parts.4: got 3, expected a mapping",
    ]


def test_a_key_twice_is_reported_even_if_an_override_replaces_it(refused):
    said = "f.yaml:2: low: got 1, expected it once: line 1 has it already"
    assert refused("low: 0\nlow: 1\n", low=1) == [said]


def test_a_key_twice_in_a_nested_mapping_is_reported_with_both_lines(refused):
    assert refused("parts:\n  - size: 1\n    size: 2\n") == [
        "f.yaml:3: parts.0.size: got 2, expected it once: line 2 has it already"
    ]
