"""The units of a network: the indices of its permutation groups, with all the values that belong to each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hypergen.symmetry.structure import Group
from hypergen.symmetry.symmetry import Symmetry


def units_of(symmetry: Symmetry, name: str) -> tuple[tuple[int, ...], list[tuple[Group, Tensor]]]:
    """Which units each value of a parameter or buffer belongs to.

    Args:
        symmetry: Symmetry of the network.
        name: The parameter or buffer.

    Returns:
        A shape to view the tensor in, which may have its axes divided; and groups with the numbers of their units,
        row-major over ``group.shape``: int64, broadcastable over that shape, -1 where a value belongs to none. A group
        comes once for each axis that it takes part in.
    """
    found = symmetry.incidence(name)
    units = []
    for occurrence in (occurrence for occurrences in found.axes for occurrence in occurrences):
        if not occurrence.group.fixed:
            numbers = occurrence.at
            if occurrence.inside is not None:
                numbers = torch.where(occurrence.inside, numbers, -1)
            units.append((occurrence.group, numbers))
    return found.shape, units


def unit_sums(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of all values that belong to each unit; differentiable.

    Args:
        symmetry: Symmetry of the network.
        tensors: By name; further leading axes are batches. Names that the network does not have are left out.

    Returns:
        Group name → ``[*batch, *group.shape]``. A value that two units share counts for both.
    """
    sums: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name not in symmetry.axes:
            continue
        batch = tensor.shape[: tensor.dim() - len(symmetry.axes[name])]
        shape, units = units_of(symmetry, name)
        values = tensor.reshape(*batch, *shape)
        for group, numbers in units:
            others = [dim - len(shape) for dim, size in enumerate(numbers.shape) if size == 1]
            rows = (values.sum(others) if others else values).reshape(*batch, -1)
            numbers = numbers.flatten().to(tensor.device)
            if group.name not in sums:
                sums[group.name] = tensor.new_zeros(*batch, math.prod(group.shape))
            sums[group.name] = sums[group.name].index_add(-1, numbers[numbers >= 0], rows[..., numbers >= 0])
    shapes = {group.name: group.shape for group in symmetry.groups}
    return {name: total.unflatten(-1, shapes[name]) for name, total in sums.items()}


def gate_units(symmetry: Symmetry, tensors: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply all values that belong to each unit by a factor: 0 takes a unit out, 1 leaves it; differentiable.

    Args:
        symmetry: Symmetry of the network.
        tensors: By name; further leading axes are batches. Names that the network does not have stay.
        gates: Group name → ``[*batch, *group.shape]``; groups that are not named stay.

    Returns:
        The same names. A value that two units share is multiplied by both factors.
    """
    result = dict(tensors)
    flat = {
        group.name: gates[group.name].flatten(-len(group.shape)) for group in symmetry.groups if group.name in gates
    }
    for name in symmetry.axes:
        if name not in tensors:
            continue
        tensor = tensors[name]
        shape, units = units_of(symmetry, name)
        values = tensor.reshape(*tensor.shape[: tensor.dim() - len(symmetry.axes[name])], *shape)
        for group, numbers in units:
            if group.name in flat:
                numbers = numbers.to(tensor.device)
                factors = flat[group.name].to(tensor)[..., numbers.clamp_min(0)]
                values = values * torch.where(numbers >= 0, factors, torch.ones_like(factors))
        result[name] = values.reshape(tensor.shape)
    return result
