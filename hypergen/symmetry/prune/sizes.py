"""How large axes are once units are gone, and which groups have to keep equally many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum, leaves


def size_of(structure: Structure, counts: Mapping[str, int]) -> int:
    """The size of an axis when so many units of some groups are left; -1 where parts of it would differ in size."""
    match structure:
        case Group():
            return structure.size if structure.fixed else counts.get(structure.name, structure.size)
        case Product():
            result = 1
            for factor in structure.factors:
                result *= size_of(factor, counts)
            return result
        case Sum():
            return sum(size_of(segment, counts) for segment in structure.segments)
        case Choice():
            sizes = {size_of(option, counts) for option in structure.options}
            return sizes.pop() if len(sizes) == 1 else -1


def changes(structure: Structure, counts: Mapping[str, int]) -> bool:
    """Whether anything of an axis goes."""
    return any(counts.get(group.name, group.size) != group.size for group in leaves(structure) if not group.fixed)


def first_kept(structure: Structure, counts: Mapping[str, int], name: str) -> Tensor:
    """Which indices of an axis are left when only the first ones of some groups are, bool.

    Args:
        structure: What the axis is made of.
        counts: Group name → how many are left.
        name: What the axis belongs to, for the message.

    Raises:
        ParameterError: Parts of the axis would differ in size.
    """
    match structure:
        case Group():
            left = structure.size if structure.fixed else counts.get(structure.name, structure.size)
            return torch.arange(structure.size) < left
        case Product():
            result = torch.ones(1, dtype=torch.bool)
            for factor in structure.factors:
                result = torch.outer(result, first_kept(factor, counts, name)).flatten()
            return result
        case Sum():
            return torch.cat([first_kept(segment, counts, name) for segment in structure.segments])
        case Choice():
            options = [first_kept(option, counts, name) for option in structure.options]
            if any(not torch.equal(option, options[0]) for option in options):
                raise ParameterError(f"the segments of {name!r} would differ in size")
            return options[0]


class Couplings:
    """Which groups have to keep equally many units, and which have to stay whole."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.sizes = {group.name: group.size for group in groups}
        self._same: dict[str, str] = {}
        self._whole: dict[str, str] = {}  # by the name that stands for a set

    def _find(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    def keep_whole(self, structures: Iterable[Structure], reason: str) -> None:
        """Let all groups in these axes stay as they are, and those that are coupled to them."""
        for structure in structures:
            for group in leaves(structure):
                if group.name in self.sizes and not group.fixed:
                    self._whole.setdefault(self._find(group.name), reason)

    def reason(self, name: str) -> str:
        """Why a group has to stay whole; empty if it has not."""
        return self._whole.get(self._find(name), "")

    def equate(self, one: Structure, other: Structure, reason: str) -> None:
        """Let two axes have the same size whatever is taken out."""
        if one is other:
            return
        ones, others = _parts(one), _parts(other)
        if isinstance(one, Group) and isinstance(other, Group) and not one.fixed and not other.fixed:
            self._couple(one.name, other.name)
        elif type(one) is type(other) and len(ones) == len(others) > 0 and _sizes(ones) == _sizes(others):
            for first, second in zip(ones, others, strict=True):
                self.equate(first, second, reason)
        elif isinstance(one, Choice):
            for option in one.options:
                self.equate(option, other, reason)
        elif isinstance(other, Choice):
            self.equate(other, one, reason)
        else:
            self.keep_whole([one, other], reason)

    def _couple(self, one: str, other: str) -> None:
        one, other = self._find(one), self._find(other)
        if one == other:
            return
        self._same[other] = one
        if other in self._whole:
            self._whole.setdefault(one, self._whole.pop(other))

    def together(self) -> tuple[tuple[str, ...], ...]:
        """The sets of groups, each of at least one, that keep equally many units; without those that stay whole."""
        sets: dict[str, list[str]] = {}
        for name in self.sizes:
            if not self.reason(name):
                sets.setdefault(self._find(name), []).append(name)
        return tuple(tuple(names) for names in sets.values())


def _parts(structure: Structure) -> Sequence[Structure]:
    match structure:
        case Product():
            return structure.factors
        case Sum():
            return structure.segments
        case Choice():
            return structure.options
    return ()


def _sizes(structures: Sequence[Structure]) -> list[int]:
    return [structure.size for structure in structures]


def choices_in(structure: Structure) -> Iterable[Choice]:
    """The choices in a structure."""
    if isinstance(structure, Choice):
        yield structure
    for part in _parts(structure):
        yield from choices_in(part)
