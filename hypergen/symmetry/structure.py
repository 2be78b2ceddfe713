"""What the axes of parameters are made of, as users see it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Group:
    """A set of indices that is permuted as one, or stays as it is.

    Attributes:
        name: The first parameter axis that shows it, as ``layer1.0.conv1.weight[0]``.
        size: Number of indices.
        parents: With every index of these it is permuted in another way: the channels within a head vary with the head.
        fixed: Why it stays as it is; empty for one that is permuted.
    """

    name: str
    size: int
    parents: tuple[Group, ...] = ()
    fixed: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an element's permutations: one per index of each parent."""
        return (*(parent.size for parent in self.parents), self.size)

    def __repr__(self) -> str:
        return f"{self.size}" if self.fixed else f"{self.name}:{self.size}"


@dataclass(frozen=True, eq=False)
class Product:
    """Row-major product, the outermost factor first, as of heads and the channels within a head."""

    factors: tuple[Structure, ...]

    @property
    def size(self) -> int:
        """Number of indices."""
        return math.prod(factor.size for factor in self.factors)

    def __repr__(self) -> str:
        return " × ".join(f"({factor})" if isinstance(factor, Sum) else str(factor) for factor in self.factors)


@dataclass(frozen=True, eq=False)
class Sum:
    """Concatenation."""

    segments: tuple[Structure, ...]

    @property
    def size(self) -> int:
        """Number of indices."""
        return sum(segment.size for segment in self.segments)

    def __repr__(self) -> str:
        return " + ".join(map(str, self.segments))


@dataclass(frozen=True, eq=False)
class Choice:
    """Another structure in every segment of a sum that lies elsewhere in the same tensor."""

    segments: tuple[Structure, ...]
    options: tuple[Structure, ...]

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.options[0].size

    def __repr__(self) -> str:
        return f"[{' | '.join(map(str, self.options))}]"


Structure = Group | Product | Sum | Choice
# The factors that enclose a place, the innermost product last, each with the index at which it is read.
Level = Sequence[tuple[Structure, Tensor]]


def leaves(structure: Structure) -> Iterator[Group]:
    """The groups in a structure."""
    match structure:
        case Group():
            yield structure
        case Product():
            for part in structure.factors:
                yield from leaves(part)
        case Sum():
            for part in structure.segments:
                yield from leaves(part)
        case Choice():
            for part in structure.options:
                yield from leaves(part)


def index(axes: Sequence[Structure], permutations: Mapping[str, Tensor]) -> list[Tensor]:
    """Where the elements of a permuted tensor come from.

    Args:
        axes: The axes of the tensor.
        permutations: By the name of a group, ``[*parents, size]``, int64.

    Returns:
        An index per axis, broadcastable over the shape of the tensor: ``permuted = tensor[*index]``.
    """
    places = []
    for dim, axis in enumerate(axes):
        shape = [1] * len(axes)
        shape[dim] = axis.size
        places.append(torch.arange(axis.size).reshape(shape))
    tops = [level_of(axis, place) for axis, place in zip(axes, places, strict=True)]
    result = []
    for dim in range(len(axes)):
        others = [pair for other, top in enumerate(tops) if other != dim for pair in top]
        result.append(_combined(tops[dim], [others, tops[dim]], permutations))
    return result


def level_of(structure: Structure, place: Tensor) -> Level:
    """The factors of a structure, each with its own index."""
    parts = structure.factors if isinstance(structure, Product) else (structure,)
    level, inner = [], structure.size
    for part in parts:
        inner //= part.size
        level.append((part, place if len(parts) == 1 else place // inner % part.size))
    return level


def _combined(level: Level, levels: list[Level], permutations: Mapping[str, Tensor]) -> Tensor:
    """The index of a product from those of its factors."""
    total = None
    for part, place in level:
        own = _permuted(part, place, levels, permutations)
        total = own if total is None else total * part.size + own
    assert total is not None
    return total


def _permuted(structure: Structure, place: Tensor, levels: list[Level], permutations: Mapping[str, Tensor]) -> Tensor:
    if isinstance(structure, Group):
        if structure.fixed or structure.size == 1:
            return place
        own = permutations[structure.name]
        return own[(*(find_place(parent, levels) for parent in structure.parents), place)]
    if isinstance(structure, Product):
        level = level_of(structure, place)
        return _combined(level, [*levels, level], permutations)
    if isinstance(structure, Choice):
        where = find_place(structure, levels)
        result = place
        for number, (inside, local, _) in enumerate(in_segments(structure.segments, where)):
            enclosing = [*chosen_levels(levels, structure, number), local]
            chosen = _permuted(structure.options[number], place, enclosing, permutations)
            result = torch.where(inside, chosen, result)
        return result
    result = place
    for inside, local, start in in_segments(structure.segments, place):
        own = _combined(local, [*levels, local], permutations)
        result = torch.where(inside, start + own, result)
    return result


def in_segments(segments: Sequence[Structure], place: Tensor) -> Iterator[tuple[Tensor, Level, int]]:
    """For every segment: whether a place is inside, the places inside, and where the segment starts."""
    start = 0
    for segment in segments:
        inside = (place >= start) & (place < start + segment.size)
        yield inside, level_of(segment, (place - start).clamp(0, segment.size - 1)), start
        start += segment.size


def chosen_levels(levels: list[Level], choice: Choice, number: int) -> list[Level]:
    """What encloses an option: choices that follow the same segments have been made, too."""
    chosen: list[Level] = []
    for level in levels:
        own: list[tuple[Structure, Tensor]] = []
        for structure, place in level:
            if isinstance(structure, Choice) and structure.segments == choice.segments:
                own += level_of(structure.options[number], place)
            else:
                own.append((structure, place))
        chosen.append(own)
    return chosen


def find_place(wanted: Group | Choice, levels: list[Level]) -> Tensor:
    """The index of a parent, or of the sum that a choice follows, in the innermost product that has it.

    Raises:
        LookupError: No product that encloses the place has it, or one has it twice.
    """
    for level in reversed(levels):
        found = [place for structure, place in level if _is(structure, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise LookupError(f"{wanted} does not lie once in the same tensor")


def _is(structure: Structure, wanted: Group | Choice) -> bool:
    if isinstance(wanted, Group):
        return structure is wanted
    return isinstance(structure, Sum) and _flat(structure.segments) == _flat(wanted.segments)


def _flat(segments: Sequence[Structure]) -> list[int]:
    ids: list[int] = []
    for segment in segments:
        ids += _flat(segment.segments) if isinstance(segment, Sum) else [id(segment)]
    return ids
