"""How far apart networks are: in weights, up to permutations of hidden units, and in what they get wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hypergen.evaluation.zoo.data import flatten, select
from hypergen.symmetry.align.stacked import PermutationGroup, align

_CANDIDATES = 6
_AVERAGED = 16


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
