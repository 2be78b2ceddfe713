"""One table over the jobs of a sweep, in its folder as ``sweep.csv`` and printed."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

_SHOWN = 4  # Rows of the results beside the optimised metric.


class SweepTable(Callback):
    """Collects what the jobs of ``python train.py -m …`` returned and wrote, and tabulates it when all are done."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []

    def on_job_end(self, config: DictConfig, job_return: Any, **kwargs: Any) -> None:
        """Note a job: its number, its options, what it returned, and the rows of its results."""
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        folder = Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)
        value = job_return._return_value
        job: dict[str, Any] = {"job": config.hydra.job.num}
        job |= dict(str(option).partition("=")[::2] for option in job_return.overrides or ())
        job["status"] = job_return.status.name.lower()
        name = OmegaConf.select(config, "optimized_metric")
        if name and isinstance(value, float):
            job[str(name)] = value
        file = folder / "results.json"
        if file.is_file():
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
            job |= {row["figure"]: row["value"] for row in rows}
        self.jobs.append(job)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write and print the table."""
        if not self.jobs:
            return
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        columns = list(dict.fromkeys(column for job in self.jobs for column in job))
        path = folder / "sweep.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.jobs)
        options = columns[: columns.index("status")]
        # Options that are the same in all jobs tell nothing.
        told = [c for c in options if c == "job" or len({job.get(c) for job in self.jobs}) > 1]
        rest = columns[columns.index("status") : columns.index("status") + 2 + _SHOWN]
        table = Table(title=f"{len(self.jobs)} jobs")
        for column in [*told, *rest]:
            table.add_column(column, overflow="fold")
        for job in self.jobs:
            table.add_row(*(_cell(job.get(column)) for column in [*told, *rest]))
        console = Console()
        console.print(table)
        console.print(f"All columns are in {path}", soft_wrap=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
