"""How far apart networks are: in weights, up to permutations of hidden units, and in what they get wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hypergen.evaluation.zoo_data import Stacked, flatten, select
from hypergen.evaluation.zoo_problem import PermutationGroup

_SWEEPS = 20
_CANDIDATES = 6
_AVERAGED = 16


def align(
    stacked: Mapping[str, Tensor], reference: Mapping[str, Tensor], symmetry: Sequence[PermutationGroup]
) -> Stacked:
    """Permute hidden units so that each network comes near its reference; what it computes stays the same.

    Weight matching: per group the Hungarian assignment of greatest inner product, in turn until nothing changes. With
    one group that is the nearest permutation.

    Ainsworth et al., *Git Re-Basin: Merging Models modulo Permutation Symmetries*, 2022 (arXiv 2209.04836).

    Args:
        stacked: [networks, *shape] by parameter.
        reference: One network, [1, *shape], or one for each.
        symmetry: The permutation groups.
    """
    aligned = dict(stacked)
    count = len(next(iter(aligned.values())))
    for _ in range(_SWEEPS if len(symmetry) > 1 else 1):
        changed = False
        for group in symmetry:
            similarity: Tensor | float = 0.0
            for name, axis in group:
                rows, wanted = _by_unit(aligned[name], axis), _by_unit(reference[name], axis)
                similarity = similarity + wanted @ rows.mT  # [networks, reference units, units]
            assert isinstance(similarity, Tensor)
            units = similarity.shape[-1]
            order = torch.tensor([linear_sum_assignment(one, maximize=True)[1].tolist() for one in similarity.numpy()])
            if (order == torch.arange(units)).all():
                continue
            changed = True
            for name, axis in group:
                value = aligned[name].movedim(axis + 1, 1)
                aligned[name] = value[torch.arange(count)[:, None], order].movedim(1, axis + 1)
        if not changed:
            break
    return aligned


def _by_unit(value: Tensor, axis: int) -> Tensor:
    """A row of each unit: [networks, units, rest]."""
    return value.movedim(axis + 1, 1).reshape(len(value), value.shape[axis + 1], -1)


def paired_distances(
    one: Mapping[str, Tensor], other: Mapping[str, Tensor], symmetry: Sequence[PermutationGroup]
) -> Tensor:
    """L2 distance of each network to its counterpart, over permutations of hidden units: [networks].

    Without permutation groups it is the plain L2.
    """
    return (flatten(align(one, other, symmetry)) - flatten(other)).norm(dim=1)


def nearest(
    queries: Mapping[str, Tensor], pool: Mapping[str, Tensor], symmetry: Sequence[PermutationGroup]
) -> tuple[Tensor, Tensor]:
    """The nearest network of a pool, over permutations of hidden units.

    Matching every query with all of the pool would take long. The candidates are those that are nearest as they stand,
    and nearest after both have been aligned to the pool's first network; only those are matched one by one.

    Returns:
        Distances and indices into the pool, both [queries].
    """
    number = min(_CANDIDATES, len(next(iter(pool.values()))))
    distances = torch.cdist(flatten(queries), flatten(pool))
    best, index = distances.min(1)
    if not symmetry:
        return best, index
    candidates = [distances.topk(number, largest=False).indices]
    first = select(pool, torch.tensor([0]))
    aligned = torch.cdist(flatten(align(queries, first, symmetry)), flatten(align(pool, first, symmetry)))
    candidates.append(aligned.topk(number, largest=False).indices)
    for candidate in torch.cat(candidates, 1).T:
        found = paired_distances(queries, select(pool, candidate), symmetry)
        index = torch.where(found < best, candidate, index)
        best = torch.minimum(best, found)
    return best, index


def distance_to_averages(
    queries: Mapping[str, Tensor], pool: Mapping[str, Tensor], symmetry: Sequence[PermutationGroup]
) -> Tensor:
    """Distance to the nearest average: between two of the 8 nearest networks, or of the 2, 3, ..., 16, 32, ... nearest.

    Networks are aligned before they are averaged: the nearest 16 to the query, more of them to the pool's first.

    Returns:
        [queries]
    """
    vectors, networks = flatten(queries), flatten(pool)
    frames = [(vectors, networks)]
    if symmetry:
        first = select(pool, torch.tensor([0]))
        frames.append((flatten(align(queries, first, symmetry)), flatten(align(pool, first, symmetry))))
    count = len(networks)
    best = torch.full((len(vectors),), torch.inf)
    for query, networks in frames:
        order = torch.cdist(query, networks).argsort(1)
        sizes = [32 * 2**power for power in range(20) if 32 * 2**power < count]
        for size in [*sizes, count]:
            weights = torch.zeros(len(query), count).scatter_(1, order[:, :size], 1 / size)
            best = torch.minimum(best, (query - weights @ networks).norm(dim=1))
        near = [flatten(align(select(pool, chosen), queries, symmetry)) for chosen in order[:, :_AVERAGED].T]
        total = near[0]
        for number, vector in enumerate(near[1:], 2):
            total = total + vector
            best = torch.minimum(best, (vectors - total / number).norm(dim=1))
        for i, j in itertools.combinations(range(min(8, len(near))), 2):
            along = near[j] - near[i]
            share = ((vectors - near[i]) * along).sum(1) / along.square().sum(1).clamp_min(1e-12)
            # Well between the two: an end is a copy, not an average.
            between = near[i] + share.clamp(0.25, 0.75)[:, None] * along
            best = torch.minimum(best, (vectors - between).norm(dim=1))
    return best


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of wrong predictions.

    Args:
        one: Whether a network is wrong on each sample: [n, samples], bool.
        other: The same of others: [m, samples].

    Returns:
        [n, m]; 1 where neither is ever wrong.
    """
    a, b = one.float(), other.float()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones(()))
