"""The progress, the live view and the summary of a run, on standard output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from jobs.poll.crew import Member
from jobs.poll.report import Outcome, Tally


class Display:
    """Shows a run: a bar or a line for each cycle of each source, with ``follow`` who polls what, then the summary."""

    def __init__(self, cycles: int, follow: bool = False, console: Console | None = None) -> None:
        """Create the display; nothing is shown yet."""
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._cycles = f" of {cycles}" if cycles else ""
        self._follow = follow
        what, unit = TextColumn("{task.description}"), TextColumn("resources")
        self._progress = Progress(what, BarColumn(), MofNCompleteColumn(), unit, TimeElapsedColumn())
        self._bars: dict[str, TaskID] = {}
        self._members: dict[str, Member] = {}
        self._done: dict[str, Mapping[str, int]] = {}  # source -> agent -> polled in this cycle
        self._polls: Counter[str] = Counter()
        self._last: dict[str, Tally] = {}
        self._live = Live(get_renderable=self._render, console=self._console, transient=True)

    def say(self, line: str) -> None:
        """Print a line, above the bars if there are any. A terminal that is gone does not matter to the run."""
        with suppress(OSError):
            self._console.print(line, markup=False)

    def begin(self, source: str, cycle: int, resources: int, members: Collection[Member]) -> None:
        """Start the bar of a source's cycle, which these agents poll."""
        self._members |= {member.name: member for member in members}
        if source not in self._bars:
            self._bars[source] = self._progress.add_task("")
        self._progress.reset(self._bars[source], total=resources, description=self._named(source, cycle))
        if self._console.is_terminal:
            self._live.start()

    def advance(self, source: str, done: Mapping[str, int]) -> None:
        """Show how many of its resources each agent has polled."""
        self._done[source] = done
        self._progress.update(self._bars[source], completed=sum(done.values()))

    def end(self, tally: Tally) -> None:
        """End a cycle; print a line where there is no bar."""
        self._last[tally.source] = tally
        self._polls.update(tally.polls)
        if not self._console.is_terminal:
            self.say(f"{self._named(tally.source, tally.cycle)}: {tally.resources} resources")

    def close(self) -> None:
        """Remove the bars."""
        with suppress(OSError):
            self._live.stop()

    def _named(self, source: str, cycle: int) -> str:
        return f"{'' if source == 'all' else f'{source}, '}cycle {cycle}{self._cycles}"

    def _render(self) -> RenderableType:
        if not self._follow:
            return self._progress
        sources = _table("", "source", "cycle", "resources", "samples", "gaps", "duplicates", "moved")
        for name, tally in self._last.items():
            faults = (str(len(each)) for each in (tally.gaps, tally.duplicates))
            sources.add_row(name, str(tally.cycle), str(tally.resources), str(tally.samples), *faults, str(tally.moved))
        agents = _table("", "agent", "node", "pid", "in this cycle", "polls", "share")
        for name, member in self._members.items():
            now = sum(done.get(name, 0) for done in self._done.values())
            numbers = (str(member.view.pid), str(now), str(self._polls[name]), _share(self._polls, name))
            agents.add_row(name, member.view.node, *numbers)
        return Group(self._progress, sources, agents)

    def summarise(self, outcome: Outcome, directory: Path) -> None:
        """Print what a run's cycles show."""
        killed = {kill.agent: f"killed in cycle {kill.cycle}" for kill in outcome.kills}
        table = _table("share per agent", "agent", "polls", "share", *([""] if killed else []))
        for agent in sorted(outcome.polls, key=lambda name: (len(name), name)):
            fate = [killed.get(agent, "")] if killed else []
            table.add_row(agent, str(outcome.polls[agent]), _share(outcome.polls, agent), *fate)
        with suppress(OSError):
            self._console.print(table)
        self.say(f"resources   {outcome.resources.total()}, at most in a cycle")
        self.say(f"cycles      {outcome.cycles.total()}\nsamples     {outcome.samples}")
        self.say(f"gaps        {_faults(outcome, 'gaps', outcome.gaps)}")
        self.say(f"duplicates  {_faults(outcome, 'duplicates', outcome.duplicates)}")
        for kill in outcome.kills:
            covered = (
                "the survivors did NOT cover everything again"
                if kill.covered_after is None
                else f"survivors covered everything again after {kill.covered_after * 1000:.0f} ms"
            )
            self.say(f"kill        {kill.agent} in cycle {kill.cycle}: {covered}")
        for name in outcome.lost:
            self.say(f"lost        {name}, which nobody killed")
        if outcome.missing:
            self.say(f"missing     {outcome.missing} rows that were written: somebody changed the dataset")
        if outcome.ended_by:
            self.say(f"ended       by {outcome.ended_by}, before all cycles were over")
        self.say(f"dataset     {directory}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 or column in ("node", "") else "right")
    return table


def _share(polls: Counter[str], agent: str) -> str:
    return f"{polls[agent] / max(polls.total(), 1):.1%}"


def _faults(outcome: Outcome, kind: str, number: int) -> str:
    parts = []
    for tally in outcome.faults:
        if resources := getattr(tally, kind):
            where = f"{len(resources)} in cycle {tally.cycle}{'' if tally.source == 'all' else f' of {tally.source}'}"
            excused = (tally.source, tally.cycle) in outcome.excused
            example = f": {', '.join(resources[:3])}{', …' if len(resources) > 3 else ''}"
            parts.append(where + (" (around the kill)" if excused else example))
            number -= len(resources)
    return "; ".join([*([f"{number} before"] if number else []), *parts]) or "none"
