"""The units of a network: the indices of its permutation groups, with all the values that belong to each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from hypergen.graph.symmetry.structure import Group, index, leaves
from hypergen.graph.symmetry.symmetry import Symmetry


def units_of(symmetry: Symmetry, name: str) -> Iterator[tuple[Group, Tensor]]:
    """Which unit each value of a parameter or buffer belongs to.

    Args:
        symmetry: Of the network.
        name: The parameter or buffer.

    Yields:
        A group and the numbers of its units, row-major over ``group.shape``: int64, broadcastable over the shape of the
        tensor, -1 where a value belongs to none. A group comes once for each axis that it takes part in.
    """
    axes = symmetry.axes[name]
    found = dict.fromkeys(group for axis in axes for group in leaves(axis) if not group.fixed and group.size > 1)
    still = {group.name: torch.zeros(group.shape, dtype=torch.int64) for group in found}
    before = index(axes, still)
    for group in found:
        numbers = torch.arange(math.prod(group.shape)).reshape(group.shape)
        # The place of a value is affine in the place of its unit; that of any other value does not move.
        strides = index(axes, {**still, group.name: torch.ones_like(numbers)})
        places = index(axes, {**still, group.name: numbers})
        for start, stride, place in zip(before, strides, places, strict=True):
            stride = stride - start
            if stride.any():
                yield group, torch.where(stride > 0, (place - start) // stride.clamp_min(1), -1)


def unit_sums(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of all values that belong to each unit; differentiable.

    Args:
        symmetry: Of the network.
        tensors: By name; further leading axes are batches. Names that the network does not have are left out.

    Returns:
        Group name → ``[*batch, *group.shape]``. A value that two units share counts for both.
    """
    sums: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in symmetry.axes:
            continue
        dims = len(symmetry.axes[name])
        batch = tensor.shape[: tensor.dim() - dims]
        for group, numbers in units_of(symmetry, name):
            others = [dim - dims for dim, size in enumerate(numbers.shape) if size == 1]
            rows = (tensor.sum(others) if others else tensor).reshape(*batch, -1)
            numbers = numbers.flatten().to(tensor.device)
            if group.name not in sums:
                sums[group.name] = tensor.new_zeros(*batch, math.prod(group.shape))
            sums[group.name] = sums[group.name].index_add(-1, numbers[numbers >= 0], rows[..., numbers >= 0])
    shapes = {group.name: group.shape for group in symmetry.groups}
    return {name: total.unflatten(-1, shapes[name]) for name, total in sums.items()}
