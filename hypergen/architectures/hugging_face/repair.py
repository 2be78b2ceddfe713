"""Repairs configurations of Hugging Face models whose layers are given other widths than they were built for.

Which of a configuration's numbers have to be equal, or products of others, only the model's code says. It says so when
it runs: the first layer that is given a width which it was not built for names both numbers, and what the
configuration calls the one is set to the other, until everything fits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hypergen.graph import trace

_MOST_REPAIRS = 8
# Of the values that equal a width, a narrow one may be what many things are.
_MOST_TRIED = 30
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)

Path = tuple[Any, ...]


@dataclass
class Attempt:
    """What came of building a model from a configuration and running it.

    Attributes:
        model: On the meta device; None where it could not be built.
        failure: Why it could not be built or run; None where it ran.
        misfits: The layers that were given another width than they were built for: name, built for, given.
    """

    model: nn.Module | None = None
    failure: Exception | None = None
    misfits: list[tuple[str, int, int]] = field(default_factory=list)


def attempt(cls: Any, config: Any) -> Attempt:
    """Build a model on the meta device, and run it there on what it tells that it takes.

    Args:
        cls: The model's class.
        config: A ``transformers.PretrainedConfig``.
    """
    tried = Attempt()
    try:
        with torch.device("meta"):
            tried.model = cls(config)
        hooks = [module.register_forward_pre_hook(_watch(name, tried.misfits)) for name, module in _layers(tried.model)]
        try:
            with torch.device("cpu"):  # as whoever traces the model later on, wherever it is built
                trace(tried.model)
        finally:
            for hook in hooks:
                hook.remove()
    except Exception as error:
        tried.failure = error
    if tried.misfits and tried.failure is None:  # what shapes alone do not refuse
        layer, built_for, given = tried.misfits[0]
        tried.failure = ValueError(f"{layer!r} was built for a width of {built_for} and is given {given}")
    return tried


def repaired(cls: Any, config: Any, tried: Attempt) -> Attempt:
    """A model that runs, from a configuration of which some widths are set to what the layers are given.

    Args:
        cls: The model's class.
        config: The configuration, which stays as it is.
        tried: What came of it.

    Returns:
        What came of the last configuration: one that runs, or the best that was found.
    """
    values = config.to_dict()
    for _ in range(_MOST_REPAIRS):
        if tried.failure is None or not tried.misfits:
            break
        layer, built_for, given = tried.misfits[0]
        for path, number in list(_changes(values, built_for, given))[:_MOST_TRIED]:
            changed = _with_value(values, path, number)
            try:
                other = attempt(cls, type(config).from_dict(copy.deepcopy(changed)))
            except Exception:  # a configuration says in its own words that sizes do not fit
                continue
            if other.failure is None or (other.model and layer not in [name for name, *_ in other.misfits]):
                values, tried = changed, other
                break
        else:
            break
    return tried


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    kinds = (nn.Linear, nn.LayerNorm, *_CONVOLUTIONS)
    return (
        (name, module)
        for name, module in model.named_modules()
        if any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)
    )


def _watch(name: str, misfits: list[tuple[str, int, int]]) -> Any:
    def look(layer: Any, arguments: tuple[Any, ...]) -> None:
        if not arguments or not isinstance(arguments[0], torch.Tensor) or not arguments[0].dim():
            return
        shape = arguments[0].shape
        if isinstance(layer, nn.Linear):
            built_for, given = layer.in_features, shape[-1]
        elif isinstance(layer, nn.LayerNorm):
            built_for, given = layer.normalized_shape[-1], shape[-1]
        else:
            axis = -1 - len(layer.kernel_size)
            if len(shape) < -axis:
                return
            built_for, given = layer.in_channels, shape[axis]
        if built_for != given:
            misfits.append((name, built_for, given))

    return look


def _changes(values: Any, built_for: int, given: int) -> Iterator[tuple[Path, int]]:
    """What to set to which number so that a layer may be built for what it is given."""
    places = dict(_numbers(values))
    yield from ((path, given) for path, number in places.items() if number == built_for)
    # The width may be a sum, one part of which should be what another module puts out.
    for path, number in places.items():
        other = number + given - built_for
        if 1 < number < built_for and number != other and other in places.values():
            yield path, other


def _numbers(value: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """The whole numbers that a configuration tells, and where."""
    if type(value) is int:
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(item, (*path, key))


def _with_value(values: Any, path: Path, number: int) -> Any:
    """A copy of a configuration's values with one of them set."""
    if not path:
        return number
    changed = dict(values) if isinstance(values, dict) else list(values)
    changed[path[0]] = _with_value(changed[path[0]], path[1:], number)
    return changed
