"""Curves and hyperparameters that training left in log files, joined to checkpoints by run and step.

What is read: CSV files (of Lightning's ``CSVLogger`` with its ``hparams.yaml``, of Ray Tune as ``progress.csv``, or of
one's own, with a column ``run`` or a file or folder for each run), Ray Tune's ``result.json`` and ``params.json``, and
offline folders of Weights & Biases (``offline-run-…``), read without that library.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hypergen.errors import CheckpointError
from hypergen.functional.files import parse_json, read_json
from hypergen.zoo.importers.found import columns_of
from hypergen.zoo.importers.wandb_offline import read_offline_run

# Columns that count steps, in the order in which they are tried; their values are no metrics.
_STEPS = ("step", "epoch", "training_iteration", "_step", "global_step", "iteration", "trainer/global_step")
_RUNS = ("run", "run_id", "run_name", "name", "trial_id")


@dataclass
class RunLog:
    """What was logged of one run.

    Args:
        names: Names that the run goes by.
        rows: Logged values, in order.
        hyperparameters: Hyperparameters by name.
        path: File or folder, for messages.
    """

    names: tuple[str, ...]
    rows: list[dict[str, Any]]
    path: Path
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def read_logs(source: Path) -> list[RunLog]:
    """The logs of every run in a file or below a folder.

    Raises:
        CheckpointError: There are none, or one cannot be read; the message names it.
    """
    if source.is_file():
        found = list(_csv(source, source.parent))
    elif source.is_dir():
        found = [*_all_csv(source), *_ray_tune(source), *_wandb(source)]
    else:
        raise CheckpointError(f"There is no file and no folder {str(source)!r} of logs.")
    if not found:
        raise CheckpointError(
            f"{str(source)!r} holds no logs. Expected CSV files, result.json of Ray Tune, or offline-run-… folders of "
            "Weights & Biases."
        )
    return found


class JoinedLogs:
    """Columns of the index of a checkpoint, from the log of its run at its step.

    A log belongs to a run of the same name, or to one whose name has the log's name as a part between slashes. Which
    column counts the steps is the one that agrees with most checkpoints.

    Args:
        logs: The logs.
        checkpoints: Run and step of each checkpoint; None where the step is not known yet.

    Raises:
        CheckpointError: No log belongs to any run, or two to one.
    """

    def __init__(self, logs: Sequence[RunLog], checkpoints: Sequence[tuple[str, int | None]]) -> None:
        runs = dict.fromkeys(run for run, _ in checkpoints)
        self.logs = {run: log for run in runs if (log := _log_of(run, logs)) is not None}
        if not self.logs:
            raise CheckpointError(
                f"None of {len(logs)} logs, {logs[0].names[0]!r} first, belongs to one of {len(runs)} runs, "
                f"{next(iter(runs), '')!r} first. A log's name (its column 'run', its file or its folder) must be the "
                "run's, or a part of it."
            )
        if missing := [run for run in runs if run not in self.logs]:
            warnings.warn(f"{len(missing)} of {len(runs)} runs have no log, {missing[0]!r} first.", stacklevel=3)
        agreeing = {
            name: sum(
                any(_number(row.get(name)) == step for row in self.logs[run].rows)
                for run, step in checkpoints
                if run in self.logs and step is not None
            )
            for name in _STEPS
        }
        self.counts = max(_STEPS, key=lambda name: agreeing[name])

    def __call__(self, run: str, step: int) -> dict[str, Any]:
        """Metrics that were logged at a step, and the run's hyperparameters."""
        log = self.logs.get(run)
        if log is None:
            return {}
        at_step: dict[str, Any] = {}
        for row in log.rows:  # Lightning writes training and validation metrics of a step into different rows.
            if _number(row.get(self.counts)) == step:
                at_step |= {name: value for name, value in row.items() if _number(value) is not None}
        numbers = {name: _number(value) for name, value in at_step.items()}
        plain = {name: value for name, value in log.hyperparameters.items() if not isinstance(value, (dict, list))}
        return columns_of(plain, numbers)


def _log_of(run: str, logs: Sequence[RunLog]) -> RunLog | None:
    exact = [log for log in logs if run in log.names]
    parts = run.split("/")
    near = exact or [log for log in logs if any(name and name in parts for name in log.names)]
    if len(near) > 1:
        raise CheckpointError(
            f"The logs {str(near[0].path)!r} and {str(near[1].path)!r} both belong to the run {run!r}. Give one of "
            "them by --logs."
        )
    return near[0] if near else None


def _all_csv(source: Path) -> Iterator[RunLog]:
    for file in sorted(source.rglob("*.csv")):
        if not (file.name == "progress.csv" and (file.parent / "result.json").is_file()):
            yield from _csv(file, source)


def _csv(file: Path, source: Path) -> Iterator[RunLog]:
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [dict(row) for row in csv.DictReader(lines)]
    except (OSError, ValueError, csv.Error) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as CSV: {error}.") from error
    by = next((name for name in _RUNS if rows and name in rows[0]), None)
    hyperparameters = _yaml(file.parent / "hparams.yaml") or _plain_json(file.parent / "params.json")
    if by is None:
        folder = file.parent.relative_to(source)
        # lightning_logs/version_3/metrics.csv, runs/a/metrics.csv, or logs/a.csv
        names = [folder.as_posix(), *reversed(folder.parts)] if folder.parts else []
        yield RunLog(tuple(dict.fromkeys([*names, file.stem])), rows, file, hyperparameters)
        return
    of_run: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_run[str(row.pop(by))].append(row)
    for run, own in of_run.items():
        logged = {name for name in own[0] if name in _STEPS or columns_of({}, {name: 0.0})}
        constant = {
            name: _typed(own[0][name])
            for name in own[0]
            if name and name not in logged and all(row[name] == own[0][name] for row in own)
        }
        yield RunLog((run,), own, file, {name: value for name, value in constant.items() if value not in ("", None)})


def _ray_tune(source: Path) -> Iterator[RunLog]:
    for file in sorted(source.rglob("result.json")):
        rows = []
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if line.strip():
                try:
                    rows.append(dict(parse_json(line, f"Line {number} of {str(file)!r}")))
                except (ValueError, TypeError) as error:
                    raise CheckpointError(f"Line {number} of {str(file)!r} is no JSON: {error}.") from error
        config = _plain_json(file.parent / "params.json") or next(iter(rows), {}).get("config", {})
        folder = file.parent.relative_to(source)
        trial = str(next(iter(rows), {}).get("trial_id", ""))
        yield RunLog((folder.as_posix(), folder.name, trial), rows, file.parent, dict(config))


def _wandb(source: Path) -> Iterator[RunLog]:
    for file in sorted({file.resolve() for file in source.rglob("*.wandb")}):  # `latest-run` is a link to one of them
        run = read_offline_run(file)
        yield RunLog((run.name, run.id, file.parent.name), run.history, file.parent, run.config)


def _yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read: {error}.") from error
    return dict(content) if isinstance(content, Mapping) else {}


def _plain_json(file: Path) -> dict[str, Any]:
    return dict(read_json(file)) if file.is_file() else {}


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _typed(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
