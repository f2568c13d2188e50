import asyncio
import io

import pytest
import town
from rich.console import Console

from jobs.pipelines.checkpoints import Done
from jobs.pipelines.definitions import FilePublisher
from jobs.pipelines.display import Display, Outcome
from jobs.pipelines.publishers import make_publisher
from jobs.pipelines.report import Comparison, Cost, Line, compare, read_lines


@pytest.fixture
def job(tmp_path, line):
    town.write_inputs(tmp_path / "in", line, moments=12)
    return town.make_job(tmp_path, "out")


def test_a_line_has_the_owners_in_their_order_and_the_mean_over_all(job):
    checkpoints = job.checkpoints("cpu:rates")
    for token, owner in ((3, "agent-1"), (4, "agent-1"), (7, "agent-2")):
        claim = checkpoints.claim("cpu:rates", owner, token)
        checkpoints.commit(claim, "in", token, Done(10, token, float(token)))
    for shard, owner in (("all:rates#0", "agent-3"), ("all:rates#1", "agent-10")):
        job.checkpoints("all:rates").claim(shard, owner, 3)
    lines = {line.pipeline: line for line in read_lines(job)}
    assert lines["cpu:rates"] == Line("cpu:rates", "1 > 2", 30, 14, 14 / 3, 7.0)
    assert lines["all:rates"].owners == "#0: 3, #1: 10"
    assert lines["cpu:archive"] == Line("cpu:archive", "", 0, 0, 0.0, 0.0)


def publish(directory, path, *samples, name="o"):
    publisher = make_publisher(FilePublisher("json"), directory, path, name)
    asyncio.run(publisher.publish(samples))
    publisher.close()


def test_the_same_samples_are_equal_whatever_their_order_and_however_often(tmp_path, sample):
    publish(tmp_path / "a", "p", sample(1, 1), sample(2, 2))
    publish(tmp_path / "a", "p", sample(2, 2), sample(1, 1), sample(2, 2), name="other")
    publish(tmp_path / "b", "p", sample(2, 2), sample(1, 1))
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison.equal
    assert (comparison.same, dict(comparison.repeats)) == (2, {"p": 3})


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ([], "missing"),
        ([(1, 1, "p"), (2, 2, "p"), (3, 3, "p")], "surplus"),
        ([(1, 1, "p"), (2.0000000000000004, 2, "p")], "different"),
        ([(1, 1, "p"), (2, 2, "q")], "surplus"),
        ([(1, 1, "p"), (2, 2, "p"), (5, 2, "p")], "surplus"),
    ],
)
def test_whatever_differs_is_not_equal(tmp_path, sample, changed, field):
    publish(tmp_path / "b", "p", sample(1, 1), sample(2, 2))
    for volume, at, path in changed:
        publish(tmp_path / "a", path, sample(volume, at))
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert not comparison.equal
    assert getattr(comparison, field)


@pytest.fixture
def shown(tmp_path):
    def shown(**fields):
        defaults = {"lines": [Line("a:b", "1 > 3", 1000, 12, 0.25, 3.5)], "cost": Cost(1000, 2.0, 0.02)}
        outcome = Outcome(**{**defaults, "corrupt": 0, "ended": True, **fields})
        file = io.StringIO()
        Display(Console(file=file, width=120)).summarise(outcome, tmp_path)
        return outcome, file.getvalue().splitlines()

    return shown


def test_the_summary_of_a_good_run(shown, tmp_path):
    outcome, lines = shown(
        faults=["agent-1 got SIGKILL"],
        sizes={"a:b": 700},
        redirected=0.75,
        single=Cost(1000, 1.0, 0.01),
        comparison=Comparison(900, [], [], [], {"a:b": 4}),
        corrupt=2,
    )
    assert outcome.good
    (row,) = [line for line in lines if "a:b" in line]
    assert row.replace("│", " ").split() == ["a:b", "1", ">", "3", "1000", "12", "700", "0.25", "s", "3.50", "s"]
    assert lines[-8:] == [
        "fault       agent-1 got SIGKILL",
        "samples     1000 in 2.0 s: 500 a second, 20.0 µs of CPU each",
        "redirected  75% of them, to the owner in another process",
        "one agent   1000 in 1.0 s: 1,000 a second, 10.0 µs of CPU each",
        "overhead    2.00 times the CPU a sample of one agent",
        f"corrupt     2 lines, set aside in {tmp_path / 'corrupt.jsonl'}",
        "compared    equal: the same 900 samples as one agent publishes, 4 repeats",
        f"published   {tmp_path / 'published'}",
    ]


def test_what_is_not_equal_is_shown_and_not_good(shown):
    outcome, lines = shown(comparison=Comparison(7, ["a:b 1", "a:b 2", "a:b 3", "a:b 4"], [], ["a:b 5"], {}))
    assert not outcome.good
    assert "missing     4: a:b 1, a:b 2, a:b 3, …" in lines
    assert "different   1: a:b 5" in lines
    assert "compared    NOT equal: 7 samples are as one agent publishes them" in lines


def test_a_run_that_was_ended_early_is_not_good(shown):
    outcome, lines = shown(ended=False)
    assert not outcome.good
    assert "ended       before the inputs: the same command goes on where it was" in lines
