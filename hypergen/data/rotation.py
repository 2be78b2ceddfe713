"""Images turned by a condition: a family of tasks with one continuous value."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def rotate(batch: Any, conditions: Tensor, *, degrees: float = 90.0) -> list[Tensor]:
    """Turn the images of a batch by a share of an angle, which is each one's condition.

    Args:
        batch: Images ``[N, channels, height, width]``, then whatever else belongs to them.
        conditions: Shares of the angle, ``[N, 1]``, or ``[1]`` for all.
        degrees: The whole angle.

    Returns:
        The batch with turned images.
    """
    images = batch[0]
    angle = (conditions.reshape(-1) * math.radians(degrees)).expand(len(images))
    zero = torch.zeros_like(angle)
    rows = (torch.stack((angle.cos(), -angle.sin(), zero), 1), torch.stack((angle.sin(), angle.cos(), zero), 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return [F.grid_sample(images, grid, align_corners=False), *batch[1:]]
