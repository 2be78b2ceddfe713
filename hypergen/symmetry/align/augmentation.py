"""Networks that compute the same with their hidden units in another order: more data for what reads weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from hypergen.symmetry.align.stacked import PermutationGroup, permute_units
from hypergen.symmetry.symmetry import Symmetry


def augment(
    stacked: Mapping[str, Tensor],
    symmetry: Symmetry | Sequence[PermutationGroup],
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Permute the hidden units of each network at random, every permutation equally likely.

    Values are moved, not computed; the result is differentiable in them.

    Args:
        stacked: [networks, *shape] by parameter or buffer.
        symmetry: What may be permuted: ``hypergen.trace(model).symmetry()``, or the groups of whole axes that a zoo's
            layout has (``layout.permutation_groups``).
        generator: Random generator of the draw, on the CPU.

    Returns:
        [networks, *shape] by the same names; what the networks compute stays the same.

    Raises:
        ParameterError: A tensor does not have the shape that the symmetry was found for.
    """
    first = next(iter(stacked.values()))
    count, device = len(first), first.device

    def orders(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator).argsort(-1).to(device)

    if isinstance(symmetry, Symmetry):
        elements = {group.name: orders(*group.shape) for group in symmetry.groups}
        return vmap(symmetry.apply)(dict(stacked), elements)
    permuted = dict(stacked)
    for group in symmetry:
        name, axis = group[0]
        permuted = permute_units(permuted, group, orders(permuted[name].shape[axis + 1]))
    return permuted
