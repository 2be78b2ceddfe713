"""Imports folders of transformers, timm, PEFT and of the Hugging Face Trainer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.zoo.importers.found import Found, columns_of
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

    Raises:
        CheckpointError: A JSON file is damaged; the message names it.
    """
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    for folder in folders:
        name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
        if name is None:
            continue
        match = _STEP.fullmatch(folder.name)
        run = (folder.parent if match else folder).relative_to(source if folder != source else source.parent)
        config_name = next((config for config in _CONFIGS if (folder / config).is_file()), None)
        config = _json(folder / config_name) if config_name else {}
        trained = _json(folder / "trainer_state.json") if (folder / "trainer_state.json").is_file() else {}
        step = int(trained.get("global_step") or (match[1] if match else 0))
        adapter = config if config_name == _CONFIGS[0] else {}
        plain = {key: value for key, value in adapter.items() if isinstance(value, (bool, int, float, str))}
        yield Found(
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
    for row in trained.get("log_history", ()):
        if row.get("step") == step:
            metrics |= {"train_loss": row["loss"]} if "loss" in row else {}
            metrics |= {name: value for name, value in row.items() if name.startswith("eval_")}
    return metrics


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} is not readable JSON: {error}.") from error
