"""Bringing the hidden units of networks into the same order, so that their weights can be compared and averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

PermutationGroup = Sequence[tuple[str, int]]
"""(parameter, axis): the axes that permute together without changing what the network computes."""

_SWEEPS = 20


def align(
    stacked: Mapping[str, Tensor], reference: Mapping[str, Tensor], groups: Sequence[PermutationGroup]
) -> dict[str, Tensor]:
    """Permute hidden units so that each network comes near its reference; what it computes stays the same.

    Weight matching: per group the Hungarian assignment of greatest inner product, in turn until nothing changes. With
    one group that is the nearest permutation. With several it starts twice, from the order as it is and from matching
    each group by the parameters whose other axes are settled, and keeps the better: a permuted copy is always undone
    where the first group reads the input, and nothing ends up farther than it was.

    Ainsworth et al., *Git Re-Basin: Merging Models modulo Permutation Symmetries*, 2022 (arXiv 2209.04836).

    Args:
        stacked: [networks, *shape] by parameter.
        reference: One network, [1, *shape], or one for each.
        groups: The permutation groups; parameters in none stay as they are.

    Returns:
        [networks, *shape] by parameter.
    """
    as_it_is = dict(stacked)
    if not groups:
        return as_it_is
    if len(groups) == 1:
        return _match(as_it_is, reference, groups[0], ())[0]
    settled = as_it_is
    for number, group in enumerate(groups):
        settled, _ = _match(settled, reference, group, groups[number + 1 :])
    settled, one = _descend(settled, reference, groups), _descend(as_it_is, reference, groups)
    better = _similarity(settled, reference, groups) > _similarity(one, reference, groups)
    return {
        name: torch.where(better.view(-1, *[1] * (value.dim() - 1)), settled[name], value)
        for name, value in one.items()
    }


def _descend(
    stacked: dict[str, Tensor], reference: Mapping[str, Tensor], groups: Sequence[PermutationGroup]
) -> dict[str, Tensor]:
    names = dict.fromkeys(name for group in groups for name, _ in group)
    result = dict(stacked)
    count = len(next(iter(stacked.values())))
    active = torch.arange(count)  # Networks of which a unit moved in the last sweep: the others are settled.
    own, near = {name: stacked[name] for name in names}, {name: reference[name] for name in names}
    for _ in range(_SWEEPS):
        changed = torch.zeros(len(active), dtype=torch.bool)
        for group in groups:
            own, moved = _match(own, near, group, ())
            changed |= moved
        for name in names:
            result[name] = own[name] if len(active) == count else result[name].index_copy(0, active, own[name])
        if not changed.any():
            break
        active = active[changed]
        own = {name: value[changed] for name, value in own.items()}
        near = {name: value if len(value) == 1 else value[changed] for name, value in near.items()}
    return result


def _match(
    stacked: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    group: PermutationGroup,
    unsettled: Sequence[PermutationGroup],
) -> tuple[dict[str, Tensor], Tensor]:
    """Match one group, by its parameters that no unsettled group touches; tells of which networks a unit moved."""
    touched = {name for other in unsettled for name, _ in other}
    used = [(name, axis) for name, axis in group if name not in touched] or group
    similarity = torch.stack(
        [
            (_by_unit(reference[name], axis) @ _by_unit(stacked[name], axis).mT).expand(len(stacked[name]), -1, -1)
            for name, axis in used
        ]
    ).sum(0)  # [networks, reference units, units]
    order = _assign(similarity.detach())
    matched = dict(stacked)
    moved = (order != torch.arange(order.shape[1], device=order.device)).any(1).cpu()
    return (permute_units(matched, group, order), moved) if moved.any() else (matched, moved)


def _assign(similarity: Tensor) -> Tensor:
    """Which unit goes with each reference unit, for the greatest sum: [networks, units, units] to [networks, units].

    Where the most similar units are all different, they are the answer: near networks need no solver.
    """
    from scipy.optimize import linear_sum_assignment

    order = similarity.argmax(2)
    units = torch.arange(order.shape[1], device=order.device)
    for number in (order.sort(1).values != units).any(1).nonzero().flatten().tolist():
        solved = linear_sum_assignment(similarity[number].cpu().numpy(), maximize=True)[1]
        order[number] = torch.from_numpy(solved).to(order)
    return order


def permute_units(stacked: Mapping[str, Tensor], group: PermutationGroup, order: Tensor) -> dict[str, Tensor]:
    """Put the units of a group into another order, of each network its own.

    Args:
        stacked: [networks, *shape] by parameter.
        group: Whose units.
        order: [networks, units]: which unit comes where.

    Returns:
        [networks, *shape] by parameter; what the networks compute stays the same.
    """
    permuted = dict(stacked)
    networks = torch.arange(len(order), device=order.device)[:, None]
    for name, axis in group:
        permuted[name] = permuted[name].movedim(axis + 1, 1)[networks, order].movedim(1, axis + 1)
    return permuted


def _similarity(
    stacked: Mapping[str, Tensor], reference: Mapping[str, Tensor], groups: Sequence[PermutationGroup]
) -> Tensor:
    """Inner product with the reference over all permutable parameters: [networks]."""
    names = dict.fromkeys(name for group in groups for name, _ in group)
    return torch.stack([(stacked[name] * reference[name]).flatten(1).sum(1) for name in names]).sum(0)


def _by_unit(value: Tensor, axis: int) -> Tensor:
    """A row of each unit: [networks, units, rest]."""
    return value.movedim(axis + 1, 1).reshape(len(value), value.shape[axis + 1], -1)
