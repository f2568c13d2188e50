from matplotlib import image

from jobs.poll.plot import plot
from jobs.poll.report import Kill, Outcome, Tally


def test_a_run_of_two_sources_is_drawn(tmp_path):
    outcome = Outcome(kills=[Kill("a", 2, 0.1)])
    for source in ("s", "t"):
        for cycle in (1, 2, 3):
            outcome.add(Tally(source, cycle, 10, 20, {"a": 6, "b": 4}, ["x"] * (cycle == 2), [], cycle))
    plot(outcome, tmp_path / "plot.png")
    height, width, _ = image.imread(tmp_path / "plot.png").shape
    assert min(height, width) > 400
