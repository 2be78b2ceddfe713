"""Which units of a network to keep: how much each matters, and how many of each group a budget allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.symmetry.prune.pruner import Pruner
from hypergen.symmetry.units import unit_sums

Allocation = Literal["uniform", "global"]
ALLOCATIONS: tuple[Allocation, ...] = ("uniform", "global")
_BISECTIONS = 12


def magnitude(pruner: Pruner, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The L2 norm of all parameters of each unit, over every layer that it takes part in.

    Fang et al., *DepGraph: Towards Any Structural Pruning*, 2023 (arXiv 2301.12900).

    Args:
        pruner: Of the network.
        parameters: By name; further leading axes are batches.

    Returns:
        Name of a group that can be pruned → ``[*batch, *group.shape]``.
    """
    squares = {name: value.square() for name, value in _parameters(pruner, parameters).items()}
    norms = unit_sums(pruner.symmetry, squares)
    return {group.name: norms[group.name].sqrt() for group in pruner.groups}


def taylor(pruner: Pruner, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The change of the loss when a unit is set to zero, to first order: ``|sum of parameter × gradient|``.

    Molchanov et al., *Importance Estimation for Neural Network Pruning*, 2019 (arXiv 1906.10771).

    Args:
        pruner: Of the network.
        parameters: By name; further leading axes are batches.
        gradients: Likewise, of the loss; names may be missing.

    Returns:
        Name of a group that can be pruned → ``[*batch, *group.shape]``.
    """
    own = _parameters(pruner, parameters)
    products = {name: value * gradients[name] for name, value in own.items() if name in gradients}
    sums = unit_sums(pruner.symmetry, products)
    return {group.name: sums[group.name].abs() for group in pruner.groups if group.name in sums}


def random(pruner: Pruner, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """Importance without a meaning, with which any other has to be compared."""
    return {group.name: torch.rand(group.shape, generator=generator) for group in pruner.groups}


def most_important(scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The places of the most important units of each group, for :meth:`Pruner.prune`.

    Args:
        scores: Group name → ``[*batch, *group.shape]``.
        counts: Group name → how many to keep, for each index of its parents.
    """
    return {name: scores[name].topk(count).indices.sort(-1).values for name, count in counts.items()}


def allocate(
    pruner: Pruner, scores: Mapping[str, Tensor], flops: float, allocation: Allocation = "uniform"
) -> dict[str, int]:
    """How many units of each group a budget allows.

    Args:
        pruner: Of the network.
        scores: Group name → ``group.shape``; groups that are not named stay whole.
        flops: The budget, as a share of the network's own floating-point operations.
        allocation: ``"uniform"`` keeps the same share of every group; ``"global"`` the units of the greatest
            importance, each relative to the mean of its group, wherever they are.

    Returns:
        Group name → number of units, at least one: the most that the budget allows, within a per mille of units.

    Raises:
        ParameterError: The budget is no share, or less than a network with one unit of each group takes.
    """
    if not 0 < flops <= 1:
        raise ParameterError(f"flops is the share of operations to keep, over 0 and at most 1; got {flops}")
    if allocation not in ALLOCATIONS:
        raise ParameterError(f"unknown allocation {allocation!r}; expected one of {', '.join(ALLOCATIONS)}")
    sizes = {group.name: group.size for group in pruner.groups if group.name in scores}
    # Units of each group from the most important, the same number for each index of the parents.
    ranked = {}
    for name, size in sizes.items():
        relative = scores[name] / scores[name].mean().clamp_min(1e-30)
        ranked[name] = relative.reshape(-1, size).sort(-1, descending=True).values.mean(0)
    every = torch.cat(list(ranked.values())).sort(descending=True).values if ranked else torch.zeros(0)

    def counts(share: float) -> dict[str, int]:
        if allocation == "uniform":
            return {name: max(1, math.floor(share * size + 1e-9)) for name, size in sizes.items()}
        threshold = every[min(max(math.ceil(share * len(every)), 1), len(every)) - 1]
        return {name: max(1, int((own >= threshold).sum())) for name, own in ranked.items()}

    def cost(share: float) -> float:
        return pruner.flops(most_important(scores, counts(share))) / whole

    whole = pruner.flops()
    low, high = 0.0, 1.0
    if cost(high) <= flops:
        return counts(high)
    if cost(low) > flops:
        raise ParameterError(
            f"with a single unit of each group the network still takes {cost(low):.3f} of its operations, more than "
            f"the budget of {flops}"
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= flops else (low, middle)
    return counts(low)


def _parameters(pruner: Pruner, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in pruner.symmetry.parameters if name in tensors}
