"""How far a build is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from hypergen.functional.stacked import Snapshot

_SECONDS_BETWEEN_LINES = 20.0


class Progress:
    """Counts updates of networks.

    Args:
        total: Updates of the whole build.
        done: Those that were made before.
        shown: Whether anything is shown.
    """

    def __init__(self, total: int, done: int = 0, shown: bool = True) -> None:
        self.total, self.done, self.before = total, done, done
        console = Console()
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self.lines = shown and not console.is_terminal
        self.task = self.bar.add_task("Training", total=total, completed=done, figures="")
        self.begun = self.printed = time.monotonic()
        self.figures = ""

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()

    def advance(self, updates: int) -> None:
        """Count updates."""
        self.done += updates
        self.bar.update(self.task, completed=self.done)
        now = time.monotonic()
        if self.lines and (now - self.printed >= _SECONDS_BETWEEN_LINES or self.done >= self.total):
            self.printed = now
            print(f"{self.done / self.total:.0%}  {self._rate(now)}  {self.figures}", flush=True)

    def measured(self, name: str, snapshot: Snapshot) -> None:
        """Show what a group's networks are like."""
        if "validation" not in snapshot.metrics or not snapshot.networks:
            return
        accuracy = snapshot.metrics["validation"]["accuracy"].mean()
        self.figures = f"{name}: step {snapshot.step}, validation accuracy {accuracy:.3f}"
        self.bar.update(self.task, figures=f"{self._rate(time.monotonic())}  {self.figures}")

    def _rate(self, now: float) -> str:
        return f"{(self.done - self.before) / max(now - self.begun, 1e-9):,.0f} updates/s"
