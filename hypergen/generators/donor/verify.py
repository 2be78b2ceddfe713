"""How far a network that starts from a donor is from the donor's function."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hypergen.graph.inputs import example_arguments


def output_difference(
    target: nn.Module, donor: nn.Module, mapped: Mapping[str, Tensor], target_inputs: Any, donor_inputs: Any
) -> float:
    """The largest difference between the outputs of both networks, relative to the largest output.

    Both run in evaluation mode, in float64, on random values in the place of floating-point inputs.
    """
    outputs = []
    for model, inputs, changed in ((donor, donor_inputs, {}), (target, target_inputs, mapped)):
        generator = torch.Generator().manual_seed(0)
        arguments, keywords = (_random(part, generator) for part in example_arguments(model, inputs))
        model = copy.deepcopy(model).eval().double()
        with torch.no_grad():
            made = functional_call(
                model, {name: value for name, value in changed.items()}, arguments, keywords, strict=False
            )
        outputs.append([tensor for tensor in _tensors(made) if tensor.is_floating_point()])
    differences = [
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))
        for a, b in zip(outputs[1], outputs[0], strict=False)
        if a.shape == b.shape
    ]
    return max(differences, default=float("nan"))


def _random(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=torch.float64)
        return value if not value.is_meta else torch.zeros(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {key: _random(item, generator) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_random(item, generator) for item in value)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
