"""Imports folders of transformers, timm, PEFT and of the Hugging Face Trainer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.functional.files import read_json
from hypergen.zoo.importers.found import Found, columns_of, unreadable
from hypergen.zoo.importers.states import read_file, read_indexed, state_in

# In the order in which the libraries themselves look for them.
_WEIGHTS = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_CONFIGS = ("adapter_config.json", "config.json")
_STEP = re.compile(r"checkpoint-(\d+)")


def find(source: Path) -> Iterator[Found]:
    """Find every folder with weights below a folder, itself included.

    ``checkpoint-N`` is step N of the run that its parent names; any other folder is a run of its own, at step 0. The
    Trainer's last evaluation, and plain entries of an adapter's configuration, become columns.

    Args:
        source: The folder.
    """
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    for folder in folders:
        name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
        if name is None:
            continue
        try:
            yield _found(source, folder, name)
        except CheckpointError as error:
            yield unreadable(folder / name, error)


def _found(source: Path, folder: Path, name: str) -> Found:
    match = _STEP.fullmatch(folder.name)
    run = (folder.parent if match else folder).relative_to(source if folder != source else source.parent)
    config_name = next((config for config in _CONFIGS if (folder / config).is_file()), None)
    config = read_json(folder / config_name) if config_name else {}
    trained = read_json(folder / "trainer_state.json") if (folder / "trainer_state.json").is_file() else {}
    counted = trained.get("global_step")
    step = counted if type(counted) is int and counted else int(match[1]) if match else 0
    adapter = config if config_name == _CONFIGS[0] else {}
    plain = {key: value for key, value in adapter.items() if isinstance(value, (bool, int, float, str))}
    return Found(
        folder / name,
        run.as_posix() if run.as_posix() != "." else source.resolve().name,
        step,
        partial(_read, folder / name),
        columns_of(plain, _evaluated(trained, step)),
        {config_name.removesuffix(".json"): config} if config_name else {},
    )


def _read(file: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    content = read_indexed(file) if file.name.endswith(".index.json") else read_file(file)
    return state_in(content, file), {}


def _evaluated(trained: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What the Trainer had measured at a step."""
    metrics: dict[str, Any] = {}
    history = trained.get("log_history")
    for row in history if isinstance(history, list) else ():
        if isinstance(row, Mapping) and row.get("step") == step:
            metrics |= {"train_loss": row["loss"]} if "loss" in row else {}
            metrics |= {name: value for name, value in row.items() if name.startswith("eval_")}
    return metrics
