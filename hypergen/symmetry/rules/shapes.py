"""Operations that rearrange the elements of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypergen.symmetry.axes import (
    Axis,
    concatenation,
    cut,
    divide,
    find,
    freeze,
    frozen,
    product,
    restrict,
)
from hypergen.symmetry.rules.base import Operand, RuleContext
from hypergen.symmetry.unify import unify

_FEW = 8
REARRANGED = "rearranged in a way that does not follow its structure"


def reshape(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Any change of the shape that keeps the order of the elements."""
    return reshaped(solver, input, solver.outputs[0])


def reshaped(solver: RuleContext, input: Operand, shape: Sequence[int]) -> list[Axis]:
    """The axes of a tensor in another shape."""
    if 0 in shape:  # no elements
        return [Axis(size) for size in shape]
    inputs = [axis for axis in input.axes if axis.size != 1]
    sizes = [size for size in shape if size != 1]
    found: list[Axis] = []
    i = j = 0
    while i < len(inputs):
        before, after = [inputs[i]], [sizes[j]]
        i, j = i + 1, j + 1
        while (left := math.prod(axis.size for axis in before)) != (right := math.prod(after)):
            if left < right:
                before.append(inputs[i])
                i += 1
            else:
                after.append(sizes[j])
                j += 1
        found += [before[0]] if len(before) == len(after) == 1 else _regrouped(solver, input, before, after)
    queue = iter(found)
    return [next(queue) if size != 1 else Axis(1) for size in shape]


def _regrouped(solver: RuleContext, input: Operand, before: list[Axis], after: list[int]) -> list[Axis]:
    merged = product(before)
    # In one product the same axis may lie twice: then nothing can tell with which of the two a third one varies.
    solver.carriers.append([*(axis for axis in input.axes if axis not in before), merged])
    pieces = divide(merged, after)
    if pieces is None:
        solver.mix(input, [dim for dim, axis in enumerate(input.axes) if axis in before], REARRANGED)
        return [frozen(size, REARRANGED) for size in after]
    return pieces


def permute(solver: RuleContext, input: Operand, *dims: Any, **options: Any) -> list[Axis]:
    """Axes in another order."""
    order = options.get("dims", dims[0] if len(dims) == 1 and isinstance(dims[0], tuple) else dims)
    return [input.axes[dim] for dim in order]


def transpose(solver: RuleContext, input: Operand, dim0: int, dim1: int) -> list[Axis]:
    """Two axes swapped."""
    axes = list(input.axes)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return axes


def _swapaxes(solver: RuleContext, input: Operand, axis0: int, axis1: int) -> list[Axis]:
    return transpose(solver, input, axis0, axis1)


def reverse(solver: RuleContext, input: Operand) -> list[Axis]:
    """All axes in the opposite order."""
    return input.axes[::-1]


def transpose_last(solver: RuleContext, input: Operand, *_: Any) -> list[Axis]:
    """The last two axes swapped."""
    return transpose(solver, input, -2, -1)


def movedim(solver: RuleContext, input: Operand, source: Any, destination: Any) -> list[Axis]:
    """Axes moved to other places."""
    count = input.dim()
    sources = [dim % count for dim in (source if isinstance(source, tuple) else (source,))]
    targets = [dim % count for dim in (destination if isinstance(destination, tuple) else (destination,))]
    rest = iter([axis for dim, axis in enumerate(input.axes) if dim not in sources])
    return [input.axes[sources[targets.index(dim)]] if dim in targets else next(rest) for dim in range(count)]


