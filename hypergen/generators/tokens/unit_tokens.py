"""Weights as a token per hidden unit: all that goes into the unit and all that comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hypergen.errors import ParameterError
from hypergen.symmetry.align.stacked import PermutationGroup


@dataclass(frozen=True)
class _Slice:
    """One tensor of a block: its axis that runs over the block's tokens, and whether it is written from here."""

    name: str
    axis: int | None
    written: bool


@dataclass(frozen=True)
class UnitTokens:
    """Cuts the tensors of a layout into blocks of tokens of one size.

    A permutation group is a block, with a token per unit: its slices of all tensors that the group permutes. So
    permuting hidden units permutes tokens. Tensors in no group are blocks of their own, with a token per row.

    A matrix between two groups is read by both. It is written by the group of its earliest axis, its rows.

    Attributes:
        shapes: Shape by name, in order.
        groups: The permutation groups.
    """

    shapes: Mapping[str, tuple[int, ...]]
    groups: Sequence[PermutationGroup] = ()

    def __post_init__(self) -> None:
        if not self.shapes:
            raise ParameterError("A layout without tensors has no tokens. Pass the shapes of its parameters.")
        object.__setattr__(self, "shapes", {name: tuple(shape) for name, shape in self.shapes.items()})
        groups = tuple(tuple((str(name), int(axis)) for name, axis in group) for group in self.groups)
        for group in groups:
            sizes = {
                name: self.shapes[name][axis] if name in self.shapes and axis < len(self.shapes[name]) else None
                for name, axis in group
            }
            if len(set(sizes.values())) != 1 or None in sizes.values():
                raise ParameterError(f"The axes of a permutation group must exist and be equally long; got {sizes}.")
        object.__setattr__(self, "groups", groups)

    @cached_property
    def blocks(self) -> tuple[tuple[_Slice, ...], ...]:
        """The tensors of each block."""
        writer: dict[str, tuple[int, int]] = {}  # (axis, group)
        for number, group in enumerate(self.groups):
            for name, axis in group:
                writer[name] = min(writer.get(name, (axis, number)), (axis, number))
        blocks = [
            tuple(_Slice(name, axis, writer[name] == (axis, number)) for name, axis in group)
            for number, group in enumerate(self.groups)
        ]
        for name, shape in self.shapes.items():
            if name not in writer:
                blocks.append((_Slice(name, 0 if len(shape) > 1 else None, True),))
        return tuple(blocks)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Tokens of each block, and values in each of them."""
        sizes = []
        for block in self.blocks:
            tokens = [1 if part.axis is None else self.shapes[part.name][part.axis] for part in block]
            values = sum(math.prod(self.shapes[part.name]) // count for part, count in zip(block, tokens, strict=True))
            sizes.append((tokens[0], values))
        return tuple(sizes)

    def encode(self, stacked: Mapping[str, Tensor]) -> list[Tensor]:
        """Cut networks into tokens.

        Args:
            stacked: ``[networks, *shape]`` by name.

        Returns:
            For each block, ``[networks, tokens, values]``.

        Raises:
            ParameterError: Names or shapes are not those of the layout.
        """
        given = {name: tuple(value.shape[1:]) for name, value in stacked.items()}
        if given != dict(self.shapes):
            wrong = [name for name in {**self.shapes, **given} if given.get(name) != self.shapes.get(name)]
            raise ParameterError(
                f"The networks are not of this layout: {wrong[0]!r} is {given.get(wrong[0])}, expected "
                f"{self.shapes.get(wrong[0])}."
            )
        return [torch.cat([_rows(stacked[part.name], part.axis) for part in block], 2) for block in self.blocks]

    def decode(self, tokens: Sequence[Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`encode`, bitwise; values that another block writes are left aside. Differentiable.

        Args:
            tokens: For each block, ``[networks, tokens, values]``.

        Returns:
            ``[networks, *shape]`` by name.
        """
        found: dict[str, Tensor] = {}
        for block, value in zip(self.blocks, tokens, strict=True):
            start = 0
            for part in block:
                shape = self.shapes[part.name]
                if part.axis is None:
                    count, rest = 1, shape
                else:
                    count, rest = shape[part.axis], (*shape[: part.axis], *shape[part.axis + 1 :])
                stop = start + math.prod(rest)
                if part.written:
                    rows = value[:, :, start:stop].reshape(len(value), count, *rest)
                    found[part.name] = rows[:, 0] if part.axis is None else rows.movedim(1, part.axis + 1)
                start = stop
        return {name: found[name] for name in self.shapes}


def permute_units(
    stacked: Mapping[str, Tensor], groups: Sequence[PermutationGroup], random: torch.Generator
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Permute the hidden units of each network at random; what networks compute stays the same.

    Returns:
        The networks, and for each group the orders ``[networks, units]``.
    """
    count = len(next(iter(stacked.values())))
    orders = []
    for group in groups:
        units = stacked[group[0][0]].shape[group[0][1] + 1]
        orders.append(torch.rand(count, units, generator=random).argsort(1))
    return apply_orders(stacked, groups, orders), orders


def apply_orders(
    stacked: Mapping[str, Tensor], groups: Sequence[PermutationGroup], orders: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Put the units of every group in an order, ``[networks, units]`` each."""
    moved = dict(stacked)
    for group, order in zip(groups, orders, strict=True):
        rows = torch.arange(len(order))[:, None]
        for name, axis in group:
            moved[name] = moved[name].movedim(axis + 1, 1)[rows, order].movedim(1, axis + 1)
    return moved


def _rows(value: Tensor, axis: int | None) -> Tensor:
    """``[networks, tokens, values]``."""
    if axis is None:
        return value.reshape(len(value), 1, -1)
    return value.movedim(axis + 1, 1).reshape(len(value), value.shape[axis + 1], -1)
