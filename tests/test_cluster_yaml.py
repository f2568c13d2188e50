"""cluster.yaml: Ray's own schema and launcher take it, and its set-up commands install this package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from partition_actor.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_it_is_valid_by_the_schema_that_ray_ships(cluster):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    cluster["settings"] = {}
    with pytest.raises(jsonschema.ValidationError):  # so the schema does look at what is there
        jsonschema.validate(cluster, schema)


def test_the_launcher_takes_it(cluster):
    prepared = prepare_config(cluster)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == len(cluster["provider"]["worker_ips"])


def test_the_head_has_the_dashboard_that_takes_jobs(cluster):
    start = cluster["head_start_ray_commands"][-1]
    assert "ray start --head" in start
    assert "--include-dashboard=true" in start


def test_it_has_no_application_settings(cluster):
    words = {word for command in cluster["setup_commands"] for word in command.split()}
    assert not words & set(Settings.model_fields)
    assert not any(str(path).startswith("jobs") for path in map(Path, cluster["file_mounts"].values()))


def test_its_mounts_and_set_up_commands_install_the_package(cluster, tmp_path):
    """Run them as a node would, in a home of its own; without dependencies, which test_wheel.py installs."""
    for remote, local in cluster["file_mounts"].items():
        source, target = ROOT / local, Path(remote.replace("~", str(tmp_path), 1))
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*cluster["rsync_exclude"]))
        else:
            shutil.copy(source, target)
    # pip keeps its own configuration and cache, and python3 is the one that runs the tests.
    env = {
        "XDG_CONFIG_HOME": str(Path.home() / ".config"),
        "XDG_CACHE_HOME": str(Path.home() / ".cache"),
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    for command in cluster["setup_commands"]:
        command = command.replace("pip install", "pip install --no-deps")
        subprocess.run(["bash", "-c", command], check=True, env=env, cwd=tmp_path, timeout=200)
    python = tmp_path / "partition_actor" / "venv" / "bin" / "python"
    where = "import importlib.util as u; print(u.find_spec('partition_actor').origin)"
    found = subprocess.check_output([python, "-I", "-c", where], text=True, cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(python.parents[1])
