"""Normalisations."""

from __future__ import annotations

from typing import Any

from hypergen.symmetry.axes import Axis, divide, freeze
from hypergen.symmetry.rules.base import Operand, RuleContext, broadcast
from hypergen.symmetry.rules.shapes import REARRANGED
from hypergen.symmetry.unify import unify


def batch_norm(
    solver: RuleContext,
    input: Operand,
    running_mean: Operand | None = None,
    running_var: Operand | None = None,
    weight: Operand | None = None,
    bias: Operand | None = None,
    *_: Any,
    **__: Any,
) -> list[Axis]:
    """Statistics, scale and shift follow their channels."""
    for tensor in (running_mean, running_var, weight, bias):
        if tensor is not None:
            unify(input.axes[1], tensor.axes[0])
    solver.mix(input, [0, *range(2, input.dim())])
    return input.axes


def layer_norm(
    solver: RuleContext,
    input: Operand,
    normalized_shape: Any,
    weight: Operand | None = None,
    bias: Operand | None = None,
    *_: Any,
    **__: Any,
) -> list[Axis]:
    """Over the last axes: scale and shift follow them."""
    count = len(normalized_shape) if isinstance(normalized_shape, tuple) else 1
    for tensor in (weight, bias):
        if isinstance(tensor, Operand):
            for one, other in zip(input.axes[-count:], tensor.axes, strict=True):
                unify(one, other)
    solver.mix(input, range(-count, 0))
    return input.axes


def rms_norm(
    solver: RuleContext, input: Operand, normalized_shape: Any, weight: Operand | None = None, *_: Any, **__: Any
) -> list[Axis]:
    """Over the last axes, without a shift."""
    return layer_norm(solver, input, normalized_shape, weight)


def group_norm(
    solver: RuleContext,
    input: Operand,
    num_groups: int,
    weight: Operand | None = None,
    bias: Operand | None = None,
    *_: Any,
    **__: Any,
) -> list[Axis]:
    """Groups of channels are blocks."""
    channels = input.axes[1]
    pair = divide(channels, [num_groups, channels.size // num_groups])
    if pair is None:
        freeze(channels, REARRANGED)
    else:
        solver.carriers.append([input.axes[0], pair[0]])
    for tensor in (weight, bias):
        if tensor is not None:
            unify(channels, tensor.axes[0])
    return input.axes


def local_response_norm(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Over neighbouring channels."""
    solver.mix(input, [1], "normalised over neighbouring channels")
    return input.axes


def weight_norm(solver: RuleContext, v: Operand, g: Operand, dim: int = 0) -> list[Axis]:
    """A length ``g`` per slice of ``v``."""
    axes = broadcast([v, g])
    if dim != -1:
        solver.carriers.append([axes[dim]])
    return axes


RULES: dict[str, Any] = {
    "batch_norm": batch_norm, "instance_norm": batch_norm, "layer_norm": layer_norm, "rms_norm": rms_norm,
    "group_norm": group_norm, "local_response_norm": local_response_norm, "weight_norm": weight_norm,
}  # fmt: skip
