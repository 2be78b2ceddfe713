"""Convolutional decoder: a node's state becomes a block of weights, which larger matrices repeat."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.generators.ghn.addresses import SEGMENT_MASK
from hypergen.generators.ghn.features import GraphBatch
from hypergen.generators.ghn.layout import KERNEL_GRID

_SPREAD = 4  # channels per grid position between the two stages, in units of the block's side


class ConvDecoder(nn.Module):
    """The decoder of GHN-2 and GHN-3: state → grid of features → 1×1 convolutions → weights.

    ``[hidden] → [4·side, grid, grid] → (1×1) → [8·side] → (1×1) → [side · side, grid, grid]``, cropped to the kernel
    around its centre and repeated over the channels of larger layers: ``W[i, j] = W₀[i mod side, j mod side]``
    (Knyazev et al., 2021, arXiv:2110.13100; 2023, arXiv:2303.04143). The grid of a flattened image is read off by
    interpolation.

    Shapes:
        states: ``[num_slots, hidden]`` → a matrix ``[rows, columns · positions]`` per matrix slot and the values of
        all vector slots.
    """

    def __init__(self, hidden: int = 128, side: int = 32, grid: int = KERNEL_GRID) -> None:
        super().__init__()
        self.side, self.grid = side, grid
        self.spread = nn.Linear(hidden, _SPREAD * side * grid**2)
        self.mix = nn.Sequential(
            nn.ReLU(), nn.Linear(_SPREAD * side, 2 * _SPREAD * side), nn.ReLU(), nn.Linear(2 * _SPREAD * side, side**2)
        )
        self.vector = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 4 * side))

    def forward(
        self, states: Tensor, batch: GraphBatch, scale: Tensor, out: Sequence[Tensor] | None = None
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Decode all slots of a batch; see :meth:`LowRankDecoder.forward`."""
        spread = self.spread(states[batch.matrices]).view(-1, self.grid**2, _SPREAD * self.side)
        blocks = self.mix(spread) * scale[:, None, None] * math.sqrt(self.side)
        blocks = blocks.transpose(1, 2).reshape(-1, self.side, self.side, self.grid, self.grid)
        sites = [site for layout in batch.layouts for site in layout.sites]
        sizes = [size for layout in batch.layouts for size in layout.sizes]
        matrices = []
        for i, (block, (_, grid), (rows, width)) in enumerate(zip(blocks.unbind(), sites, sizes, strict=True)):
            columns = width // math.prod(grid)
            tile = self._tile(block, grid)[:rows, :columns]
            repeats = (math.ceil(rows / len(tile)), math.ceil(columns / tile.shape[1]), 1)
            matrix = tile.repeat(repeats)[:rows, :columns].reshape(rows, width)
            matrices.append(matrix if out is None else out[i].copy_(matrix))
        slots = batch.joined("vector_slots", [len(layout.matrices) + len(layout.vectors) for layout in batch.layouts])
        values = self.vector(states)
        return matrices, values[slots, (batch.joined("vector_rows") & SEGMENT_MASK) % values.shape[1]]

    def _tile(self, block: Tensor, grid: tuple[int, int]) -> Tensor:
        height, width = grid
        if height <= self.grid and width <= self.grid:
            top, left = self.grid // 2 - (height - 1) // 2, self.grid // 2 - (width - 1) // 2
            return block[..., top : top + height, left : left + width].flatten(2)
        return F.interpolate(block, grid, mode="bilinear", align_corners=False).flatten(2)
