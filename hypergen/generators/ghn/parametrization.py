"""Head parametrisations: how the decoder's values become weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from hypergen.generators.ghn.addresses import SEGMENT_MASK
from hypergen.generators.ghn.features import GraphBatch
from hypergen.generators.ghn.layout import ANCHORED_SITES, KERNEL_GRID
from hypergen.generators.ghn.slots import MATRIX_SITES, VECTOR_SITES

PARAMETRIZATIONS = ("plain", "unit_variance", "magnitude_invariant", "anchored")
_LAST = [MATRIX_SITES.index(site) for site in ("last", "last_flat")]
_NOISE = 512  # side of the table of independent base weights


class Parametrization(nn.Module):
    """Turns what the decoder says, about unit variance, into parameters.

    - ``plain``: scaled by √(2 / fan-in), the normalisation of GHN-2/3 (Knyazev et al., 2021, arXiv:2110.13100).
    - ``unit_variance``: the same after dividing each matrix by its own standard deviation.
    - ``magnitude_invariant``: a small prediction is added to independent base weights at Kaiming scale, and the
      condition is encoded at constant norm, ``[cos(πγ/2), sin(πγ/2)]`` (González Ortiz et al., "Magnitude Invariant
      Parametrizations Improve Hypernetwork Learning", 2023, arXiv:2304.07645).
    - ``anchored``: hidden layers start at a rectangular identity, a predicted kernel times the identity over channels,
      plus a small prediction; first and last layers are predictions alone. All networks then start near one shared
      function of the input, whatever their depth and width.

    Norm scales are 1 + the prediction, biases and shifts the prediction itself.

    Shapes:
        states: ``[num_slots, hidden]``; returns the flat values of all graphs, one tensor per graph.
    """

    noise: Tensor

    def __init__(
        self, kind: str = "anchored", hidden: int = 128, anchor: float = 1.0, deviation: float = 0.1, width: int = 64
    ) -> None:
        super().__init__()
        if kind not in PARAMETRIZATIONS:
            raise ValueError(f"parametrization {kind!r} is not one of {', '.join(PARAMETRIZATIONS)}")
        self.kind, self.width = kind, width
        gains = torch.ones(len(MATRIX_SITES))
        if kind == "anchored":
            gains[[MATRIX_SITES.index(site) for site in ANCHORED_SITES]] = deviation
            self.kernel = nn.Linear(hidden, KERNEL_GRID**2)
            nn.init.normal_(self.kernel.weight, std=0.01)
            nn.init.zeros_(self.kernel.bias)
            with torch.no_grad():
                self.kernel.bias[KERNEL_GRID**2 // 2] = anchor
            self.vectors = nn.Parameter(0.02 * torch.randn(len(VECTOR_SITES) * 2 * width))
        if kind == "magnitude_invariant":
            gains *= deviation
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("noise", torch.randn(_NOISE, _NOISE, generator=generator))
        self.gains = nn.Parameter(gains)

    def encode(self, states: Tensor) -> Tensor:
        """The node states as the heads see them: ``[num_slots, hidden]`` → the same, or twice as wide."""
        if self.kind != "magnitude_invariant":
            return states
        angle = torch.sigmoid(states) * (math.pi / 2)
        return torch.cat([angle.cos(), angle.sin()], -1)

    def scale(self, batch: GraphBatch) -> Tensor:
        """What the decoder multiplies each matrix by, ``[num_matrices]``."""
        sites = batch.slot_sites[batch.matrices]
        gain = 1.0 + (~torch.isin(sites, torch.tensor(_LAST, device=sites.device))).float()
        return self.gains[sites] * (gain / batch.fan_in).sqrt()

    def forward(
        self,
        matrices: Sequence[Tensor],
        vectors: Tensor,
        states: Tensor,
        batch: GraphBatch,
        flat: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """The flat parameter vector of every graph.

        Args:
            matrices: What the decoder says of each matrix slot.
            vectors: What it says of all vector slots.
            states: Node state of every slot.
            batch: The graphs.
            flat: The values of all graphs, of which ``matrices`` are views; then all is done in place.
        """
        if self.kind == "unit_variance":
            target = self.scale(batch)
            factors = ((m, s / (_spread(m) + 1e-8)) for m, s in zip(matrices, target, strict=True))
            matrices = [torch.mul(m, s, out=None if flat is None else m) for m, s in factors]
        elif self.kind == "magnitude_invariant":
            base = (self.scale(batch) / self.gains[batch.slot_sites[batch.matrices]]).detach()
            terms = ((m, s * self._base(*m.shape)) for m, s in zip(matrices, base, strict=True))
            matrices = [torch.add(m, noise, out=None if flat is None else m) for m, noise in terms]
        totals = [layout.total for layout in batch.layouts]
        parts = self._vectors(vectors, batch).split([len(layout.vector_sites) for layout in batch.layouts])
        if flat is None:
            flat = _joined(matrices, parts, batch)
        else:
            for values, part in zip(flat.split(totals), parts, strict=True):
                values[len(values) - len(part) :] = part
        if self.kind == "anchored":
            kernels = self.kernel(states[batch.matrices]).flatten()
            numbers = [len(layout.matrices) * KERNEL_GRID**2 for layout in batch.layouts]
            values = kernels[batch.joined("anchor_sources", numbers)]
            flat.index_add_(0, batch.joined("anchors", totals), values.to(flat.dtype))
        return flat.split(totals)

    def _base(self, rows: int, columns: int) -> Tensor:
        repeats = (math.ceil(rows / _NOISE), math.ceil(columns / _NOISE))
        return self.noise.repeat(repeats)[:rows, :columns]

    def _vectors(self, values: Tensor, batch: GraphBatch) -> Tensor:
        sites = batch.joined("vector_sites")
        if self.kind == "anchored":
            period = 2 * self.width
            values = values + self.vectors[sites * period + (batch.joined("vector_rows") & SEGMENT_MASK) % period]
        else:
            values = 0.1 * values
        start = torch.zeros(len(VECTOR_SITES), device=values.device)
        start[VECTOR_SITES.index("scale")] = 1.0
        start[VECTOR_SITES.index("slope")] = 0.25
        return values + start[sites]


def _spread(matrix: Tensor) -> Tensor:
    return matrix.std() if matrix.numel() > 1 else matrix.abs()  # a single value has no standard deviation


def _joined(matrices: Sequence[Tensor], vectors: Sequence[Tensor], batch: GraphBatch) -> Tensor:
    """The values of all graphs: the matrices and then the vectors of each."""
    parts, remaining = [], iter(matrices)
    for layout, part in zip(batch.layouts, vectors, strict=True):
        for matrix, flipped in zip(islice(remaining, len(layout.matrices)), layout.columns_first, strict=True):
            parts.append((matrix.t() if flipped else matrix).reshape(-1))
        parts.append(part)
    return torch.cat(parts)
