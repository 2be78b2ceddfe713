"""Which indices of which groups lie at each place of a tensor's axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypergen.symmetry.structure import (
    Choice,
    Group,
    Level,
    Product,
    Structure,
    Sum,
    chosen_levels,
    find_place,
    in_segments,
    level_of,
)

INPUT, OUTPUT = "an input of the network", "an output of the network"


class Occurrence(NamedTuple):
    """A group along an axis.

    Attributes:
        group: The group.
        slot: How many other groups lie at the same places before it: heads have 0, the channels within them 1.
        inside: Where along the axis it lies, broadcastable over the tensor; None for everywhere.
        at: The index in ``group.shape``, flattened, at every place, broadcastable over the tensor.
    """

    group: Group
    slot: int
    inside: Tensor | None
    at: Tensor


class Incidence(NamedTuple):
    """What lies along the axes of a tensor.

    Attributes:
        shape: The tensor's shape; axes that are products are divided where another axis varies with a factor.
        axes: For each axis of that shape, the groups along it.
        segments: For each axis of that shape, the number of the segment of a concatenation at every place, ``[size]``;
            None where there is only one, or it varies with another axis.
    """

    shape: tuple[int, ...]
    axes: tuple[tuple[Occurrence, ...], ...]
    segments: tuple[Tensor | None, ...]


def incidence(axes: Sequence[Structure]) -> Incidence:
    """What lies along the axes of a tensor."""
    whole = _incidence(axes, [False] * len(axes))
    across = any(
        occurrence.at.shape[other] > 1
        for dim, occurrences in enumerate(whole.axes)
        for occurrence in occurrences
        for other in range(len(axes))
        if other != dim
    )
    products = [isinstance(axis, Product) for axis in axes]
    return _incidence(axes, products) if across and any(products) else whole


def _incidence(axes: Sequence[Structure], divided: Sequence[bool]) -> Incidence:
    parts: list[tuple[Structure, ...]] = [
        axis.factors if isinstance(axis, Product) and split else (axis,)
        for axis, split in zip(axes, divided, strict=True)
    ]
    shape = tuple(part.size for own in parts for part in own)
    places, dim = [], 0
    for own in parts:
        for part in own:
            view = [1] * len(shape)
            view[dim] = part.size
            places.append(torch.arange(part.size).reshape(view))
            dim += 1
    tops: list[Level] = []
    dim = 0
    for own in parts:
        if len(own) > 1:
            tops.append([(part, places[dim + i]) for i, part in enumerate(own)])
        else:
            tops.append(level_of(own[0], places[dim]))
        dim += len(own)
    found: list[tuple[Occurrence, ...]] = []
    segments: list[Tensor | None] = []
    for number, (own, top) in enumerate(zip(parts, tops, strict=True)):
        others = [pair for other, pairs in enumerate(tops) if other != number for pair in pairs]
        levels: list[Level] = [others, top]
        for pairs in [[pair] for pair in top] if len(own) > 1 else [top]:
            walk = _Walk()
            slot = 0
            for structure, place in pairs:
                slot = walk.visit(structure, place, levels, None, slot)
            found.append(tuple(walk.found))
            segment = walk.segment
            alone = segment is not None and sum(size > 1 for size in segment.shape) == 1
            segments.append(segment.flatten() if segment is not None and alone else None)
    return Incidence(shape, tuple(found), tuple(segments))


class _Walk:
    """Collects the groups along one axis."""

    def __init__(self) -> None:
        self.found: list[Occurrence] = []
        self.segment: Tensor | None = None

    def visit(self, structure: Structure, place: Tensor, levels: list[Level], inside: Tensor | None, slot: int) -> int:
        """Note the groups of a structure; returns the first slot that is free."""
        if isinstance(structure, Group):
            if structure.size == 1 and structure.fixed not in ("", INPUT, OUTPUT):
                return slot
            index = torch.zeros((), dtype=torch.int64)
            for parent in structure.parents:
                index = index * parent.size + find_place(parent, levels)
            self.found.append(Occurrence(structure, slot, inside, index * structure.size + place))
            return slot + 1
        if isinstance(structure, Product):
            level = level_of(structure, place)
            for part, own in level:
                slot = self.visit(part, own, [*levels, level], inside, slot)
            return slot
        last = slot
        if isinstance(structure, Choice):
            where = find_place(structure, levels)
            for number, (there, local, _) in enumerate(in_segments(structure.segments, where)):
                enclosing = [*chosen_levels(levels, structure, number), local]
                option = structure.options[number]
                last = max(last, self.visit(option, place, enclosing, _both(inside, there), slot))
            return last
        assert isinstance(structure, Sum)
        for number, (there, local, _) in enumerate(in_segments(structure.segments, place)):
            position = torch.where(_both(inside, there), number, 0)
            self.segment = position if self.segment is None else self.segment + position
            free = slot
            for part, own in local:
                free = self.visit(part, own, [*levels, local], _both(inside, there), free)
            last = max(last, free)
        return last


def _both(one: Tensor | None, other: Tensor) -> Tensor:
    return other if one is None else one & other
