"""What the README says about the code is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from partition_actor.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_settings_table_has_every_field_and_its_default():
    table = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", README, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in table} == Settings().to_dict()


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_examples_are_python(block):
    ast.parse(block)


def test_the_table_of_rooms_names_every_room():
    developing = README.partition("## Developing")[2]
    rooms = {path.parent.name for path in (ROOT / "partition_actor").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", developing, re.MULTILINE)) == rooms


def test_every_room_says_whether_it_is_public():
    for path in (ROOT / "partition_actor").glob("*/__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text()))
        assert ("Public" if path.parent.name == "testing" else "\nPrivate: ") in said, path


def test_the_public_face_defines_nothing():
    tree = ast.parse((ROOT / "partition_actor" / "__init__.py").read_text())
    assert not [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def test_a_worker_does_not_load_the_partition_actors_shell():
    code = "import sys, partition_actor; print([name for name in sys.modules if 'partition_actor.actor' in name])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
