import sys

import poll
import pytest
from polling.joining import resolve


@pytest.fixture(autouse=True)
def nothing_may_start(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "polling.fleet", None)  # importing it fails


def refused(capsys, *arguments):
    assert poll.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("poll.py: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "gone.yaml"], "--config gone.yaml: No such file or directory"),
        (["--agents", "0"], "--agents 0: "),
        (["--agents", "many"], "argument --agents: invalid int value: 'many'"),
        (["--cycles", "0"], "--cycles 0: "),
        (["--interval", "nan"], "--interval nan: "),
        (["--kill", "4"], "at least one agent must survive"),
        (["--kill", "-1"], "--kill -1: "),
        (["--name", ""], "--name : "),
        (["--agent", "3"], "unrecognized arguments"),
        (["poll.yaml"], "unrecognized arguments"),
        (["--address", "ray://host:10001"], "use ray job submit"),
        (["--address", "http://127.0.0.1:8265"], "expected auto, local or host:port"),
        (["--address", "nowhere"], "--address nowhere: expected auto, local or host:port"),
        (["--address", "host:port"], "--address host:port: expected"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, tmp_path, arguments, said):
    assert said in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["gone", "localhost:99999", "localhost:x", "ftp://host/", "http://", "127.0.0.1:"])
def test_a_bad_target_is_named(capsys, tmp_path, target):
    (tmp_path / "poll.yaml").write_text(f"targets: ['{target}']\n")
    assert f"poll.yaml: targets: target '{target}'" in refused(capsys, "--config", "poll.yaml")


def test_an_out_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "f").write_text("")
    assert "--out f: " in refused(capsys, "--out", "f")


@pytest.mark.parametrize(
    ("given", "environment", "joined"),
    [
        (None, None, "local"),
        (None, "", "local"),
        (None, "1.2.3.4:6379", "1.2.3.4:6379"),
        ("auto", None, "auto"),
        ("auto", "1.2.3.4:6379", "1.2.3.4:6379"),
        ("local", "1.2.3.4:6379", "local"),
        ("5.6.7.8:6379", "1.2.3.4:6379", "5.6.7.8:6379"),
    ],
)
def test_which_ray_is_joined(monkeypatch, given, environment, joined):
    if environment is not None:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    assert resolve(given, default="local") == joined


def test_good_input_reaches_the_run():
    with pytest.raises(ImportError, match=r"polling\.fleet"):
        poll.main([])


def test_the_shipped_yaml_is_the_defaults():
    from pathlib import Path

    from polling.config import PollConfig, load_config

    shipped = load_config(str(Path(poll.__file__).with_name("poll.yaml")), {})
    assert shipped.model_dump(exclude={"targets"}) == PollConfig().model_dump(exclude={"targets"})
    assert len(shipped.targets) == 2
