"""Imports trial folders of Ray Tune, as the Model Zoos datasets have them.

Schürholt, Taskiran, Knyazev, Giró-i-Nieto and Borth, "Model Zoos: A Dataset of Diverse Populations of Neural Network
Models", 2022, arXiv 2209.14764. A zoo is a folder with a folder per trial (a network); a trial has ``params.json``, a
line of ``result.json`` per epoch, and ``checkpoint_0000NN/checkpoints``, a state dict. ``index_dict.json`` beside the
trials describes the layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.functional.files import parse_json, read_json
from hypergen.zoo.importers.found import Found, columns_of, unreadable
from hypergen.zoo.importers.states import read_file, state_in

_NUMBER = re.compile(r"checkpoint_(\d+)")
_NOT_MEASURED = -999  # What their trainer logs for an epoch that has not been trained.


def find(source: Path, *, file_name: str = "checkpoints") -> Iterator[Found]:
    """Find the checkpoints of every trial below a folder.

    Args:
        source: The folder of a zoo, or of several.
        file_name: File name of the state dict in a checkpoint's folder.
    """
    for results in sorted(source.rglob("result.json")):
        trial = results.parent
        try:
            metrics = _results(results)
            described = _described(trial)
            config = _json(trial / "params.json") or next(iter(metrics.values()), {}).get("config", {})
        except CheckpointError as error:
            yield unreadable(results, error)
            continue
        config = config if isinstance(config, Mapping) else {}
        for folder in sorted(trial.glob("checkpoint_*")):
            match, file = _NUMBER.fullmatch(folder.name), folder / file_name
            if match is None or not file.is_file():
                continue
            step = int(match[1])
            measured = {name: value for name, value in metrics.get(step, {}).items() if value != _NOT_MEASURED}
            columns = columns_of(config, measured)
            seed = config.get("seed")
            columns |= {"init_seed": seed} if isinstance(seed, int) else {}

            def read(file: Path = file) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
                return state_in(read_file(file), file), {}

            yield Found(file, trial.relative_to(source).as_posix(), step, read, columns, described)


def _results(file: Path) -> dict[int, dict[str, Any]]:
    """What was logged at each epoch."""
    results = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} cannot be read as text: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, "the line")
            results[int(row["training_iteration"])] = row
        except (ValueError, KeyError, TypeError, CheckpointError) as error:
            raise CheckpointError(
                f"Line {number} of {str(file)!r} is no result of an epoch: {type(error).__name__}: {error}. A run that "
                "was killed may leave half a line: delete it."
            ) from error
    return results


def _described(trial: Path) -> dict[str, Any]:
    """What ``index_dict.json`` says about the layers."""
    layers = _json(trial.parent / "index_dict.json")
    return {"index_dict": layers} if layers else {}


def _json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
