"""Axes of tensors and what they are made of: a union-find over axes that are refined while a network is read.

An axis is a leaf (nothing is known of it but its size), or it is bound to a structure of smaller axes: a product
(``view(heads, width)``), a sum (concatenation), or a choice. A choice is an axis that is another one in every segment
of some other axis of the same tensor: in queries, keys and values of shape ``[3, heads, width]`` the widths of the
queries are not those of the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True, eq=False)
class Product:
    """Row-major product of axes, the outermost first."""

    factors: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Sum:
    """Concatenation of axes."""

    segments: tuple[Axis, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """One axis per segment of a sum that lies elsewhere in the tensor."""

    segments: tuple[Axis, ...]
    options: tuple[Axis, ...]


@dataclass(eq=False)
class Axis:
    """A node of the union-find; ask :func:`find` for the one that stands for its class.

    Attributes:
        size: Number of indices.
        structure: What the axis is made of; None for a leaf.
        reason: Why nothing of it may be permuted; empty where it may.
        number: Older axes have lower ones.
        parents: Axes with which the permutation of this one may vary, where a tensor carries both.
    """

    size: int
    reason: str = ""
    structure: Product | Sum | Choice | None = None
    parents: set[Axis] = field(default_factory=set)
    same_as: Axis | None = None
    number: int = field(default_factory=count().__next__)


def find(axis: Axis) -> Axis:
    """The axis that stands for the class of this one."""
    root = axis
    while root.same_as is not None:
        root = root.same_as
    while axis.same_as is not None:
        axis.same_as, axis = root, axis.same_as
    return root


def frozen(size: int, reason: str) -> Axis:
    """A new axis that stays as it is."""
    return Axis(size, reason)


def freeze(axis: Axis, reason: str) -> None:
    """Let nothing of an axis be permuted."""
    axis = find(axis)
    if axis.reason:
        return
    axis.reason = reason
    for part in parts(axis):
        freeze(part, reason)


def parts(axis: Axis) -> tuple[Axis, ...]:
    """The axes that this one is bound to."""
    structure = find(axis).structure
    match structure:
        case Product():
            return structure.factors
        case Sum():
            return structure.segments
        case Choice():
            return structure.options
    return ()


def factors(axis: Axis) -> list[Axis]:
    """Row-major factors, none of them a product or of size 1."""
    axis = find(axis)
    if isinstance(axis.structure, Product):
        return [factor for part in axis.structure.factors for factor in factors(part)]
    return [axis] if axis.size != 1 else []


def segments(axis: Axis) -> list[Axis]:
    """The axes whose concatenation this is, none of them a sum."""
    axis = find(axis)
    if isinstance(axis.structure, Sum):
        return [segment for part in axis.structure.segments for segment in segments(part)]
    return [axis] if axis.size else []


def product(axes: Sequence[Axis]) -> Axis:
    """The row-major product of axes."""
    flat = [factor for axis in axes for factor in factors(axis)]
    if len(flat) == 1:
        return flat[0]
    if not flat:
        return Axis(math.prod(axis.size for axis in axes))
    for number, factor in enumerate(flat):
        inherit(factor, flat[:number])
    return _structured(Product(tuple(flat)), math.prod(axis.size for axis in flat))


def concatenation(axes: Sequence[Axis]) -> Axis:
    """The sum of axes."""
    flat: list[Axis] = []
    for axis in axes:
        flat += [Axis(1) if part.size == 1 and part in flat else part for part in segments(axis)]
    return flat[0] if len(flat) == 1 else _structured(Sum(tuple(flat)), sum(axis.size for axis in flat))


def _structured(structure: Product | Sum | Choice, size: int) -> Axis:
    axis = Axis(size, structure=structure)
    reasons = [find(part).reason for part in parts(axis)]
    if reasons and all(reasons):
        axis.reason = reasons[0]
    return axis


def inherit(axis: Axis, parents: Iterable[Axis]) -> None:
    """Let an axis, and what it is made of, vary with other axes, too."""
    axis = find(axis)
    axis.parents.update(parents)
    for part in parts(axis):
        inherit(part, parents)


def divide(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Divide an axis into row-major factors.

    Args:
        axis: The axis; a leaf of it may be bound to the factors.
        sizes: The factors' sizes, outermost first.

    Returns:
        The factors, or None where what is known of the axis does not let it be divided like that.
    """
    if math.prod(sizes) != axis.size:
        return None
    remaining, result = factors(axis)[::-1], []
    for size in sizes:
        taken: list[Axis] = []
        missing = size
        while missing > 1:
            if not remaining:
                return None
            part = remaining.pop()
            if missing % part.size == 0:
                taken.append(part)
                missing //= part.size
                continue
            pair = _divide_part(part, missing) if part.size % missing == 0 else None
            if pair is None:
                return None
            taken += factors(pair[0])
            remaining += factors(pair[1])[::-1]
            missing = 1
        result.append(product(taken) if taken else Axis(size))
    return result


