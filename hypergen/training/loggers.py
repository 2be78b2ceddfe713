"""Where the figures of training runs are logged."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter


class ResumableCSVLogger(CSVLogger):
    """Lightning's ``CSVLogger``, which deletes the ``metrics.csv`` of a folder, but for runs that go on.

    Attributes:
        first_step: The step that a resumed run goes on from, whose earlier rows stay; None for a new run.
    """

    first_step: int | None = None
    _kept = False

    @property
    def experiment(self) -> Any:
        """The writer, with the rows of before the resume in its file."""
        file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        aside = file.with_name(f".{file.name}.kept")
        if self.first_step is None or self._kept or int(os.environ.get("LOCAL_RANK", 0)) > 0:
            return super().experiment
        self._kept = True
        # Aside, where Lightning leaves it alone; also found there if a kill comes in between.
        with suppress(FileNotFoundError):
            os.replace(file, aside)
        made = super().experiment
        if aside.is_file():
            with open(aside, newline="", encoding="utf-8") as stream:
                reader = csv.DictReader(stream)
                rows = [row for row in reader if _step_of(row) < self.first_step]
                names = list(reader.fieldnames or [])
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, names)
                writer.writeheader()
                writer.writerows(rows)
            made.metrics_keys = names
            aside.unlink()
        return made


def _step_of(row: dict[str, str]) -> float:
    try:
        return float(row.get("step") or 0)
    except ValueError:
        return 0.0
