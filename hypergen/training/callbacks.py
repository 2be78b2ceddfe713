"""What a training run shows while it runs."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

_SHOWN = {
    "train/loss": "loss",
    "train/accuracy": "acc",
    "train/skipped": "skipped",
    "val/accuracy": "val",
    "test/accuracy": "test",
}
_output = Console()


class TrainingProgress(RichProgressBar):
    """A Rich progress bar over the steps of the whole run: loss, accuracy, and network updates per second.

    Where the output is no terminal, which would show nothing until the end, it prints a line now and then.

    Args:
        refresh_rate: Refreshes per second.
        seconds_between_lines: Time between two lines where the output is no terminal.
        networks_per_step: Networks that one step updates; 0 leaves their rate out.
    """

    def __init__(self, refresh_rate: int = 5, seconds_between_lines: float = 20.0, networks_per_step: int = 0) -> None:
        super().__init__(refresh_rate, leave=True, theme=RichProgressBarTheme(metrics_text_delimiter="  "))
        self.seconds_between_lines = seconds_between_lines
        self.networks_per_step = networks_per_step
        self._started = self._printed = 0.0
        self._first_step = 0

    @property
    def total_train_batches(self) -> int | float:
        """Steps of the run where it is bounded by steps: an endless loader has no length to show."""
        steps = self.trainer.max_steps
        return steps if steps > 0 else super().total_train_batches

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """A short bar: figures need the room."""
        return [
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The figures beside the bar, by short names."""
        logged = trainer.progress_bar_metrics
        shown: dict[str, Any] = {
            short: f"{value:.0f}" if short == "skipped" else f"{value:.3f}"
            for name, short in _SHOWN.items()
            if isinstance(value := logged.get(name), (int, float)) and not (short == "skipped" and value == 0)
        }
        steps = trainer.global_step - self._first_step
        if self.networks_per_step and steps > 0:
            rate = steps * self.networks_per_step / (time.monotonic() - self._started)
            shown["updates/s"] = f"{rate:.0f}"
        return shown

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._started = self._printed = time.monotonic()
        self._first_step = trainer.global_step
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move on by a step; the bar counts the steps of the run, not of an epoch."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)
        now = time.monotonic()
        last = trainer.global_step >= trainer.max_steps > 0
        if self._prints_lines and (last or now - self._printed >= self.seconds_between_lines):
            self._printed = now
            figures = "  ".join(f"{name} {value}" for name, value in self.get_metrics(trainer, pl_module).items())
            print(f"step {trainer.global_step}/{self.total_train_batches}  {figures}", flush=True)

    @property
    def is_enabled(self) -> bool:
        """Whether there is a bar: in the first process, where a terminal can draw it."""
        return super().is_enabled and _output.is_terminal

    @property
    def _prints_lines(self) -> bool:
        return self._enabled and not _output.is_terminal
