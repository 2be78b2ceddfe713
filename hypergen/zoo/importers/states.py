"""Finds the state dict in what a checkpoint file holds, under the names that its network gives its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hypergen.errors import CheckpointError
from hypergen.functional.checkpoint_files import read_tensor_file, tensor_problem
from hypergen.functional.files import inside, read_json

# What torch.compile, activation checkpointing and fully sharded training put anywhere into a name.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What DistributedDataParallel and moving averages put before every name.
_MODULE = "module."
# No weights: state that modules pickle for themselves, and the number of averaged steps.
_NO_WEIGHTS = re.compile(r"(?:.*\.)?_extra_state|n_averaged")


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
        other = "" if found else _first_other(content)
        raise CheckpointError(
            f"{str(file)!r} should hold one state dict, a mapping of names to tensors; it holds: {names[:500]}. "
            + (other or f"Say which one by its key, such as {next(iter(found))!r}.")
        )
    ((place, state),) = found.items()
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{str(file)!r}: {place!r} is a {type(state).__name__}; expected names and tensors.")
    own = _own_names({name: value for name, value in state.items() if not _is_no_weight(name)}, prefix)
    if own is None:
        raise CheckpointError(
            f"{str(file)!r}: no name begins with {prefix!r}; there is {str(next(iter(state)))[:200]!r}."
        )
    for name, value in own.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{str(file)!r}: {name!r} of {place!r} is a {kind}; expected a tensor.")
        problem = tensor_problem(value)
        if problem:
            raise CheckpointError(f"{str(file)!r}: {name!r} of {place!r} {problem}, and import it again.")
    return own


def read_file(file: Path) -> Any:
    """Whatever a file of tensors holds; see :func:`hypergen.functional.checkpoint_files.read_tensor_file`."""
    return read_tensor_file(file)


def _own_names(state: Mapping[Any, Any], prefix: str) -> dict[str, Any] | None:
    """Tensors under the network's own names, without what wrappers put before them; None where no name is chosen."""
    own = {_WRAPPERS.sub("", str(name)): value for name, value in state.items()}
    if len(own) < len(state):
        return {str(name): value for name, value in state.items()}
    own = _without_module(own)
    prefix = _WRAPPERS.sub("", prefix)
    chosen = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
    return _without_module(chosen) if chosen else None


def _without_module(state: dict[str, Any]) -> dict[str, Any]:
    if state and all(name.startswith(_MODULE) and name != _MODULE for name in state):
        return {name.removeprefix(_MODULE): value for name, value in state.items()}
    return state


def _is_no_weight(name: object) -> bool:
    return _NO_WEIGHTS.fullmatch(str(name)) is not None


def _first_other(content: Any) -> str:
    """What in a mapping with tensors is none."""
    if isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values()):
        for name, value in content.items():
            if not isinstance(value, Tensor) and not _is_no_weight(name):
                return f"{str(name)[:200]!r} is a {type(value).__name__}, not a tensor: save tensors alone."
    return "Save model.state_dict()."


def read_indexed(index: Path) -> dict[str, Tensor]:
    """The tensors of several files that a Hugging Face ``*.index.json`` lists.

    Raises:
        CheckpointError: A file is damaged, or lacks a tensor that it should hold.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{str(index)!r} is no index of shards: it has no 'weight_map' of names to files.")
    source = repr(str(index))
    files = {name: read_file(inside(index.parent, name, source)) for name in dict.fromkeys(places.values())}
    missing = [name for name, file in places.items() if name not in files[file]]
    if missing:
        raise CheckpointError(f"{str(index.parent / places[missing[0]])!r} lacks {missing[0]!r}.")
    return {name: files[file][name] for name, file in places.items()}


def _states(content: Any, place: str = "", depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Mappings of names to tensors alone, and where they are."""
    if not isinstance(content, Mapping):
        return
    weights = {name: value for name, value in content.items() if not _is_no_weight(name)}
    if weights and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        yield place or "the file", content
    elif depth:
        for name, value in content.items():
            yield from _states(value, f"{place}.{name}" if place else str(name), depth - 1)