def _divide_part(axis: Axis, outer: int) -> tuple[Axis, Axis] | None:
    """Divide an axis that is no product in two."""
    axis = find(axis)
    inner = axis.size // outer
    structure = axis.structure
    if structure is None:
        first = Axis(outer, axis.reason, parents=set(axis.parents))
        second = Axis(inner, axis.reason, parents={*axis.parents, first})
    elif isinstance(structure, Sum):
        if any(segment.size % inner for segment in structure.segments):
            return None
        halves = [divide(segment, [segment.size // inner, inner]) for segment in structure.segments]
        pairs = [half for half in halves if half is not None]
        if len(pairs) < len(halves):
            return None
        first = _structured(Sum(tuple(_own(pair[0]) for pair in pairs)), outer)
        assert isinstance(first.structure, Sum)
        second = choice(first.structure.segments, [pair[1] for pair in pairs])
        for segment, (old, inside) in zip(first.structure.segments, pairs, strict=True):
            if segment is not old:
                inherit(inside, (segment,))
    else:
        assert isinstance(structure, Choice)
        halves = [divide(option, [outer, inner]) for option in structure.options]
        pairs = [half for half in halves if half is not None]
        if len(pairs) < len(halves):
            return None
        first, second = (choice(structure.segments, [pair[i] for pair in pairs]) for i in (0, 1))
    axis.structure = Product((first, second))
    return first, second


def _own(axis: Axis) -> Axis:
    """An axis that is told apart from all others, though of size 1."""
    return Axis(1) if axis.size == 1 else axis


def choice(where: Sequence[Axis], options: Sequence[Axis]) -> Axis:
    """The axis that is another one in every segment of a sum."""
    if all(find(option) is find(options[0]) for option in options):
        return options[0]
    return _structured(Choice(tuple(where), tuple(options)), options[0].size)


def cut(axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Cut an axis into segments; like :func:`divide`, along a sum."""
    axis = find(axis)
    if sum(sizes) != axis.size:
        return None
    sizes = [size for size in sizes if size]
    if len(sizes) == 1:
        return [axis]
    structure = axis.structure
    if structure is None:
        pieces = [Axis(size, axis.reason, parents=set(axis.parents)) for size in sizes]
        axis.structure = Sum(tuple(pieces))
        return pieces
    if isinstance(structure, Choice):
        cuts = [cut(option, sizes) for option in structure.options]
        known = [pieces for pieces in cuts if pieces is not None]
        if len(known) < len(cuts):
            return None
        pieces = [choice(structure.segments, [row[i] for row in known]) for i in range(len(sizes))]
        axis.structure = Sum(tuple(pieces))
        return pieces
    if isinstance(structure, Product):
        outer, *rest = factors(axis)
        inner = axis.size // outer.size
        if any(size % inner for size in sizes):
            return None
        wholes = cut(outer, [size // inner for size in sizes])
        if wholes is None:
            return None
        return [product([whole, *(restrict(factor, outer, whole) for factor in rest)]) for whole in wholes]
    remaining, result = segments(axis)[::-1], []
    for size in sizes:
        taken: list[Axis] = []
        missing = size
        while missing:
            part = remaining.pop()
            if part.size > missing:
                pair = cut(part, [missing, part.size - missing])
                if pair is None:
                    return None
                remaining.append(pair[1])
                part = pair[0]
            taken.append(part)
            missing -= part.size
        result.append(concatenation(taken))
    return result


def restrict(axis: Axis, whole: Axis, piece: Axis) -> Axis:
    """What is left of an axis where another axis of the same tensor is cut to a piece.

    Leaves that may vary with the axis that is cut become choices, and the choice is made where the piece tells.
    """
    axis = find(axis)
    if axis.reason or axis.size == 1:
        return axis
    structure = axis.structure
    if structure is None:
        parent = next((parent for parent in axis.parents if _cut_with(parent, whole)), None)
        if parent is None:
            return axis
        places = segments(parent)
        others = {other for other in axis.parents if segments(other) != places}
        options = tuple(Axis(axis.size, parents={place, *others}) for place in places)
        axis.structure = Choice(tuple(places), options)
        for other in map(find, others):  # as the heads, whose channels are looked at after them
            chosen = other.structure
            if isinstance(chosen, Choice) and list(map(find, chosen.segments)) == places:
                for option, head in zip(options, chosen.options, strict=True):
                    option.parents.add(head)
        return restrict(axis, whole, piece)
    if isinstance(structure, Choice):
        wanted = {id(segment) for segment in segments(piece)}
        kept = [
            (segment, restrict(option, whole, piece))
            for segment, option in zip(structure.segments, structure.options, strict=True)
            if any(id(part) in wanted for part in segments(segment))
        ]
        if not kept:  # chosen by an axis that is not the one that is cut
            others_left = [restrict(option, whole, piece) for option in structure.options]
            if all(find(a) is find(b) for a, b in zip(others_left, structure.options, strict=True)):
                return axis
            return choice(structure.segments, others_left)
        return choice([segment for segment, _ in kept], [option for _, option in kept])
    left = [restrict(part, whole, piece) for part in parts(axis)]
    if all(find(a) is find(b) for a, b in zip(left, parts(axis), strict=True)):
        return axis
    return product(left) if isinstance(structure, Product) else concatenation(left)


def _cut_with(parent: Axis, whole: Axis) -> bool:
    """Whether a parent consists of segments of an axis."""
    own = segments(parent)
    wholes = segments(whole)
    return len(own) > 1 and all(segment in wholes for segment in own)
