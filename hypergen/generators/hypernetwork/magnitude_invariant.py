"""The magnitude invariant parametrisation around a hypernetwork of one's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hypergen.errors import GeneratorError


class MagnitudeInvariant(nn.Module):
    """Encodes the condition with a constant length, and adds what the module gives to independent values.

    Ortiz, Guttag and Dalca, *Magnitude Invariant Parametrizations Improve Hypernetwork Learning*, 2023
    (arXiv:2304.07645): ``θ(γ) = θ₀ + s · h([cos(πγ/2), sin(πγ/2)])``, with ``s`` a share of the deviation of ``θ₀``.

    Args:
        module: Hypernetwork; its first linear layer takes as many values as there are in the encoding.
        initial: Values θ₀: a tensor, or tensors by name, as the module returns them, without the batch.
        low: Least value of the condition.
        high: Greatest value of the condition.
        scale: Share of the deviation.
    """

    def __init__(
        self, module: nn.Module, initial: Tensor | Mapping[str, Tensor], low: float, high: float, scale: float
    ) -> None:
        super().__init__()
        self.module, self.low, self.high = module, low, high
        self.named = not isinstance(initial, Tensor)
        values = initial if isinstance(initial, Mapping) else {"": initial}
        self._names = list(values)
        self.initial = nn.ParameterList(nn.Parameter(value.detach().clone()) for value in values.values())
        # As for HyperNetwork: zero biases and constant factors of norms have no deviation.
        self.scales = [scale * (_deviation(value) or 0.1) for value in self.initial]

    def forward(self, condition: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Parameters for a condition, ``[…, size]``."""
        angle = (condition - self.low) / (self.high - self.low) * (math.pi / 2)
        output = self.module(torch.cat((angle.cos(), angle.sin()), -1), *args, **kwargs)
        if not self.named:
            return self.initial[0] + self.scales[0] * output
        return {
            name: own + scale * output[name]
            for name, own, scale in zip(self._names, self.initial, self.scales, strict=True)
        }


def magnitude_invariant(
    module: nn.Module,
    initial: Tensor | Mapping[str, Tensor] | nn.Module,
    *,
    low: float = 0.0,
    high: float = 1.0,
    scale: float = 0.1,
) -> MagnitudeInvariant:
    """Give a hypernetwork that exists the magnitude invariant parametrisation.

    Args:
        module: Hypernetwork that turns conditions ``[…, size]`` into a tensor or a dictionary of tensors. Its first
            linear layer is replaced by one for twice as many values, in a copy.
        initial: Independent values that its output is added to, in the form of its output; or the network that it
            generates parameters for.
        low: Least value of the condition.
        high: Greatest value of the condition.
        scale: Share of their deviation that the output is multiplied by.

    Returns:
        A module that is called as the hypernetwork was.

    Raises:
        GeneratorError: The module has no linear layer, or the range is empty.
    """
    if not low < high:
        raise GeneratorError(f"low={low} must be less than high={high}.")
    module = copy.deepcopy(module)
    found = next(((name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)), None)
    if found is None:
        raise GeneratorError(
            f"{type(module).__name__} has no nn.Linear that the encoding could enter. Wrap a module with one."
        )
    name, layer = found
    doubled = nn.Linear(2 * layer.in_features, layer.out_features, layer.bias is not None).to(layer.weight)
    if not name:
        module = doubled
    else:
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, doubled)
    if isinstance(initial, nn.Module):
        initial = dict(initial.named_parameters())
    return MagnitudeInvariant(module, initial, low, high, scale)


def _deviation(value: Tensor) -> float:
    return float(value.detach().std(correction=0)) if value.numel() > 1 else 0.0
