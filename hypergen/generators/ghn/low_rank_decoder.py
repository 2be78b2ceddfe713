"""Low-rank decoder: every matrix is a product of channel tables, modulated by its node."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.generators.ghn.addresses import SEGMENT_MASK, SEGMENT_SHIFT
from hypergen.generators.ghn.features import GraphBatch
from hypergen.generators.ghn.layout import KERNEL_GRID, KERNEL_SITES, Grid
from hypergen.generators.ghn.slots import MATRIX_SITES, VECTOR_SITES

IMAGE_GRID = 4  # side of the learned image grids of layers that read a flattened image
INPUT_GRID = 8  # the same where that image is the network's input
_SEGMENT_STEP = 7  # repetitions between the segments of a concatenation
_MAX_REPETITIONS = 2**16
_MODULATION = 0.3  # how far a step of the optimiser moves what nodes decide, against what they share


class LowRankDecoder(nn.Module):
    """Rows and columns have learned embeddings; the node's state decides how they meet.

    ``W = U (D + M(h)) Vᵀ / √rank``, with tables ``U`` (a row per output channel), ``V`` (a row per input channel and
    kernel position), a diagonal ``D`` shared by all nodes of a site and a matrix ``M(h)`` predicted from the node's
    state. Channel i means the same in every network, which is what lets one generator serve many. Beyond the end of
    a table its rows repeat under other signs, so that no two rows of any matrix are equal. Low-rank prediction: Zhou
    et al., "LoGAH: Predicting 774-Million-Parameter Transformers using Graph HyperNetworks with 1/100 Parameters",
    2024, arXiv:2405.16287, whose rows are tiled copies and whose tables do not know channels.

    Shapes:
        states: ``[num_slots, hidden]`` → flat matrix values ``[total]`` and flat vector values ``[total]``, about
        unit variance where ``D`` is 1.
    """

    def __init__(
        self, hidden: int = 128, rank: int = 64, steered_rank: int = 32, width: int = 64, shared: bool = True
    ) -> None:
        super().__init__()
        self.rank, self.steered_rank, self.width = rank, min(steered_rank, rank), width
        self.columns = _columns(width)
        self.grids = _grids()
        self.row_tables = nn.ParameterDict({site: torch.randn(_rows(site, width), rank) for site in MATRIX_SITES})
        self.column_tables = nn.ParameterDict(
            {site: torch.randn(self.columns[site] * self.grids[site] ** 2, rank) for site in MATRIX_SITES}
        )
        self.vector_table = nn.Parameter(torch.randn(len(VECTOR_SITES) * 2 * width, rank))
        self.shared = shared
        self.modulation = _MODULATION if shared else 1.0
        self.steer = nn.Linear(hidden, self.steered_rank**2)
        self.diagonal = nn.Linear(hidden, rank)
        self.vector = nn.Linear(hidden, rank)
        # With a shared part the node's own part starts near zero: all networks start as one function.
        std = 0.01 if shared else 1 / math.sqrt(hidden)
        for layer in (self.steer, self.diagonal, self.vector):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(
        self, states: Tensor, batch: GraphBatch, scale: Tensor, out: Sequence[Tensor] | None = None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Decode all slots of a batch.

        Args:
            states: Node state of every slot, ``[num_slots, hidden]``.
            batch: The graphs.
            scale: What each matrix is multiplied by, ``[num_matrices]``; free here, a pass over all values later.
            out: Where the matrices are written, while gradients are off; new tensors by default.

        Returns:
            A matrix ``[rows, columns · positions]`` per matrix slot, and the values of all vector slots.
        """
        if out is None:
            return self._matrices(states[batch.matrices], batch, scale), self._vectors(states, batch)
        self._write_matrices(states[batch.matrices], batch, scale, out)
        return out, self._vectors_by_length(states, batch)

    def _matrices(self, states: Tensor, batch: GraphBatch, scale: Tensor) -> list[Tensor]:
        sites = [site for layout in batch.layouts for site in layout.sites]
        if not sites:
            return []
        sizes = [size for layout in batch.layouts for size in layout.sizes]
        tables = {site: self.row_tables[site] for site, _ in sites}
        periods = [len(tables[site]) for site, _ in sites]
        keys = [site for site, _ in sites]
        counts = [rows for rows, _ in sizes]
        left = self._modulated(self._gather(tables, keys, batch.joined("rows"), counts, periods), counts, states, scale)
        resized = {site: self._column_table(*site) for site in dict.fromkeys(sites)}
        periods = [len(resized[site]) for site in sites]
        columns = [columns for _, columns in sizes]
        right = self._gather(resized, sites, batch.joined("columns"), columns, periods).split(columns)
        return [u @ v.t() for u, v in zip(left.split(counts), right, strict=True)]

    def _modulated(self, rows: Tensor, counts: list[int], states: Tensor, scale: Tensor) -> Tensor:
        """``U (D + M(h))`` for the joined rows of all slots, without forming the matrix in brackets."""
        k = self.steered_rank
        diagonal, core = self._core(states, scale)
        slot = torch.arange(len(counts), device=rows.device).repeat_interleave(torch.tensor(counts, device=rows.device))
        modulated = torch.cat([u @ m for u, m in zip(rows[:, :k].split(counts), core.unbind(), strict=True)])
        return rows * diagonal.index_select(0, slot) + F.pad(modulated, (0, self.rank - k))

    def _core(self, states: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``D`` and ``M(h)`` of each matrix: ``[num_matrices, rank]``, ``[num_matrices, modulated rank, the same]``."""
        scale = (scale / math.sqrt(self.rank))[:, None]
        diagonal = (self.modulation * self.diagonal(states) + float(self.shared)) * scale
        return diagonal, (self.modulation * self.steer(states) * scale).view(-1, self.steered_rank, self.steered_rank)

    def _write_matrices(self, states: Tensor, batch: GraphBatch, scale: Tensor, out: Sequence[Tensor]) -> None:
        """The same without gradients: each product straight into its place, from slices of tables."""
        sites = [site for layout in batch.layouts for site in layout.sites]
        sizes = [size for layout in batch.layouts for size in layout.sizes]
        starts = [start for layout in batch.layouts for start in layout.starts[: len(layout.matrices)]]
        tables: dict[Any, Tensor] = dict(self.row_tables.items())
        left = self._slices(tables, [site for site, _ in sites], starts, [rows for rows, _ in sizes])
        runs = [run for layout in batch.layouts for run in layout.row_runs[: len(layout.matrices)]]
        self._replace(left, runs, batch.joined("rows"), tables, [site for site, _ in sites])
        tables = {site: self._column_table(*site) for site in dict.fromkeys(sites)}
        right = self._slices(tables, sites, [0] * len(sites), [columns for _, columns in sizes])
        runs = [run for layout in batch.layouts for run in layout.column_runs]
        self._replace(right, runs, batch.joined("columns"), tables, sites)
        k = self.steered_rank
        for u, d, m, v, place in zip(left, *self._core(states, scale), right, out, strict=True):
            if len(u) > len(v):  # modulate the shorter side
                shorter = v * d
                shorter[:, :k] += v[:, :k] @ m.t()
                torch.mm(u, shorter.t(), out=place)
            else:
                shorter = u * d
                shorter[:, :k] += u[:, :k] @ m
                torch.mm(shorter, v.t(), out=place)

    def _slices(
        self,
        tables: Mapping[Any, Tensor],
        keys: Sequence[Hashable],
        starts: Sequence[int],
        lengths: Sequence[int],
    ) -> list[Tensor]:
        """Rows of each slot's table: views of the tables, repeated as far as the longest slot needs."""
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        longest: dict[Hashable, int] = {}
        for key, end in zip(keys, ends, strict=True):
            longest[key] = max(end, longest.get(key, 0))
        repeated = {key: self._repeated(tables[key], end) for key, end in longest.items()}
        return [repeated[key][start:end] for key, start, end in zip(keys, starts, ends, strict=True)]

    def _replace(
        self,
        slices: list[Tensor],
        runs: Sequence[bool],
        addresses: Tensor,
        tables: Mapping[Any, Tensor],
        keys: Sequence[Hashable],
    ) -> None:
        """Put rows by their addresses in the place of slices, where the addresses do not count on."""
        if all(runs):
            return
        parts = addresses.split([len(rows) for rows in slices])
        for i, (run, own, key) in enumerate(zip(runs, parts, keys, strict=True)):
            if not run:
                slices[i] = self._addressed(tables[key], own)

    def _addressed(self, table: Tensor, addresses: Tensor) -> Tensor:
        place, repetition = _place_and_repetition(addresses, len(table))
        return self._signed(table.index_select(0, place), repetition)

    def _repeated(self, table: Tensor, length: int) -> Tensor:
        repeats = math.ceil(length / len(table))
        return table if repeats <= 1 else (table * _signs(repeats, self.rank).to(table)[:, None]).flatten(0, 1)

    def _gather(self, tables: dict, keys: list, index: Tensor, lengths: list[int], periods: list[int]) -> Tensor:
        """Rows of the joined tables for all slots at once: one gather instead of one per slot."""
        offsets, total = {}, 0
        for key, table in tables.items():
            offsets[key] = total
            total += len(table)
        counts = torch.tensor(lengths, device=index.device)
        period = torch.tensor(periods, device=index.device).repeat_interleave(counts)
        offset = torch.tensor([offsets[key] for key in keys], device=index.device).repeat_interleave(counts)
        place, repetition = _place_and_repetition(index, period)
        rows = torch.cat(list(tables.values())).index_select(0, place + offset)
        return self._signed(rows, repetition)

    def _signed(self, rows: Tensor, repetition: Tensor) -> Tensor:
        """Give repeated table rows other signs: 1 at first, then a pseudo-random pattern per repetition."""
        if not len(repetition) or not (last := int(repetition.max())):
            return rows
        return rows * _signs(last + 1, self.rank).to(rows)[repetition]

    def _column_table(self, site: str, grid: Grid) -> Tensor:
        """The site's column table at another grid: ``[channels · positions, rank]``."""
        side = self.grids[site]
        table = self.column_tables[site]
        if grid == (side, side):
            return table
        table = table.view(-1, side, side, self.rank)
        height, width = grid
        if site in KERNEL_SITES and height <= side and width <= side:
            # The centre of an even kernel lies before its middle, as PyTorch pads it.
            top, left = side // 2 - (height - 1) // 2, side // 2 - (width - 1) // 2
            return table[:, top : top + height, left : left + width].reshape(-1, self.rank)
        stretched = max(grid) >= 3 * side  # so far that the positions at the edges would be the same
        resized = F.interpolate(table.permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=stretched)
        return resized.permute(0, 2, 3, 1).reshape(-1, self.rank)

    def _vectors(self, states: Tensor, batch: GraphBatch) -> Tensor:
        slots = batch.joined("vector_slots", [len(layout.matrices) + len(layout.vectors) for layout in batch.layouts])
        period = 2 * self.width
        index = batch.joined("vector_rows")
        place, repetition = _place_and_repetition(index, period)
        rows = self.vector_table.index_select(0, batch.joined("vector_sites") * period + place)
        rows = self._signed(rows, repetition)
        return (rows * (self.modulation * self.vector(states)).index_select(0, slots)).sum(1) / math.sqrt(self.rank)

    def _vectors_by_length(self, states: Tensor, batch: GraphBatch) -> Tensor:
        """The same without gradients: one product for all vectors of a site and about a length, no row per value."""
        modulated = self.modulation * self.vector(states) / math.sqrt(self.rank)
        sites = (batch.slot_sites - len(MATRIX_SITES)).tolist()
        groups: dict[tuple[int, int, int], list[int]] = {}
        lengths: dict[int, int] = {}
        offset = 0
        for layout in batch.layouts:
            spans = zip(layout.starts, layout.lengths, strict=True)
            for slot, (start, length) in zip(layout.vectors, islice(spans, len(layout.matrices), None), strict=True):
                # Rounded up to powers of two: fewer products, of which at most half is thrown away.
                groups.setdefault((sites[offset + slot], start, length.bit_length()), []).append(offset + slot)
                lengths[offset + slot] = length
            offset += len(layout.names)
        if not lengths:
            return modulated.new_empty(0)
        tables = dict(enumerate(self.vector_table.split(2 * self.width)))
        longest = [max(lengths[slot] for slot in slots) for slots in groups.values()]
        rows = self._slices(tables, [site for site, _, _ in groups], [start for _, start, _ in groups], longest)
        values: dict[int, Tensor] = {}
        for slots, table in zip(groups.values(), rows, strict=True):
            values.update(zip(slots, (modulated[slots] @ table.t()).unbind(), strict=True))
        self._replace_vectors(values, batch, modulated, sites, tables)
        return torch.cat([values[slot][:length] for slot, length in lengths.items()])

    def _replace_vectors(
        self, values: dict[int, Tensor], batch: GraphBatch, modulated: Tensor, sites: Sequence[int], tables: Mapping
    ) -> None:
        """Vectors whose rows do not count on, by their addresses."""
        offset = 0
        for layout in batch.layouts:
            count = len(layout.matrices)
            parts = layout.vector_rows.split(layout.lengths[count:])
            for slot, run, own in zip(layout.vectors, layout.row_runs[count:], parts, strict=True):
                if not run:
                    rows = self._addressed(tables[sites[offset + slot]], own.to(modulated.device))
                    values[offset + slot] = rows @ modulated[offset + slot]
            offset += len(layout.names)


def _place_and_repetition(addresses: Tensor, period: Tensor | int) -> tuple[Tensor, Tensor]:
    """Where in a table of that length an address lies, and which repetition of the table it is in.

    The segments of a concatenation read the same rows of a table, each under signs of its own.
    """
    index, segment = addresses & SEGMENT_MASK, addresses >> SEGMENT_SHIFT
    return index % period, (index // period + _SEGMENT_STEP * segment) % _MAX_REPETITIONS


@lru_cache(maxsize=16)
def _signs(repetitions: int, rank: int) -> Tensor:
    """Signs of every repetition of a table's rows: 1 at first, then pseudo-random."""
    generator = torch.Generator().manual_seed(rank)
    signs = torch.randint(0, 2, (repetitions, rank), generator=generator).float() * 2 - 1
    signs[0] = 1
    return signs


def _rows(site: str, width: int) -> int:
    return {
        "last": 16,
        "last_flat": 16,
        "linear": 2 * width,
        "expand": 4 * width,
        "reduce": 2 * width,
        "first_linear": 2 * width,
        "flat": 2 * width,
    }.get(site, width)


def _columns(width: int) -> dict[str, int]:
    columns = {site: width for site in MATRIX_SITES}
    return columns | {
        "linear": 2 * width,
        "expand": 2 * width,
        "reduce": 4 * width,
        "narrow": 2 * width,
        "last": 2 * width,
        "depthwise": 1,
        "first_conv": 4,
        "first_linear": 4,
    }


def _grids() -> dict[str, int]:
    grids = {site: KERNEL_GRID if site in KERNEL_SITES else 1 for site in MATRIX_SITES}
    return grids | {"first_linear": INPUT_GRID, "flat": IMAGE_GRID, "last_flat": IMAGE_GRID}
