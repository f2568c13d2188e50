"""What the README says about the code is true."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from deployments import LIMIT, STEADY, wait_until

import partition_actor
from partition_actor.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_settings_table_has_every_field_and_its_default():
    table = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", README, re.MULTILINE)
    assert {name: ast.literal_eval(default) for name, default in table} == Settings().to_dict()


@pytest.mark.parametrize("block", BLOCKS)
def test_the_examples_are_python(block):
    ast.parse(block)


def test_the_share_of_the_bare_worker_goes_to_another_when_it_is_killed(cluster):
    (block,) = (block for block in BLOCKS if "class BareAgent" in block)
    names = {"__name__": "__main__"}  # so that Ray pickles the class by value, as one of a script
    exec(block, names)
    everything = [f"polled {resource}" for resource in range(100)]

    def poll(agent):
        return ray.get(agent.poll.remote(range(100)), timeout=LIMIT)

    partition_actor.deploy(settings=STEADY)
    try:
        killed, other = (names["BareAgent"].options(num_cpus=0).remote(name) for name in ("a", "b"))
        assert poll(killed) == everything
        assert poll(other) != everything
        assert sorted(poll(killed) + poll(other)) == sorted(everything)
        pid = ray.get(killed.__ray_call__.remote(lambda _: __import__("os").getpid()), timeout=LIMIT)
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: poll(other) == everything)
        print(f"taken over {1000 * (time.perf_counter() - began):.0f} ms after kill -9")
        ray.kill(other)
    finally:
        partition_actor.shutdown()


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
