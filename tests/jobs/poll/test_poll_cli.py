"""The command line of ``jobs.poll``: what is refused, and that nothing is started then."""

from pathlib import Path

import pytest

from jobs.driver import extras
from jobs.poll import __main__ as program
from jobs.poll.config import PollConfig, load_config

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def started(monkeypatch, tmp_path):
    """The configs of the runs that were started, none of which does anything."""
    started = []

    def run(config, *_):
        started.append(config)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(program, "run", run)
    return started


@pytest.fixture
def refused(capsys, started):
    """Run the program and return the one line that it prints."""

    def refused(*arguments):
        assert program.main(arguments) == 2
        assert started == []
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("jobs.poll: ")
        assert printed.err.count("\n") == 1
        return printed.err

    return refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "gone.yaml"], "gone.yaml: cannot be read: No such file or directory"),
        (["--agents", "0"], "--agents 0: "),
        (["--agents", "many"], "argument --agents: invalid int value: 'many'"),
        (["--cycles", "-1"], "--cycles -1: "),
        (["--cycles", "0", "--kill", "1"], "--cycles 0: expected at least 4 with kill"),
        (["--interval", "1e300"], "--interval 1e+300: "),
        (["--interval", "1e10"], "--interval 10000000000.0: "),
        (["--interval", "nan"], "--interval nan: "),
        (["--kill", "4"], "so that at least one survives"),
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
def test_bad_input_is_one_line_and_status_2(refused, tmp_path, arguments, said):
    assert said in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["gone", "localhost:99999", "localhost:x", "ftp://host/", "http://", "127.0.0.1:"])
def test_a_bad_target_is_named(refused, tmp_path, target):
    (tmp_path / "poll.yaml").write_text(f"targets: ['{target}']\n")
    assert f"poll.yaml:1: targets.0: target '{target}'" in refused("--config", "poll.yaml")


def test_an_out_that_is_a_file_is_refused(refused, tmp_path):
    (tmp_path / "f").write_text("")
    assert "--out f: " in refused("--out", "f")


def test_all_mistakes_are_told_at_once(capsys, started):
    assert program.main(["--agents", "0", "--interval", "-1", "--address", "nowhere"]) == 2
    assert [line.split(":")[1].strip() for line in capsys.readouterr().err.splitlines()] == [
        "--agents 0",
        "--interval -1.0",
        "--address nowhere",
    ]


def test_a_plot_needs_a_package(refused, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda package: None if package == "matplotlib" else package)
    assert "--plot needs matplotlib: pip install" in refused("--plot")


def test_good_input_starts_the_run(started):
    assert program.main(["--agents", "7"]) == 130
    assert started == [PollConfig(agents=7)]


def test_the_shipped_yaml_is_the_defaults():
    shipped = load_config(str(ROOT / "jobs" / "poll.yaml"), {})
    assert shipped.model_dump(exclude={"targets", "sources"}) == PollConfig().model_dump(exclude={"targets", "sources"})
    assert len(shipped.targets) == 2
