"""Axes that have an order: kernels, input channels, tables of positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(value: Tensor, dim: int, size: int, kind: str) -> Tensor | None:
    """Another size for an axis that has an order: kernels, input channels, tables of positions; None for classes."""
    dims = value.dim()
    if kind.startswith("conv") and dims > 2 and dim >= 2:
        old = value.shape[dim]
        if (size - old) % 2 == 0:  # about the centre
            if size < old:
                return value.narrow(dim, (old - size) // 2, size)
            pad = [0, 0] * (value.dim() - dim - 1) + [(size - old) // 2] * 2
            return F.pad(value, pad)
        return _interpolated(value, dim, size) * (old / size)
    if kind.startswith("conv") and dim == 1 and dims > 2:
        old = value.shape[dim]
        if size == 1 or old == 1:
            total = value.sum(dim, keepdim=True)
            return total.expand(*[size if d == dim else n for d, n in enumerate(total.shape)]) / size
        return None
    if kind in ("add", "embedding", "cat") and dim < dims - 1:
        return _positions(value, dim, size) if kind == "add" else None
    return None


def _positions(table: Tensor, dim: int, size: int) -> Tensor:
    """A table of positions of another length: a square grid, behind any tokens of its own, else a line."""
    old = table.shape[dim]
    for extra in (0, 1, 2):
        sides = [math.isqrt(max(number - extra, 0)) for number in (old, size)]
        if sides[0] > 1 and sides[0] ** 2 == old - extra and sides[1] ** 2 == size - extra:
            own, grid = table.narrow(dim, 0, extra), table.narrow(dim, extra, old - extra)
            moved = grid.movedim(dim, 0)
            flat = moved.reshape(1, sides[0], sides[0], -1).permute(0, 3, 1, 2).float()
            scaled = F.interpolate(flat, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
            back = scaled.permute(0, 2, 3, 1).reshape(size - extra, *moved.shape[1:]).movedim(0, dim).to(table)
            return torch.cat([own, back], dim)
    return _interpolated(table, dim, size)


def _interpolated(value: Tensor, dim: int, size: int) -> Tensor:
    moved = value.movedim(dim, -1)
    flat = moved.reshape(1, -1, moved.shape[-1]).float()
    scaled = F.interpolate(flat, size=size, mode="linear", align_corners=False)
    return scaled.reshape(*moved.shape[:-1], size).movedim(-1, dim).to(value)
