"""Lets two axes be the same: part by part where they have parts that fit, else both stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypergen.symmetry.axes import (
    Axis,
    Choice,
    Product,
    Sum,
    cut,
    divide,
    factors,
    find,
    freeze,
    inherit,
    segments,
)

_Split = Callable[[Axis, Sequence[int]], list[Axis] | None]


def unify(one: Axis, other: Axis) -> None:
    """Let two axes be permuted in one and the same way only."""
    one, other = find(one), find(other)
    if one is other or one.size == other.size == 1:
        return
    if one.size != other.size:
        raise ValueError(f"axes of sizes {one.size} and {other.size} cannot be the same")
    if one.reason or other.reason:
        freeze(one, other.reason)
        freeze(other, one.reason)
    if one.structure is None and not _within(one, other):
        _merge(one, other)
    elif other.structure is None and not _within(other, one):
        _merge(other, one)
    elif not _match(one, other):
        reason = "two operations need it divided in ways that do not nest"
        freeze(one, reason)
        freeze(other, reason)


def _merge(one: Axis, other: Axis) -> None:
    """Let one leaf stand for another axis."""
    one.same_as = other
    if not other.reason:
        inherit(other, one.parents)


def _within(axis: Axis, other: Axis) -> bool:
    """Whether an axis is an option of another one of the same size."""
    other = find(other)
    if axis is other:
        return True
    return isinstance(other.structure, Choice) and any(_within(axis, option) for option in other.structure.options)


def _match(one: Axis, other: Axis) -> bool:
    """Unify two axes part by part; False where their parts do not fit."""
    first, second = one.structure, other.structure
    if isinstance(first, Choice) or isinstance(second, Choice):
        return _match_choice(one, other) if isinstance(first, Choice) else _match_choice(other, one)
    if isinstance(first, Product) or isinstance(second, Product):
        return _match_parts(factors(one), factors(other), divide)
    return _match_parts(segments(one), segments(other), cut)


def _match_choice(one: Axis, other: Axis) -> bool:
    first, second = one.structure, other.structure
    assert isinstance(first, Choice)
    if isinstance(second, Choice):
        if len(first.segments) == len(second.segments) and all(
            find(a) is find(b) for a, b in zip(first.segments, second.segments, strict=True)
        ):
            for a, b in zip(first.options, second.options, strict=True):
                unify(a, b)
            return True
        collapse(one)
        collapse(other)
        unify(first.options[0], second.options[0])
        return True
    if isinstance(second, Product):
        return _match_parts(divide(one, [f.size for f in factors(other)]), factors(other), divide)
    if isinstance(second, Sum):
        return _match_parts(cut(one, [s.size for s in segments(other)]), segments(other), cut)
    collapse(one)  # a leaf that is one of the options
    return True


def collapse(axis: Axis) -> None:
    """Let all options of a choice be the same."""
    structure = find(axis).structure
    assert isinstance(structure, Choice)
    for option in structure.options[1:]:
        unify(structure.options[0], option)


def _match_parts(ones: list[Axis] | None, others: list[Axis] | None, split: _Split) -> bool:
    if ones is None or others is None:
        return False
    ones, others = ones[::-1], others[::-1]
    while ones and others:
        one, other = ones.pop(), others.pop()
        if one.size == other.size:
            if one.size == 1:
                one, other = find(one), find(other)
                if one is not other:
                    one.same_as = other
            else:
                unify(one, other)
            continue
        swapped = one.size < other.size
        large, small = (other, one) if swapped else (one, other)
        pieces = _pieces(large, small.size, split)
        if pieces is None:
            return False
        unify(pieces[0], small)
        (others if swapped else ones).append(pieces[1])
    return True


def _pieces(large: Axis, size: int, split: _Split) -> list[Axis] | None:
    if split is cut:
        return cut(large, [size, large.size - size])
    return divide(large, [size, large.size // size]) if large.size % size == 0 else None