def expand(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Repeated without a copy: the values do not depend on the place along the new axes."""
    shape = solver.outputs[0]
    aligned = [Axis(1)] * (len(shape) - input.dim()) + input.axes
    return [axis if axis.size == size else Axis(size) for axis, size in zip(aligned, shape, strict=True)]


def repeat(solver: RuleContext, input: Operand, *_: Any, **__: Any) -> list[Axis]:
    """Tiled along axes."""
    shape = solver.outputs[0]
    aligned = [Axis(1)] * (len(shape) - input.dim()) + input.axes
    pairs = zip(aligned, shape, strict=True)
    return [axis if axis.size == size else product([Axis(size // axis.size), axis]) for axis, size in pairs]


def repeat_interleave(solver: RuleContext, input: Operand, repeats: int, dim: int, **_: Any) -> list[Axis]:
    """Each element several times in a row."""
    axes = list(input.axes)
    axes[dim] = product([axes[dim], Axis(repeats)])
    return axes


def displaced(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[Axis]:
    """Elements moved along some axes, ``roll`` and ``flip``: the last argument names them."""
    dims = kwargs.get("dims", kwargs.get("dim", args[-1] if args else None))
    dims = range(input.dim()) if dims is None else dims if isinstance(dims, tuple) else args
    solver.mix(input, [dims] if isinstance(dims, int) else list(dims), "moved along the axis")
    return input.axes


def roll(solver: RuleContext, input: Operand, shifts: Any, dims: Any = None) -> list[Axis]:
    """Elements moved along some axes."""
    dims = range(input.dim()) if dims is None else dims if isinstance(dims, tuple) else (dims,)
    solver.mix(input, list(dims), "moved along the axis")
    return input.axes


def pad(
    solver: RuleContext, input: Operand, pad: Sequence[int], mode: str = "constant", *_: Any, **__: Any
) -> list[Axis]:
    """Elements added at the ends."""
    axes = list(input.axes)
    for number in range(len(pad) // 2):
        before, after = pad[2 * number], pad[2 * number + 1]
        dim = input.dim() - 1 - number
        if not (before or after):
            continue
        if mode == "constant" and min(before, after) >= 0 and not find(axes[dim]).reason:
            axes[dim] = concatenation([Axis(before), axes[dim], Axis(after)])
        else:
            solver.mix(input, [dim], "padded")
            axes[dim] = frozen(solver.outputs[0][dim], "padded")
    return axes


def cat(solver: RuleContext, tensors: Sequence[Operand], dim: int = 0, axis: int | None = None) -> list[Axis]:
    """Concatenation."""
    full = [tensor for tensor in tensors if 0 not in tensor.shape]
    if not full:
        return [Axis(size) for size in solver.outputs[0]]
    dim = (dim if axis is None else axis) % full[0].dim()
    result = []
    for place, own in enumerate(full[0].axes):
        others = [tensor.axes[place] for tensor in full[1:]]
        if place == dim:
            result.append(concatenation([own, *others]))
        else:
            for other in others:
                unify(own, other)
            result.append(own)
    return result


def stack(solver: RuleContext, tensors: Sequence[Operand], dim: int = 0) -> list[Axis]:
    """Concatenation along a new axis."""
    for tensor in tensors[1:]:
        for one, other in zip(tensors[0].axes, tensor.axes, strict=True):
            unify(one, other)
    axes = list(tensors[0].axes)
    axes.insert(dim % (len(axes) + 1), frozen(len(tensors), "a stack of different tensors"))
    return axes


def pieces(solver: RuleContext, input: Operand, dim: int, sizes: Sequence[int]) -> list[list[Axis]]:
    """The axes of a tensor's pieces along one of its axes."""
    dim %= input.dim()
    whole = find(input.axes[dim])
    if len([size for size in sizes if size]) == 1:
        cuts: list[Axis] | None = [whole]
    else:
        cuts = None if whole.reason else cut(whole, sizes)
    if cuts is None:
        freeze(whole, "cut in a way that does not follow its structure")
        cuts = [frozen(size, find(whole).reason) for size in sizes if size]
    queue = iter(cuts)
    result = []
    for size in sizes:
        piece = next(queue) if size else Axis(0)
        rest = [
            axis if place == dim or not size else restrict(axis, whole, piece) for place, axis in enumerate(input.axes)
        ]
        result.append([*rest[:dim], piece, *rest[dim + 1 :]])
    return result


def split(solver: RuleContext, input: Operand, *args: Any, **kwargs: Any) -> list[list[Axis]]:
    """Cut along an axis, however the pieces are told."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return pieces(solver, input, dim, [shape[dim] for shape in solver.outputs])


def unbind(solver: RuleContext, input: Operand, dim: int = 0) -> list[list[Axis]]:
    """A tensor per index of an axis."""
    dim %= input.dim()
    parts = pieces(solver, input, dim, [1] * input.axes[dim].size)
    return [[*axes[:dim], *axes[dim + 1 :]] for axes in parts]


def narrow(solver: RuleContext, input: Operand, dim: int, start: int, length: int) -> list[Axis]:
    """A range of indices of an axis."""
    size = input.axes[dim].size
    start %= size
    if length == 1 and size <= _FEW:  # queries, keys and values: the others are likely to be selected, too
        return pieces(solver, input, dim, [1] * size)[start]
    before = [start] if start else []
    after = [size - start - length] if size - start - length else []
    return pieces(solver, input, dim, [*before, length, *after])[len(before)]


def select(solver: RuleContext, input: Operand, dim: int, index: int) -> list[Axis]:
    """One index of an axis."""
    dim %= input.dim()
    axes = narrow(solver, input, dim, index, 1)
    return [*axes[:dim], *axes[dim + 1 :]]


def channel_shuffle(solver: RuleContext, input: Operand, groups: int) -> list[Axis]:
    """Channels (groups, n) in the order (n, groups)."""
    outer, inner = _regrouped(solver, input, [input.axes[1]], [groups, input.axes[1].size // groups])
    return [input.axes[0], product([inner, outer]), *input.axes[2:]]


def pixel_shuffle(solver: RuleContext, input: Operand, upscale_factor: int) -> list[Axis]:
    """Channels (n, r, r) moved into space."""
    channels = input.axes[-3]
    count = channels.size // upscale_factor**2
    kept, inner = _regrouped(solver, input, [channels], [count, upscale_factor**2])
    freeze(inner, "moved into space")
    solver.mix(input, [-2, -1], "space")
    solver.carriers.append([*input.axes[:-3], kept])
    return [*input.axes[:-3], kept, *(frozen(size, "space") for size in solver.outputs[0][-2:])]


def pixel_unshuffle(solver: RuleContext, input: Operand, downscale_factor: int) -> list[Axis]:
    """Squares of pixels moved into channels (n, r, r)."""
    solver.mix(input, [-2, -1], "space")
    channels = product([input.axes[-3], frozen(downscale_factor**2, "moved out of space")])
    return [*input.axes[:-3], channels, *(frozen(size, "space") for size in solver.outputs[0][-2:])]


RULES: dict[str, Any] = {
    **dict.fromkeys("reshape view flatten unflatten squeeze unsqueeze view_as reshape_as ravel".split(), reshape),
    **dict.fromkeys(("atleast_1d", "atleast_2d"), reshape),
    "permute": permute,
    "transpose": transpose, "swapdims": transpose, "swapaxes": _swapaxes,
    "t": reverse, "T": reverse, "mT": transpose_last, "mH": transpose_last, "adjoint": transpose_last, "H": reverse,
    "movedim": movedim, "moveaxis": movedim,
    "expand": expand, "expand_as": expand, "broadcast_to": expand,
    "repeat": repeat, "tile": repeat, "repeat_interleave": repeat_interleave,
    "roll": roll, "flip": displaced, "pad": pad, "constant_pad_nd": pad,
    "cat": cat, "stack": stack,
    **dict.fromkeys("chunk split split_with_sizes tensor_split unsafe_chunk unsafe_split".split(), split),
    "unbind": unbind, "narrow": narrow, "select": select,
    "channel_shuffle": channel_shuffle, "pixel_shuffle": pixel_shuffle, "pixel_unshuffle": pixel_unshuffle,
}  # fmt: skip
