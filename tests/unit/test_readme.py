"""README: what it says about the code is still so."""

import ast
import re
from pathlib import Path

import pytest

from partition_actor.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_settings_table_has_every_field_and_its_default():
    table = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", README, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in table} == Settings().to_dict()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_examples_are_python(block):
    ast.parse(block)


def test_the_make_targets_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE)) <= targets


def test_the_map_names_every_module_once():
    developing = README.partition("## Developing")[2]
    modules = {path.name for path in (ROOT / "partition_actor").glob("*.py")} - {"__init__.py"}
    named = re.findall(r"`(\w+\.py)`", developing)
    assert sorted(named) == sorted(modules)


def test_the_map_marks_what_is_pure():
    pure = re.findall(r"`(\w+\.py)` ●", README.partition("## Developing")[2])
    for name in pure:
        imported = re.findall(r"^(?:import|from) (\w+)", (ROOT / "partition_actor" / name).read_text(), re.MULTILINE)
        assert not {"ray", "asyncio", "time"} & set(imported), name
