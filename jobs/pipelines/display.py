"""The progress and the summary of a run, on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn
from rich.table import Table

from jobs.driver.progress import ProgressDisplay
from jobs.pipelines.report import Comparison, Cost, Line


@dataclass
class Outcome:
    """The result of a run."""

    lines: Sequence[Line]
    cost: Cost
    corrupt: int
    ended: bool  # all inputs are published to the end
    faults: list[str] = field(default_factory=list)  # kills and stops
    sizes: dict[str, int] = field(default_factory=dict)  # pipeline -> samples in a batch
    redirected: float = 0.0  # fraction of the samples that went to another process
    single: Cost | None = None  # of the same job with one agent
    comparison: Comparison | None = None

    @property
    def good(self) -> bool:
        """Whether everything is published and, if compared, equals what one agent publishes."""
        return self.ended and (self.comparison is None or self.comparison.equal)


class Display(ProgressDisplay):
    """Shows a run: a bar of acknowledged bytes, then the summary."""

    def __init__(self, console: Console | None = None) -> None:
        if console is None:
            console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
        super().__init__(console, DownloadColumn(), "acknowledged")

    def summarise(self, outcome: Outcome, directory: Path) -> None:
        """Print the summary of a run."""
        self._console.print(_table(outcome))
        for fault in outcome.faults:
            self.say(f"fault       {fault}")
        self.say(f"samples     {_cost(outcome.cost)}")
        if outcome.redirected:
            self.say(f"redirected  {outcome.redirected:.0%} of them, to the owner in another process")
        if outcome.single is not None:
            self.say(f"one agent   {_cost(outcome.single)}")
            if outcome.single.samples and outcome.cost.samples:
                ratio = outcome.cost.each() / outcome.single.each()
                self.say(f"overhead    {ratio:.2f} times the CPU a sample of one agent")
        if outcome.corrupt:
            self.say(f"corrupt     {outcome.corrupt} lines, set aside in {directory / 'corrupt.jsonl'}")
        if outcome.comparison is not None:
            self._compared(outcome.comparison)
        if not outcome.ended:
            self.say("ended       before the inputs: the same command goes on where it was")
        self.say(f"published   {directory / 'published'}")

    def _compared(self, comparison: Comparison) -> None:
        if comparison.equal:
            repeats = sum(comparison.repeats.values())
            self.say(f"compared    equal: the same {comparison.same} samples as one agent publishes, {repeats} repeats")
            return
        for what in ("missing", "surplus", "different"):
            if keys := getattr(comparison, what):
                self.say(f"{what:11} {len(keys)}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}")
        self.say(f"compared    NOT equal: {comparison.same} samples are as one agent publishes them")


def _table(outcome: Outcome) -> Table:
    table = Table(title="pipelines", title_justify="left")
    table.add_column("pipeline", no_wrap=True)
    table.add_column("owners, in order")
    for column in ("samples", "repeats", "batch", "lag: mean", "longest"):
        table.add_column(column, justify="right")
    for line in outcome.lines:
        table.add_row(
            line.pipeline,
            line.owners,
            str(line.samples),
            str(line.repeats),
            str(outcome.sizes.get(line.pipeline, "")),
            f"{line.mean_lag:.2f} s",
            f"{line.longest_lag:.2f} s",
        )
    return table


def _cost(cost: Cost) -> str:
    return (
        f"{cost.samples} in {cost.seconds:.1f} s: {cost.samples / max(cost.seconds, 1e-9):,.0f} a second, "
        f"{cost.each() * 1e6:.1f} µs of CPU each"
    )
