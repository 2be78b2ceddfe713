"""Reads the tensors of one checkpoint file, and never runs what else it may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hypergen.errors import CheckpointError

# What DistributedDataParallel and torch.compile put before every name.
_WRAPPERS = ("module.", "_orig_mod.")


def read_file(file: Path) -> Any:
    """Whatever a safetensors file or a file of ``torch.save`` holds: tensors and plain values.

    Raises:
        CheckpointError: It is missing, damaged, or holds anything else.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no file {str(file)!r}.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}") from error
    except Exception as error:  # torch reports damage by errors of many kinds, and unsafe content by another.
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise CheckpointError(
            f"{str(file)!r} is damaged, or holds more than tensors and plain values, which is not read "
            f"({type(error).__name__}: {reason}). If you trust it, load it yourself and save model.state_dict() alone."
        ) from error


def state_in(content: Any, file: Path, key: str = "", prefix: str = "") -> dict[str, Tensor]:
    """The state dict in what a file holds.

    Args:
        content: What :func:`read_file` returned.
        file: For messages.
        key: Where the state dict is in it, ``"a.b"`` for nested ones; empty to find out.
        prefix: Take only the names that begin so, without it.

    Raises:
        CheckpointError: There is none, there are several, or a value is no tensor; the message names it.
    """
    if key:
        for part in key.split("."):
            if not isinstance(content, Mapping) or part not in content:
                there = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
                raise CheckpointError(f"{str(file)!r} has no key {part!r} (of {key!r}). It has: {there[:300]}.")
            content = content[part]
        found = {key: content}
    else:
        found = dict(_states(content))
    if len(found) != 1:
        names = ", ".join(repr(name) for name in found) or "none"
        raise CheckpointError(
            f"{str(file)!r} should hold one state dict, a mapping of names to tensors; it holds: {names}. Say which "
            "one by its key."
        )
    ((place, state),) = found.items()
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{str(file)!r}: {place!r} is a {type(state).__name__}; expected names and tensors.")
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        kind = type(state[wrong[0]]).__name__
        raise CheckpointError(f"{str(file)!r}: {wrong[0]!r} of {place!r} is a {kind}; expected a tensor.")
    own = dict(state)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in own):
            own = {name.removeprefix(wrapper): value for name, value in own.items()}
    chosen = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    if not chosen:
        raise CheckpointError(f"{str(file)!r}: no name begins with {prefix!r}; there is {next(iter(own))!r}.")
    return chosen


def read_indexed(index: Path) -> dict[str, Tensor]:
    """The tensors of several files that a Hugging Face ``*.index.json`` lists.

    Raises:
        CheckpointError: A file is damaged, or lacks a tensor that it should hold.
    """
    try:
        places: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{str(index)!r} is no index of shards: {type(error).__name__}: {error}") from error
    files = {name: read_file(index.parent / name) for name in dict.fromkeys(places.values())}
    missing = [name for name, file in places.items() if name not in files[file]]
    if missing:
        raise CheckpointError(f"{str(index.parent / places[missing[0]])!r} lacks {missing[0]!r}.")
    return {name: files[file][name] for name, file in places.items()}


def _states(content: Any, place: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Mappings of names to tensors alone, and where they are."""
    if not isinstance(content, Mapping):
        return
    if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield place or "the file", content
    elif depth:
        for name, value in content.items():
            yield from _states(value, f"{place}.{name}" if place else str(name), depth - 1)
