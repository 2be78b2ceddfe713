"""Combining differences from one base, value by value."""

from __future__ import annotations

import torch
from torch import Tensor

from hypergen.errors import ParameterError


def trim(vectors: Tensor, density: float) -> Tensor:
    """Keep the largest values of each vector, ``[vectors, …]``, and set the others to 0."""
    _check(density)
    flat = vectors.flatten(1)
    kept = max(1, round(density * flat.shape[1]))
    if kept >= flat.shape[1]:
        return vectors
    # The k-th largest is a k-th smallest, which torch finds without sorting.
    bound = flat.abs().kthvalue(flat.shape[1] - kept + 1, dim=1).values
    return torch.where(flat.abs() >= bound[:, None], flat, torch.zeros_like(flat)).view_as(vectors)


def merge_ties(vectors: Tensor, density: float = 0.2) -> Tensor:
    """Trim, elect a sign for each value, and average those that agree with it.

    Yadav et al., *TIES-Merging: Resolving Interference When Merging Models*, 2023, arXiv:2306.01708.

    Args:
        vectors: Differences from the base, weighted, ``[vectors, …]``.
        density: Share of values that each vector keeps.

    Returns:
        ``[…]``.
    """
    trimmed = trim(vectors, density)
    elected = trimmed.sum(0).sign()
    agree = (trimmed.sign() == elected) & (elected != 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp_min(1)


def merge_dare(vectors: Tensor, density: float, random: torch.Generator) -> Tensor:
    """Drop values at random, make up for them, and add the vectors up.

    Yu et al., *Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch*, 2023,
    arXiv:2311.03099.

    Args:
        vectors: Differences from the base, weighted, ``[vectors, …]``.
        density: Share of values that is kept.
        random: Draws which.

    Returns:
        ``[…]``.
    """
    _check(density)
    kept = torch.rand(vectors.shape, generator=random) < density
    return (vectors * kept.to(vectors)).sum(0) / density


def _check(density: float) -> None:
    if not 0 < density <= 1:
        raise ParameterError(f"A density is a share above 0 and up to 1; got {density}.")
