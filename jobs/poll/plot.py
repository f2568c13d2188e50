"""A picture of a run: each agent's share, the gaps and the moved keys, cycle by cycle."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from jobs.poll.report import Outcome, Tally


def plot(outcome: Outcome, path: Path) -> None:
    """Draw the cycles of a run, or the last 2000 of it, into a PNG file; a column of pictures for each source."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    sources: defaultdict[str, list[Tally]] = defaultdict(list)
    for tally in outcome.recent:
        sources[tally.source].append(tally)
    agents = sorted(outcome.polls, key=lambda name: (len(name), name))
    size = (max(8, 5 * len(sources)), 8)
    figure, rows = plt.subplots(3, len(sources), figsize=size, sharex="col", squeeze=False, height_ratios=(3, 1, 1))
    for (share, faults, moved), (source, tallies) in zip(rows.T, sources.items(), strict=True):
        cycles = [tally.cycle for tally in tallies]
        below = [0.0] * len(tallies)
        for n, agent in enumerate(agents):
            shares = [100 * tally.polls.get(agent, 0) / max(sum(tally.polls.values()), 1) for tally in tallies]
            share.bar(cycles, shares, bottom=below, width=1.0, label=agent, color=plt.get_cmap("tab20")(n % 20))
            below = [low + each for low, each in zip(below, shares, strict=True)]
        faults.bar(cycles, [len(tally.gaps) for tally in tallies], color="tab:red", label="gaps")
        duplicates = [len(tally.duplicates) for tally in tallies]
        faults.bar(
            cycles, duplicates, bottom=[len(tally.gaps) for tally in tallies], color="tab:orange", label="duplicates"
        )
        moved.bar(cycles, [tally.moved for tally in tallies], color="tab:blue")
        share.set(title=source, ylabel="% of the polls", ylim=(0, 100))
        faults.set(ylabel="resources")
        faults.legend()
        moved.set(xlabel="cycle", ylabel="moved keys")
        for axes in (faults, moved):
            axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        moved.xaxis.set_major_locator(MaxNLocator(integer=True))
    for kill in outcome.kills:  # in a cycle of the first source
        for axes in rows[:, 0]:
            axes.axvline(kill.cycle, color="black", linestyle=":")
    rows[0, -1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
