"""A progress bar on a terminal, and nothing of it elsewhere; both jobs have one."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


class ProgressDisplay:
    """Lines, and a bar below them."""

    def __init__(self, console: Console, amount: ProgressColumn, unit: str) -> None:
        """Shows nothing yet.

        Args:
            console: where to.
            amount: how much is done, as the bar says it.
            unit: what that is of, after the amount.
        """
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            amount,
            TextColumn(unit),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=None, visible=False)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        self._progress.console.print(line, markup=False)

    def start_bar(self, what: str, total: int | None) -> None:
        """A bar up to the total begins, in place of the last one; None: nobody knows how much comes."""
        self._progress.start()
        self._progress.reset(self._task, total=total, description=what, visible=True)

    def advance(self, done: int) -> None:
        """So much of the total is done."""
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """No bar from here on."""
        self._progress.stop()
