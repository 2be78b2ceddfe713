"""What the places along a weight's axes stand for: a channel of the layer that made it, and a position of an image.

Read from the permutation symmetry of the network: the axes of a weight are products of channels and positions, in any
order, and concatenations of those of several layers. A channel is addressed by its index in its own group, so that a
flattening, a concatenation or a split in between does not change what it is called.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergen.graph import ComputationalGraph
from hypergen.symmetry.structure import Choice, Group, Product, Structure, Sum

SEGMENT_SHIFT = 32  # an address holds the number of the segment above these bits
SEGMENT_MASK = 2**SEGMENT_SHIFT - 1
_MAX_AXIS = 2**20


@dataclass(frozen=True)
class AxisAddresses:
    """What the places along an axis stand for.

    Attributes:
        channels: Index of the channel in its group, ``[size]``, int64.
        positions: Position on the grid, row-major, ``[size]``, int64.
        segments: Number of the segment of a concatenation, ``[size]``, int64.
        count: How many channels there are.
        grid: The sides of the grid; empty where there are no positions.
        patch: The sides of the patch of the input that the axis is made of, if it is one.
    """

    channels: Tensor
    positions: Tensor
    segments: Tensor
    count: int
    grid: tuple[int, ...] = ()
    patch: tuple[int, int] | tuple[()] = ()

    @property
    def plain(self) -> bool:
        """Whether every place stands for the channel of its own number."""
        return (
            not self.grid
            and bool((self.channels == torch.arange(len(self.channels))).all())
            and not bool(self.segments.any())
        )


def axis_addresses(graph: ComputationalGraph) -> dict[str, tuple[AxisAddresses, ...]]:
    """The addresses along the axes of every parameter; of none where the symmetry is not known."""
    if graph.calls is None:
        return {}
    inputs = [node.shape for node in graph.nodes if node.op == "input"]
    channels = inputs[0][1] if len(inputs) == 1 and len(inputs[0]) == 4 else 0
    cache: dict[int, AxisAddresses] = {}
    result = {}
    for name, axes in graph.symmetry().axes.items():
        if name not in graph.parameter_shapes or any(axis.size > _MAX_AXIS for axis in axes):
            continue
        found = []
        for axis in axes:
            if id(axis) not in cache:
                cache[id(axis)] = _addresses(axis, channels)
            found.append(cache[id(axis)])
        result[name] = tuple(found)
    return result


def _addresses(axis: Structure, input_channels: int) -> AxisAddresses:
    match axis:
        case Product():
            return _product(axis, input_channels)
        case Sum():
            parts = [_addresses(part, input_channels) for part in axis.segments]
            if len({part.grid for part in parts}) != 1 or any(part.segments.any() for part in parts):
                return _plain(axis.size)
            return AxisAddresses(
                torch.cat([part.channels for part in parts]),
                torch.cat([part.positions for part in parts]),
                torch.cat([torch.full((len(part.channels),), i) for i, part in enumerate(parts)]),
                sum(part.count for part in parts),
                parts[0].grid,
            )
        case Choice():
            return _addresses(axis.options[0], input_channels)
    return _plain(axis.size)


def _product(axis: Product, input_channels: int) -> AxisAddresses:
    factors = [factor for factor in _factors(axis) if factor.size > 1]
    fixed = [isinstance(factor, Group) and bool(factor.fixed) for factor in factors]
    sizes = [factor.size for factor in factors]
    if all(fixed):
        return _patch(sizes, input_channels) or _plain(axis.size)
    channels, positions, segments = (torch.zeros(1, dtype=torch.int64) for _ in range(3))
    for factor, is_position in zip(factors, fixed, strict=True):
        if is_position:
            own = AxisAddresses(
                torch.zeros(factor.size, dtype=torch.int64), torch.arange(factor.size),
                torch.zeros(factor.size, dtype=torch.int64), 1,
            )  # fmt: skip
            scale = (1, factor.size)
        elif isinstance(factor, Sum) and all(part.size == 1 for part in factor.segments):  # the parts of a split
            own = AxisAddresses(
                torch.zeros(factor.size, dtype=torch.int64), torch.zeros(factor.size, dtype=torch.int64),
                torch.arange(factor.size), 1,
            )  # fmt: skip
            scale = (1, 1)
        else:
            own = _addresses(factor, input_channels)
            if own.grid or own.segments.any():
                return _plain(axis.size)
            scale = (factor.size, 1)
        channels = (channels[:, None] * scale[0] + own.channels).flatten()
        positions = (positions[:, None] * scale[1] + own.positions).flatten()
        segments = (segments[:, None] + own.segments).flatten()
    grid = tuple(size for size, is_position in zip(sizes, fixed, strict=True) if is_position)
    count = len(channels) // max(math.prod(grid), 1)
    return AxisAddresses(channels, positions, segments, count, grid)


def _patch(sizes: list[int], input_channels: int) -> AxisAddresses | None:
    """A patch of an image: rows, columns and, where there are several, the input's channels, in their order."""
    if len(sizes) == 2 and input_channels == 1 and sizes[0] == sizes[1]:
        place = torch.arange(sizes[0] ** 2)
        return AxisAddresses(torch.zeros_like(place), place, torch.zeros_like(place), 1, (), (sizes[0], sizes[1]))
    for dim in (2, 0, 1) if len(sizes) == 3 else ():
        sides = [size for i, size in enumerate(sizes) if i != dim]
        if sizes[dim] == input_channels and sides[0] == sides[1]:
            shape = [-1 if i == dim else 1 for i in range(3)]
            channels = torch.arange(input_channels).view(shape).expand(sizes).flatten()
            view = list(sizes)
            view[dim] = 1
            positions = torch.arange(math.prod(sides)).view(view).expand(sizes).flatten()
            zeros = torch.zeros_like(channels)
            return AxisAddresses(channels, positions, zeros, input_channels, (), (sides[0], sides[1]))
    return None


def _factors(axis: Structure) -> list[Structure]:
    if not isinstance(axis, Product):
        return [axis]
    return [leaf for factor in axis.factors for leaf in _factors(factor)]


def _plain(size: int) -> AxisAddresses:
    zeros = torch.zeros(size, dtype=torch.int64)
    return AxisAddresses(torch.arange(size), zeros, zeros, size)
