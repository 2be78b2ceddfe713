"""How the published graph hypernetworks decode node states into parameters of any shape.

The modules have the names of the released files' tensors. Each decodes several nodes of one shape at once, and only the
rows, columns and kernel positions that are asked for, where the published code decodes all and cuts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.generators.published.encoders import Perceptron


class ReleasedConvDecoder(nn.Module):
    """The decoder of GHN-2 (Knyazev et al., 2021, arXiv:2110.13100) and GHN-3 (2023, arXiv:2303.04143).

    ``[hidden] → [4·hidden, grid, grid] → (1×1) → [8·hidden] → (1×1) → [out · in, grid, grid]``, cut to the kernel:
    around the centre of the grid, or (GHN-2) at its top left.

    Args:
        hidden: Width of the node states.
        max_shape: Largest out, in, height and width; larger parameters repeat.
        num_classes: Classes that the generator was trained on.
        centred: Where kernels are cut.
    """

    def __init__(self, hidden: int, max_shape: Sequence[int], num_classes: int, centred: bool) -> None:
        super().__init__()
        self.out, self.inputs, self.grid = max_shape[0], max_shape[1], max_shape[2]
        self.centred = centred
        self.fc: Any = nn.Sequential(nn.Linear(hidden, 4 * hidden * self.grid**2))
        self.conv: Any = nn.Sequential(
            nn.Linear(4 * hidden, 8 * hidden), nn.ReLU(), nn.Linear(8 * hidden, self.out * self.inputs)
        )
        self.class_layer_predictor = nn.Sequential(nn.ReLU(), nn.Linear(self.out, num_classes))

    def limits(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that are decoded for a weight of this shape ``(out, in, height, width)``; more repeat."""
        return min(shape[0], self.out), min(shape[1], self.inputs)

    def forward(self, parts: Sequence[tuple[Tensor, Sequence[int]]]) -> list[Tensor]:
        """Pairs of states ``[n, hidden]`` and a shape, of equal limits → ``[n, rows, columns, height, width]`` each."""
        rows, columns = self.limits(parts[0][1])
        kernels = [tuple(min(side, self.grid) for side in shape[2:]) for _, shape in parts]
        spread = [self._spread(states, *kernel) for (states, _), kernel in zip(parts, kernels, strict=True)]
        mixed = self._mix(torch.cat(spread), rows, columns).split([len(one) for one in spread])
        decoded = []
        for (states, shape), kernel, values in zip(parts, kernels, mixed, strict=True):
            values = values.view(len(states), *kernel, rows, columns).permute(0, 3, 4, 1, 2)
            if tuple(shape[2:]) != kernel:
                values = F.interpolate(values.flatten(0, 1), tuple(shape[2:]), mode="bilinear")
                values = values.view(len(states), rows, columns, *shape[2:])
            decoded.append(values)
        return decoded

    def classifier(self, states: Tensor, shape: Sequence[int]) -> Tensor:
        """Weights of classification layers: ``[n, hidden]`` → ``[n, trained classes, columns]``."""
        columns = min(shape[1], self.inputs)
        values = self._mix(self._spread(states, 1, 1), self.out, columns).view(len(states), self.out, columns)
        return self.class_layer_predictor(values.transpose(1, 2)).transpose(1, 2)

    def _spread(self, states: Tensor, height: int, width: int) -> Tensor:
        """Features at the kernel's positions, ``[n · height · width, 8·hidden]``."""
        top, left = ((self.grid // 2 - side // 2) if self.centred else 0 for side in (height, width))
        hidden = states.shape[1]
        weight = self.fc[0].weight.view(4 * hidden, self.grid, self.grid, hidden)
        weight = weight[:, top : top + height, left : left + width].permute(1, 2, 0, 3).reshape(-1, hidden)
        bias = self.fc[0].bias.view(4 * hidden, self.grid, self.grid)
        bias = bias[:, top : top + height, left : left + width].permute(1, 2, 0).reshape(-1)
        spread = F.linear(states, weight, bias).relu_().view(-1, 4 * hidden)
        return self.conv[1](self.conv[0](spread))

    def _mix(self, spread: Tensor, rows: int, columns: int) -> Tensor:
        """``[m, 8·hidden]`` → ``[m, rows · columns]``."""
        weight = self.conv[2].weight.view(self.out, self.inputs, -1)[:rows, :columns]
        bias = self.conv[2].bias.view(self.out, self.inputs)[:rows, :columns]
        if columns == self.inputs:
            return F.linear(spread, weight.flatten(0, 1), bias.flatten())
        # Row by row of a strided view: a copy of these weights would take longer than the product.
        products = torch.matmul(spread, weight.transpose(1, 2)).transpose(0, 1)
        return (products + bias).flatten(1)


class ReleasedLowRankDecoder(nn.Module):
    """The decoder of LoGAH (Zhou et al., 2024, arXiv:2405.16287): ``W = A Bᵀ`` with A, B ``[positions, rank]``.

    ``[hidden] → [4·hidden] → [8·hidden] → [2·rank, rank] → ReLU → [2·rank, length]``, and this read as
    ``[2·length, rank]``: the rows of A, then those of B. Row i of A lies in row i · rank / length of the matrix before,
    so only the rows that a parameter needs are made.
    """

    def __init__(self, hidden: int, rank: int, length: int, max_shape: Sequence[int]) -> None:
        super().__init__()
        self.rank, self.length, self.nominal = rank, length, (max_shape[0], max_shape[1])
        self.mlp = Perceptron(hidden, (4 * hidden, 8 * hidden, 2 * rank * rank))
        self.l2 = nn.Linear(rank, length)

    def limits(self, shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns that are decoded for a weight of this shape; more repeat."""
        rows = min(shape[0], self.nominal[0], self.length // shape[2])
        return rows, min(shape[1], self.nominal[1], self.length // shape[3])

    def factors(self, states: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """The first rows of A and of B: ``[n, hidden]`` → ``[n, rows, rank]``, ``[n, columns, rank]``."""
        seeds = self.mlp(states).view(len(states), 2, self.rank, self.rank).relu_()
        parts = []
        for seed, count in zip(seeds.unbind(1), (rows, columns), strict=True):
            needed = math.ceil(count * self.rank / self.length)
            width = count * self.rank if needed == 1 else self.length
            values = F.linear(seed[:, :needed], self.l2.weight[:width], self.l2.bias[:width])
            parts.append(values.flatten(1)[:, : count * self.rank].view(len(states), count, -1))
        return parts[0], parts[1]

    def forward(self, parts: Sequence[tuple[Tensor, Sequence[int]]]) -> list[Tensor]:
        """Pairs of states ``[n, hidden]`` and a shape → ``[n, rows, columns, height, width]`` each."""
        decoded = []
        for states, shape in parts:
            rows, columns = self.limits(shape)
            height, width = shape[2:]
            a, b = self.factors(states, rows * height, columns * width)
            decoded.append((a @ b.transpose(1, 2)).view(-1, rows, height, columns, width).transpose(2, 3))
        return decoded

    def pairs(self, states: Tensor, length: int) -> Tensor:
        """Weights and biases of vectors of this length: ``[n, hidden]`` → ``[n, 2, length, rounded up]``.

        The published code rounds lengths for speed, and reads the bias where the rounded weight ends.
        """
        rounded = min(length, self.nominal[0])
        rounded = rounded // 3 * 4 if rounded % 3 == 0 else rounded
        rounded = self.nominal[0] if rounded >= self.nominal[0] / 2 else rounded
        a, b = self.factors(states, 2 * rounded, 1)
        return (a @ b.transpose(1, 2)).view(len(states), 2, -1)
