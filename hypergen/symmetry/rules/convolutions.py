"""Convolutions, pooling and resizing: what runs over space."""

from __future__ import annotations

from typing import Any

from hypergen.symmetry.axes import Axis, divide, freeze, frozen, inherit, product
from hypergen.symmetry.rules.base import Operand, RuleContext
from hypergen.symmetry.rules.contractions import contract
from hypergen.symmetry.rules.shapes import REARRANGED
from hypergen.symmetry.unify import unify

SPACE = "space"


def convolution(
    solver: RuleContext,
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> list[Axis]:
    """``weight [out, in / groups, *kernel]``: blocks of channels, one per group."""
    channels, spatial = _frame(solver, input, weight, stride, padding)
    out, inside = weight.axes[0], weight.axes[1]
    around = [*input.axes[: -len(spatial) - 1], *input.axes[-len(spatial) :]]
    if groups == 1:
        contract(solver, channels, inside)
    else:
        group, width = _grouped(solver, channels, groups)
        blocks, _ = _grouped(solver, out, groups)
        unify(group, blocks)
        contract(solver, width, inside, [group])
        around.append(group)
    solver.carriers.append(around)
    solver.mix(weight, [1])
    return _channels_out(input, weight, bias, out, spatial)


def transposed_convolution(
    solver: RuleContext,
    input: Operand,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> list[Axis]:
    """``weight [in, out / groups, *kernel]``."""
    channels, spatial = _frame(solver, input, weight, stride, padding)
    inside, out = weight.axes[0], weight.axes[1]
    unify(channels, inside)
    around = [*input.axes[: -len(spatial) - 1], *input.axes[-len(spatial) :]]
    if groups == 1:
        contract(solver, channels, inside)
        solver.mix(weight, [0])
    else:
        group, width = _grouped(solver, channels, groups)
        contract(solver, width, width, [group])
        inherit(out, (group,))
        solver.carriers.append([group, *weight.axes[1:]])
        out = product([group, out])
        around.append(group)
    solver.carriers.append(around)
    return _channels_out(input, weight, bias, out, spatial)


def _frame(solver: RuleContext, input: Operand, weight: Operand, stride: Any, padding: Any) -> tuple[Axis, list[Axis]]:
    """The channels of the input, and the spatial axes of the output."""
    rank = weight.dim() - 2
    kernel, space = weight.axes[2:], input.axes[-rank:]
    sizes = solver.outputs[0][-rank:]
    if all(axis.size == 1 for axis in kernel) and sizes == tuple(a.size for a in space) and _zero(padding):
        return input.axes[-rank - 1], space
    for axis in kernel:
        freeze(axis, "a place in a kernel")
    solver.mix(input, range(-rank, 0), SPACE)
    solver.mix(weight, range(-rank, 0), "a place in a kernel")
    return input.axes[-rank - 1], [frozen(size, SPACE) for size in sizes]


def _zero(padding: Any) -> bool:
    return not any(padding) if isinstance(padding, tuple) else padding in (0, "valid", "same")


def _grouped(solver: RuleContext, channels: Axis, groups: int) -> tuple[Axis, Axis]:
    sizes = [groups, channels.size // groups]
    pair = divide(channels, sizes)
    if pair is None:
        freeze(channels, REARRANGED)
        return frozen(sizes[0], REARRANGED), frozen(sizes[1], REARRANGED)
    return pair[0], pair[1]


def _channels_out(input: Operand, weight: Operand, bias: Operand | None, out: Axis, spatial: list[Axis]) -> list[Axis]:
    if bias is not None:
        unify(out, bias.axes[0])
    return [*input.axes[: -len(spatial) - 1], out, *spatial]


def _pool(rank: int) -> Any:
    def pool(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[list[Axis]]:
        solver.mix(input, range(-rank, 0), SPACE)
        return [[*input.axes[:-rank], *(frozen(size, SPACE) for size in shape[-rank:])] for shape in solver.outputs]

    return pool


def resize(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Interpolation over all axes behind the channels."""
    dims = range(2, input.dim())
    solver.mix(input, dims, SPACE)
    return [*input.axes[:2], *(frozen(solver.outputs[0][dim], SPACE) for dim in dims)]


def grid_sample(solver: RuleContext, input: Operand, grid: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Interpolation at the places that a grid tells."""
    solver.mix(grid, range(1, grid.dim()), SPACE)
    unify(input.axes[0], grid.axes[0])
    return resize(solver, input)


def unfold(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[Axis]:
    """Patches: as columns (channels, kernel) of ``F.unfold``, or as a new last axis of ``Tensor.unfold``."""
    shape = solver.outputs[0]
    if len(shape) == input.dim() + 1:
        dim = kwargs.get("dimension", args[0] if args else 0) % input.dim()
        solver.mix(input, [dim], SPACE)
        return [
            *(frozen(shape[d], SPACE) if d == dim else a for d, a in enumerate(input.axes)),
            frozen(shape[-1], SPACE),
        ]
    solver.mix(input, [-2, -1], SPACE)
    channels = input.axes[-3]
    kernel = frozen(shape[-2] // channels.size, "a place in a kernel")
    return [*input.axes[:-3], product([channels, kernel]), frozen(shape[-1], SPACE)]


def fold(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Columns (channels, kernel) back to images."""
    shape = solver.outputs[0]
    channels, kernel = _grouped(solver, input.axes[-2], shape[-3])
    freeze(kernel, "a place in a kernel")
    solver.mix(input, [-1], SPACE)
    solver.carriers.append([channels])
    return [*input.axes[:-2], channels, *(frozen(size, SPACE) for size in shape[-2:])]


RULES: dict[str, Any] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed_convolution),
    **{
        f"{kind}pool{rank}d": _pool(rank)
        for rank in (1, 2, 3)
        for kind in ("max_", "avg_", "lp_", "adaptive_max_", "adaptive_avg_", "fractional_max_", "max_un")
    },
    "interpolate": resize, "upsample": resize, "upsample_nearest": resize, "upsample_bilinear": resize,
    "grid_sample": grid_sample, "unfold": unfold, "fold": fold,
}  # fmt: skip
