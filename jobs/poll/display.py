"""The progress and the summary of a run, on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from jobs.driver.progress import ProgressDisplay
from jobs.poll.report import Outcome


class Display(ProgressDisplay):
    """Shows a run: a bar or a line for each cycle, then the summary."""

    def __init__(self, cycles: int, console: Console | None = None) -> None:
        super().__init__(console or Console(highlight=False, soft_wrap=True), MofNCompleteColumn(), "resources")
        self._cycles = cycles

    def begin(self, cycle: int, resources: int) -> None:
        """Start the bar of a cycle with so many resources."""
        self.start_bar(f"cycle {cycle} of {self._cycles}", resources)

    def end(self, cycle: int, resources: int) -> None:
        """End a cycle; print a line where there is no bar."""
        self.advance(resources)
        if self._progress.disable:
            self.say(f"cycle {cycle} of {self._cycles}: {resources} resources")

    def summarise(self, outcome: Outcome, directory: Path) -> None:
        """Print what a run's dataset shows."""
        report = outcome.report
        self._console.print(_shares(outcome))
        self.say(f"resources   {report.resources}\ncycles      {report.cycles}\nsamples     {report.samples}")
        self.say(f"gaps        {_by_cycle(report.gaps, outcome)}")
        self.say(f"duplicates  {_by_cycle(report.duplicates, outcome)}")
        for kill in outcome.kills:
            covered = (
                "the survivors did NOT cover everything again"
                if kill.covered_after is None
                else f"survivors covered everything again after {kill.covered_after * 1000:.0f} ms"
            )
            self.say(f"kill        {kill.agent} in cycle {outcome.kill_cycle}: {covered}")
        for name in outcome.lost:
            self.say(f"lost        {name}, which nobody killed")
        self.say(f"dataset     {directory}")


def _shares(outcome: Outcome) -> Table:
    table = Table(title="share per agent", title_justify="left")
    table.add_column("agent")
    table.add_column("polls", justify="right")
    table.add_column("share", justify="right")
    killed = {kill.agent for kill in outcome.kills}
    if killed:
        table.add_column("")
    polls = outcome.report.polls
    for agent in sorted(polls, key=lambda name: (len(name), name)):
        fate = [f"killed in cycle {outcome.kill_cycle}"] if agent in killed else []
        table.add_row(agent, str(polls[agent]), f"{polls[agent] / sum(polls.values()):.1%}", *fate)
    return table


def _by_cycle(faults: Mapping[int, list[str]], outcome: Outcome) -> str:
    if not faults:
        return "none"
    parts = []
    for cycle, resources in faults.items():
        excused = cycle in outcome.excused
        example = "" if excused else f": {', '.join(resources[:3])}{', …' if len(resources) > 3 else ''}"
        parts.append(f"{len(resources)} in cycle {cycle}{' (around the kill)' if excused else example}")
    return "; ".join(parts)
