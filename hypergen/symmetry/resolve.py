"""From axes that were unified to groups: which choices stand, and what may vary with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypergen.symmetry.axes import Axis, factors, find, freeze, segments
from hypergen.symmetry.axes import Choice as AxisChoice
from hypergen.symmetry.axes import Sum as AxisSum
from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum
from hypergen.symmetry.unify import collapse

# The factors of the products that enclose a place, the innermost last.
_Levels = list[list[Axis]]


def resolve(
    carriers: Sequence[Sequence[Axis]], named: dict[str, list[Axis]], others: Mapping[Any, Sequence[Axis]] | None = None
) -> tuple[dict[str, tuple[Structure, ...]], dict[Any, tuple[Structure, ...]]]:
    """The structures of tensors.

    Args:
        carriers: Sets of axes of which any that varies with another must find it in the same set, once.
        named: The tensors to describe. What they are made of is changed: choices that no tensor can make are undone.
        others: More of them, after which no group is named.

    Returns:
        Name → a structure per axis; and the same of the others.
    """
    while _collapse_choices(carriers):
        pass
    allowed = _allowed_parents(carriers)
    names: dict[Axis, str] = {}
    for name, axes in named.items():
        for dim, axis in enumerate(axes):
            for leaf in _leaves(axis):
                names.setdefault(leaf, f"{name}[{dim}]")
    taken: dict[str, int] = {}
    groups: dict[Axis, Group] = {}

    def group(leaf: Axis) -> Group:
        if leaf not in groups:
            name = names.get(leaf, "unnamed")
            number = taken[name] = taken.get(name, 0) + 1
            fixed = leaf.reason or ("a single index" if leaf.size == 1 else "")
            parents = [] if fixed else sorted(allowed.get(leaf, ()), key=lambda parent: parent.number)
            groups[leaf] = Group(name if number == 1 else f"{name}.{number}", leaf.size, (), fixed)
            groups[leaf].parents = tuple(group(parent) for parent in parents)
        return groups[leaf]

    known: dict[Axis, Structure] = {}
    described = {name: tuple(_structure(axis, group, known) for axis in axes) for name, axes in named.items()}
    more = {key: tuple(_structure(axis, group, known) for axis in axes) for key, axes in (others or {}).items()}
    return described, more


def _structure(axis: Axis, group: Callable[[Axis], Group], known: dict[Axis, Structure]) -> Structure:
    axis = find(axis)
    if axis not in known:
        own = _factors(axis)
        if len(own) > 1:
            known[axis] = Product(tuple([_structure(factor, group, known) for factor in own]))
        elif own and own[0] is not axis:
            known[axis] = _structure(own[0], group, known)
        elif isinstance(axis.structure, AxisSum):
            parts = [_structure(part, group, known) for part in segments(axis)]
            known[axis] = Sum(tuple(parts)) if len(parts) > 1 else parts[0]
        elif isinstance(axis.structure, AxisChoice):
            where = [_structure(part, group, known) for part in axis.structure.segments]
            options = [_structure(option, group, known) for option in axis.structure.options]
            known[axis] = Choice(tuple(where), tuple(options))
        else:
            known[axis] = group(axis)
    return known[axis]


def _leaves(axis: Axis) -> list[Axis]:
    axis = find(axis)
    own = factors(axis)
    if len(own) != 1 or own[0] is not axis:
        return [leaf for factor in own for leaf in _leaves(factor)]
    if axis.structure is None:
        return [axis]
    parts = axis.structure.segments if isinstance(axis.structure, AxisSum) else axis.structure.options  # type: ignore[union-attr]
    return [leaf for part in parts for leaf in _leaves(part)]


def _collapse_choices(carriers: Sequence[Sequence[Axis]]) -> bool:
    changed = False
    for axes in _distinct(carriers):
        tops = [_factors(axis) for axis in axes]
        for dim, top in enumerate(tops):
            others = [factor for other, rest in enumerate(tops) if other != dim for factor in rest]
            for factor in top:
                changed |= _collapse_in(factor, [others, top])
    return changed


def _collapse_in(axis: Axis, levels: _Levels) -> bool:
    structure = find(axis).structure
    if isinstance(structure, AxisSum):
        changed = False
        for part in segments(axis):
            level = _factors(part)
            for factor in level:
                changed |= factor is not axis and _collapse_in(factor, [*levels, level])
        return changed
    if not isinstance(structure, AxisChoice):
        return False
    if all(_same(option, structure.options[0]) for option in structure.options):
        return False
    if not _present(structure, levels):
        collapse(axis)
        if not all(_same(option, structure.options[0]) for option in structure.options):
            freeze(axis, "choices that do not fit")
        return True
    changed = False
    for number, option in enumerate(structure.options):
        for factor in _factors(option):
            changed |= _collapse_in(factor, [*_chosen(levels, structure, number), _factors(option)])
    return changed


def _chosen(levels: _Levels, choice: AxisChoice, number: int) -> _Levels:
    """What encloses an option: choices that follow the same segments have been made, too."""
    chosen = []
    for level in levels:
        own: list[Axis] = []
        for axis in level:
            other = axis.structure
            same = isinstance(other, AxisChoice) and list(map(find, other.segments)) == list(map(find, choice.segments))
            own += _factors(other.options[number]) if same and isinstance(other, AxisChoice) else [axis]
        chosen.append(own)
    return [*chosen, _factors(choice.segments[number])]


def _factors(axis: Axis) -> list[Axis]:
    """The factors of an axis, with choices that are none replaced by their option."""
    result = []
    for factor in factors(axis):
        structure = factor.structure
        if isinstance(structure, AxisChoice) and all(_same(o, structure.options[0]) for o in structure.options):
            result += _factors(structure.options[0])
        else:
            result.append(factor)
    return result


def _same(one: Axis, other: Axis) -> bool:
    """Whether two axes are the same part by part, though perhaps not one class."""
    one, other = find(one), find(other)
    if one is other or (one.reason and other.reason and one.size == other.size):
        return True
    first, second = _factors(one), _factors(other)
    if first != [one] or second != [other]:
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(one.structure, AxisSum) and isinstance(other.structure, AxisSum):
        first, second = segments(one), segments(other)
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(one.structure, AxisChoice) and isinstance(other.structure, AxisChoice):
        alike = list(map(find, one.structure.segments)) == list(map(find, other.structure.segments))
        return alike and all(map(_same, one.structure.options, other.structure.options))
    return False


def _present(wanted: Axis | AxisChoice, levels: _Levels) -> bool:
    """Whether the innermost product that has it has it once."""
    for level in reversed(levels):
        found = sum(_is(axis, wanted) for axis in level)
        if found:
            return found == 1
    return False


def _is(axis: Axis, wanted: Axis | AxisChoice) -> bool:
    if isinstance(wanted, Axis):
        return axis is wanted
    if not isinstance(axis.structure, AxisSum):
        return False
    own = [id(segment) for segment in segments(axis)]
    return own == [id(part) for segment in wanted.segments for part in segments(segment)]


def _allowed_parents(carriers: Sequence[Sequence[Axis]]) -> dict[Axis, set[Axis]]:
    """The parents with which each leaf may vary in every tensor that carries it."""
    allowed: dict[Axis, set[Axis]] = {}

    def visit(axis: Axis, levels: _Levels) -> None:
        if axis.reason:
            return
        structure = axis.structure
        if structure is None:
            if axis not in allowed:
                candidates = {leaf for parent in axis.parents for leaf in _factors(parent)}
                allowed[axis] = {leaf for leaf in candidates if leaf.structure is None and leaf is not axis}
            if allowed[axis]:
                allowed[axis] = {parent for parent in allowed[axis] if _present(parent, levels)}
            return
        if isinstance(structure, AxisSum):
            for part in segments(axis):
                level = _factors(part)
                for factor in level:
                    visit(factor, [*levels, level])
        elif isinstance(structure, AxisChoice):
            for number, option in enumerate(structure.options):
                level = _factors(option)
                for factor in level:
                    visit(factor, [*_chosen(levels, structure, number), level])

    for axes in _distinct(carriers):
        tops = [_factors(axis) for axis in axes]
        for dim, top in enumerate(tops):
            others = [factor for other, rest in enumerate(tops) if other != dim for factor in rest]
            for factor in top:
                visit(factor, [others, top])
    return _closed(allowed)


def _closed(allowed: dict[Axis, set[Axis]]) -> dict[Axis, set[Axis]]:
    """Parents without cycles, and with every parent its own parents: else elements would not compose."""

    def reaches(start: Axis, goal: Axis, seen: set[Axis]) -> bool:
        if start is goal:
            return True
        seen.add(start)
        return any(reaches(p, goal, seen) for p in allowed.get(start, ()) if p not in seen)

    changed = True
    while changed:
        changed = False
        for leaf, parents in sorted(allowed.items(), key=lambda item: item[0].number):
            for parent in sorted(parents, key=lambda axis: axis.number):
                if not allowed.get(parent, set()) <= parents or reaches(parent, leaf, set()):
                    parents.discard(parent)
                    changed = True
    return allowed


def _distinct(carriers: Sequence[Sequence[Axis]]) -> list[list[Axis]]:
    """Each set of axes once, as they stand now."""
    found = {}
    for axes in carriers:
        roots = [find(axis) for axis in axes if axis.size != 1]
        found[tuple(map(id, roots))] = roots
    return list(found.values())
