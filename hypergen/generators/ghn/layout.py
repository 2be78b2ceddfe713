"""Where every predicted value comes from: index tensors of one architecture, built once and reused at each step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hypergen.generators.ghn.slots import VECTOR_SITES, Slot

KERNEL_SITES = ("conv", "depthwise", "first_conv")  # their grid is a kernel; other grids are images
ANCHORED_SITES = (
    "conv",
    "linear",
    "expand",
    "reduce",
    "pointwise",
    "widen",
    "narrow",
    "depthwise",
)  # channels stay channels: an identity makes sense
KERNEL_GRID = 5  # side of the learned kernel grids; smaller kernels are their centre, larger ones interpolated
Grid = tuple[int, int]


@dataclass(frozen=True)
class BlockedParameter:
    """A parameter whose rows belong to several nodes.

    Attributes:
        parameter: Its name.
        dim: The axis of the rows.
        names: The names of the blocks.
        order: Where in the blocks, joined, each row lies, ``[rows]``; None where they are in order.
    """

    parameter: str
    dim: int
    names: tuple[str, ...]
    order: Tensor | None


@dataclass(frozen=True)
class Layout:
    """The values of one network as one flat vector: all matrices, then all vectors.

    Attributes:
        matrices: Indices of the matrix slots.
        vectors: Indices of the vector slots.
        sites: Site and grid of each matrix slot.
        rows: Row numbers of all matrix slots together, ``[total_rows]``. Where a node has several slots of one site
            (queries, keys and values of an attention), they are counted on as if stacked.
        columns: Column numbers (``channel · positions + position``) of all matrix slots together, ``[total_columns]``.
        sizes: (rows, columns · positions) of each matrix slot.
        anchors: Where in the flat vector identities lie, ``[num_anchors]``.
        anchor_sources: ``matrix · KERNEL_GRID² + kernel position`` of each, ``[num_anchors]``.
        vector_sites: Site number of every value of the vector slots, ``[total_vector_values]``.
        vector_rows: Index within its vector of each, counted on in the same way.
        vector_slots: Slot of each.
        names: Parameter names in the order of the flat vector.
        shapes: Their shapes.
        lengths: Their numbers of values.
        starts: Where the rows of each begin.
        columns_first: Whether the values of each matrix lie column by column, as in its parameter.
        transposed: Names of parameters with columns first whose kernels keep their values from lying so.
        row_runs: Whether the rows of each matrix, then of each vector, are counted on from its start.
        column_runs: Whether the columns of each matrix are counted on from 0.
        blocks: Parameters that are put together from blocks of rows.
    """

    matrices: tuple[int, ...]
    vectors: tuple[int, ...]
    sites: tuple[tuple[str, Grid], ...]
    rows: Tensor
    columns: Tensor
    sizes: tuple[tuple[int, int], ...]
    anchors: Tensor
    anchor_sources: Tensor
    vector_sites: Tensor
    vector_rows: Tensor
    vector_slots: Tensor
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    columns_first: tuple[bool, ...]
    transposed: frozenset[str]
    row_runs: tuple[bool, ...] = ()
    column_runs: tuple[bool, ...] = ()
    blocks: tuple[BlockedParameter, ...] = ()

    @property
    def total(self) -> int:
        """Number of values."""
        return sum(self.lengths)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of the flat vector in the parameters' shapes; differentiable."""
        parameters = {}
        for name, shape, values in zip(self.names, self.shapes, flat.split(self.lengths), strict=True):
            if name in self.transposed:
                parameters[name] = values.view(shape[1], shape[0], *shape[2:]).transpose(0, 1)
            else:
                parameters[name] = values.view(shape)
        for blocked in self.blocks:
            parts = [parameters.pop(name) for name in blocked.names]
            whole = torch.cat(parts, blocked.dim)
            parameters[blocked.parameter] = (
                whole if blocked.order is None else whole.index_select(blocked.dim, blocked.order.to(whole.device))
            )
        return parameters


