"""Where the indices of an axis come from when a network is made wider or narrower."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum

Width = Literal["uniform", "leading"]
WIDTHS: tuple[Width, ...] = ("uniform", "leading")


@dataclass(frozen=True)
class AxisMap:
    """The donor's index for every index of an axis.

    Attributes:
        index: [size], int64, into the donor's axis.
        copies: [size], how often the donor's index was used along its group: what reads along this axis is divided by
            it (or split unequally) for sums to stay what they were.
        resized: Whether the axis is of a kind that cannot be selected or copied (a kernel, classes, places) and has
            another size in the donor; ``index`` then means nothing.
    """

    index: Tensor
    copies: Tensor
    resized: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return not self.resized and bool((self.copies == 1).all()) and torch.equal(self.index, _arange(len(self.index)))


Free = Callable[[Group], bool]


def permuted(group: Group) -> bool:
    """Whether the indices of a group may be permuted, so that they may be selected and copied, too."""
    return not group.fixed


def map_axis(
    target: Structure, donor: Structure, width: Width = "uniform", free: tuple[Free, Free] = (permuted, permuted)
) -> AxisMap:
    """Map one axis.

    Indices of a permuted group are selected evenly (``"uniform"``) or from the front (``"leading"``) where the target
    is narrower, and repeated in turn where it is wider. That depends on the sizes of the two groups alone, so that all
    axes of a group agree without being told of each other. Products (heads and channels within them) and
    concatenations are mapped part by part, so that borders hold.

    Args:
        target: What the target's axis is made of.
        donor: What the donor's axis is made of.
        width: Which indices remain in a narrower network.
        free: Whether the indices of a group of the target, and of the donor, may be selected and copied.
    """
    ours, theirs = _segments(target), _segments(donor)
    if len(ours) != len(theirs) and target.size == donor.size:
        return _same(target.size)
    # A concatenation of fewer or more parts, as in a dense block of another depth, is mapped part by part, evenly.
    chosen = select(len(ours), len(theirs)).tolist()
    starts = list(itertools.accumulate((math.prod(piece.size for piece in its) for its in theirs), initial=0))
    parts = []
    for mine, number in zip(ours, chosen, strict=True):
        part = _map_product(mine, theirs[number], width, free)
        parts.append(AxisMap(part.index + starts[number], part.copies, part.resized))
    return AxisMap(
        torch.cat([part.index for part in parts]),
        torch.cat([part.copies for part in parts]),
        any(part.resized for part in parts),
    )


def _map_product(
    ours: Sequence[Structure], theirs: Sequence[Structure], width: Width, free: tuple[Free, Free]
) -> AxisMap:
    ours = [piece for piece in ours if piece.size > 1] or list(ours[:1])
    theirs = [piece for piece in theirs if piece.size > 1] or list(theirs[:1])
    sizes = [math.prod(piece.size for piece in pieces) for pieces in (ours, theirs)]
    if len(ours) != len(theirs):
        if sizes[0] == sizes[1]:
            return _same(sizes[0])
        return AxisMap(torch.zeros(sizes[0], dtype=torch.int64), torch.ones(sizes[0]), resized=True)
    index, copies, resized = torch.zeros(1, dtype=torch.int64), torch.ones(1), False
    for mine, its in zip(ours, theirs, strict=True):
        part = _map_leaf(mine, its, width, free)
        index = (index[:, None] * its.size + part.index).flatten()
        copies = (copies[:, None] * part.copies).flatten()
        resized |= part.resized
    return AxisMap(index, copies, resized)


def _map_leaf(mine: Structure, its: Structure, width: Width, free: tuple[Free, Free]) -> AxisMap:
    if isinstance(mine, Sum) and isinstance(its, Sum):
        return map_axis(mine, its, width, free)
    if mine.size == its.size:
        return _same(mine.size)
    if not isinstance(mine, Group) or not isinstance(its, Group) or not (free[0](mine) and free[1](its)):
        return AxisMap(torch.zeros(mine.size, dtype=torch.int64), torch.ones(mine.size), resized=True)
    index = select(mine.size, its.size, width)
    return AxisMap(index, index.bincount(minlength=its.size)[index].float())


def select(size: int, of: int, width: Width = "uniform") -> Tensor:
    """Which of ``of`` indices each of ``size`` indices comes from, [size], int64."""
    if size >= of:
        return _arange(size) % of
    if width == "leading":
        return _arange(size)
    if of % size == 0:
        return _arange(size) * (of // size)
    return torch.linspace(0, of - 1, size, dtype=torch.float64).round().long()


def _segments(structure: Structure) -> list[list[Structure]]:
    """A structure as a concatenation of products: ``(q + k + v) × heads × channels`` → three products."""
    if isinstance(structure, Sum):
        return [product for segment in structure.segments for product in _segments(segment)]
    if isinstance(structure, Product) and isinstance(structure.factors[0], Sum):
        outer, inner = structure.factors[0], structure.factors[1:]
        found = []
        for number, segment in enumerate(outer.segments):
            rest = [_chosen(factor, outer, number) for factor in inner]
            found += [[*product, *rest] for product in _segments(segment)]
        return found
    if isinstance(structure, Product):
        return [list(structure.factors)]
    return [[structure]]


def _chosen(structure: Structure, outer: Sum, number: int) -> Structure:
    if isinstance(structure, Choice) and len(structure.options) == len(outer.segments):
        return structure.options[number]
    return structure


def _same(size: int) -> AxisMap:
    return AxisMap(_arange(size), torch.ones(size))


def _arange(size: int) -> Tensor:
    return torch.arange(size)
