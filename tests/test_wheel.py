"""The wheel imports and deploys in an environment with nothing but it and its dependencies."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Filling a new environment takes a minute or two.
pytestmark = pytest.mark.timeout(600)

IMPORT_EVERYTHING = """
import importlib, importlib.metadata, pkgutil, partition_actor
for module in pkgutil.walk_packages(partition_actor.__path__, "partition_actor."):
    if not module.name.startswith(("partition_actor.tooz.", "partition_actor.operate.page")):  # these need an extra
        importlib.import_module(module.name)
print(importlib.metadata.version("partition-actor"))
print(partition_actor.__file__)
"""

COMMAND_LINE = """
import pathlib, subprocess, sys
program = pathlib.Path(sys.executable).with_name("partition-actor")
print(subprocess.check_output([program, "--version"], text=True), end="")
"""

DEPLOY = """
import ray, partition_actor
ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
handle = partition_actor.deploy(name="wheel", namespace="wheel")
print(ray.get(handle.get_subset.remote("group", "member", ["a", "b"]), timeout=60))
partition_actor.shutdown(name="wheel", namespace="wheel")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL, timeout=300)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Run a program in an environment with the wheel and its dependencies; returns the lines that it prints."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel]
    subprocess.run([python, *install], check=True, timeout=500)

    def run(program):
        env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        command = [python, "-I", "-c", program]
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=home, env=env, timeout=200
        ).stdout.splitlines()

    yield run
    shutil.rmtree(home)  # it is large, and pytest would keep it for three runs


def test_the_wheel_has_the_package_its_types_marker_and_its_licence_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "partition_actor/py.typed" in names
    static = Path("partition_actor/operate/page/static")
    assert {str(static / file.name) for file in (ROOT / static).iterdir()} <= set(names)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"partition_actor"}


def test_every_module_imports_with_the_declared_dependencies_alone(wheel, run):
    version, origin = run(IMPORT_EVERYTHING)
    assert wheel.name.split("-")[1] == version
    assert "site-packages" in origin
    assert not Path(origin).is_relative_to(ROOT)


def test_the_command_line_comes_with_the_wheel(wheel, run):
    assert run(COMMAND_LINE) == [f"partition-actor, version {wheel.name.split('-')[1]}"]


def test_the_partition_actor_deploys_from_the_wheel(run):
    assert run(DEPLOY)[-1] == "['a', 'b']"