def layout_of(
    slots: Sequence[Slot],
    first_rows: Mapping[str, int] | None = None,
    row_addresses: Mapping[str, Tensor] | None = None,
    column_addresses: Mapping[str, Tensor] | None = None,
    blocks: Sequence[BlockedParameter] = (),
) -> Layout:
    """Lay the values of ``slots`` out in one flat vector.

    Args:
        slots: Parameters of a network.
        first_rows: Where the rows of each parameter begin, if these are only some of the network's.
        row_addresses: Name → what its rows are called, where that is not their number.
        column_addresses: The same of its columns.
        blocks: Parameters that are put together from blocks of rows.
    """
    matrices = tuple(i for i, slot in enumerate(slots) if slot.is_matrix)
    vectors = tuple(i for i, slot in enumerate(slots) if not slot.is_matrix)
    ordered = [slots[i] for i in (*matrices, *vectors)]
    starts = _starts(ordered) if first_rows is None else tuple(first_rows[slot.name] for slot in ordered)
    row_addresses, column_addresses = row_addresses or {}, column_addresses or {}
    sites, rows, columns, sizes, anchors, sources = [], [], [], [], [], []
    offset = 0
    for number, slot in enumerate(slots[i] for i in matrices):
        grid = _flat_grid(slot.grid)
        width = slot.columns * slot.positions
        sites.append((slot.site, grid))
        sizes.append((slot.rows, width))
        rows.append(_counted(slot, starts[number], row_addresses))
        columns.append(column_addresses.get(slot.name, torch.arange(width)))
        if slot.site in ANCHORED_SITES:
            places, positions = _identity(slot.rows, slot.columns, grid, slot.groups, slot.transposed)
            anchors.append(places + offset)
            sources.append(positions + number * KERNEL_GRID**2)
        offset += slot.rows * width
    lengths = [slots[i].rows for i in vectors]
    present = {slot.name for slot in slots}
    return Layout(
        matrices,
        vectors,
        tuple(sites),
        _joined(rows),
        _joined(columns),
        tuple(sizes),
        _joined(anchors),
        _joined(sources),
        _repeated([VECTOR_SITES.index(slots[i].site) for i in vectors], lengths),
        _joined(
            [
                _counted(slot, start, row_addresses)
                for slot, start in zip(ordered, starts, strict=True)
                if not slot.is_matrix
            ]
        ),
        _repeated(vectors, lengths),
        tuple(slot.name for slot in ordered),
        tuple(slot.shape for slot in ordered),
        tuple(math.prod(slot.shape) for slot in ordered),
        starts,
        tuple(_columns_first(slot) for slot in ordered[: len(matrices)]),
        frozenset(slot.name for slot in ordered if slot.transposed and not _columns_first(slot)),
        tuple(slot.name not in row_addresses for slot in ordered),
        tuple(slot.name not in column_addresses for slot in ordered[: len(matrices)]),
        tuple(blocked for blocked in blocks if present.issuperset(blocked.names)),
    )


def _counted(slot: Slot, start: int, addresses: Mapping[str, Tensor]) -> Tensor:
    own = addresses.get(slot.name)
    return torch.arange(start, start + slot.rows) if own is None else own + start


def _starts(slots: Sequence[Slot]) -> tuple[int, ...]:
    taken = Counter[tuple[int, str]]()
    starts = []
    for slot in slots:
        starts.append(taken[slot.node, slot.site])
        taken[slot.node, slot.site] += slot.rows
    return tuple(starts)


def matrix_views(layouts: Sequence[Layout], flat: Tensor) -> list[Tensor]:
    """The matrices ``[rows, columns · positions]`` of all layouts as views of their flat values."""
    views: list[Tensor] = []
    for layout, values in zip(layouts, flat.split([layout.total for layout in layouts]), strict=True):
        parts = values.split(layout.lengths)
        for part, (rows, columns), flipped in zip(parts, layout.sizes, layout.columns_first, strict=False):
            views.append(part.view(columns, rows).t() if flipped else part.view(rows, columns))
    return views


def _columns_first(slot: Slot) -> bool:
    return slot.transposed and slot.positions == 1


def _flat_grid(grid: tuple[int, ...]) -> Grid:
    """A grid of any number of axes as height and width: 1-D is one row, further axes stack along the height."""
    return (math.prod(grid[:-1]), grid[-1]) if grid else (1, 1)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors)) if tensors else torch.zeros(0, dtype=torch.int64)


def _repeated(values: Sequence[int], lengths: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))


@lru_cache(maxsize=1024)  # a network repeats its shapes, and architectures share them
def _identity(rows: int, columns: int, grid: Grid, groups: int, transposed: bool) -> tuple[Tensor, Tensor]:
    """Places of the rectangular identity in a slot's matrix, and the kernel position that each belongs to.

    Where rows are a multiple of columns (an expansion, joined queries, keys and values) the identity repeats. Each
    group of a grouped convolution has its own.
    """
    height, width = grid
    # Groups lie one after the other along the axis that is stored first.
    own_rows, own_columns = (rows, columns // groups) if transposed else (rows // groups, columns)
    row = torch.arange(own_rows)
    column = row % own_columns if own_rows % own_columns == 0 else row
    row, column = row[column < own_columns], column[column < own_columns]
    group = torch.arange(groups)[:, None]
    row = (row + (0 if transposed else own_rows) * group).flatten()
    column = (column + (own_columns if transposed else 0) * group).flatten()
    # The learned kernel is laid over the centre of a larger one, and cropped to its centre for a smaller one.
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ky = (y - (height - 1) // 2 + KERNEL_GRID // 2).flatten()
    kx = (x - (width - 1) // 2 + KERNEL_GRID // 2).flatten()
    inside = (ky >= 0) & (ky < KERNEL_GRID) & (kx >= 0) & (kx < KERNEL_GRID)
    positions = torch.arange(height * width)[inside]
    first = column * rows + row if transposed and height * width == 1 else (row * columns + column) * height * width
    places = first[:, None] + positions
    sources = (ky * KERNEL_GRID + kx)[inside].expand(len(row), -1)
    return places.flatten(), sources.flatten()
