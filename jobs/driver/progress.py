"""A progress bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


class ProgressDisplay:
    """Prints lines, with a progress bar below them on a terminal."""

    def __init__(self, console: Console, amount: ProgressColumn, unit: str) -> None:
        """Create the display; nothing is shown yet.

        Args:
            console: where to print.
            amount: the column that shows how much is done.
            unit: what the amount counts; printed after it.
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
        """Print a line, above the bar if there is one."""
        self._progress.console.print(line, markup=False)

    def start_bar(self, what: str, total: int | None) -> None:
        """Show a new bar in place of the last one; ``total`` is None if it is unknown."""
        self._progress.start()
        self._progress.reset(self._task, total=total, description=what, visible=True)

    def advance(self, done: int) -> None:
        """Show how much of the total is done."""
        self._progress.update(self._task, completed=done)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()
