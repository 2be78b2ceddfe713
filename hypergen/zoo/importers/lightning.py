"""Imports checkpoints of PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.zoo.importers.found import Found, columns_of
from hypergen.zoo.importers.states import read_file, state_in


def find(source: Path, *, prefix: str = "") -> Iterator[Found]:
    """Find every ``.ckpt`` file below a folder.

    The run is the folder that it lies in (without a last ``checkpoints``), the step Lightning's own.
    ``hyper_parameters`` become columns, and the metric that a ``ModelCheckpoint`` watched.

    Args:
        source: The folder.
        prefix: Take only tensors whose names begin so, without it; ``"model."`` where the module keeps a network.
    """
    for file in sorted(source.rglob("*.ckpt")):
        folder = file.parent if file.parent.name != "checkpoints" or file.parent == source else file.parent.parent
        run = folder.relative_to(source).as_posix()

        def read(file: Path = file) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
            content = read_file(file)
            if not isinstance(content, Mapping) or not {"state_dict", "global_step"} <= set(content):
                raise CheckpointError(f"{str(file)!r} is no checkpoint of Lightning: it has no 'state_dict' and step.")
            hyperparameters = content.get("hyper_parameters")
            columns = columns_of(hyperparameters if isinstance(hyperparameters, Mapping) else {}, _watched(content))
            state = state_in(content, file, "state_dict", prefix)
            return state, {**columns, "step": content["global_step"]}

        yield Found(file, run if run != "." else source.resolve().name, None, read)


def _watched(content: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {}
    callbacks = content.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        score = state.get("current_score") if isinstance(state, Mapping) and state.get("monitor") else None
        if isinstance(score, (int, float)) or (isinstance(score, Tensor) and score.numel() == 1):
            metrics[str(state["monitor"])] = float(score)
    return metrics
