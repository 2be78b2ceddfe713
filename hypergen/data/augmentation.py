"""Changes of images that leave their classes as they are, one draw for a whole batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted by up to an eighth, negative half the time, in another contrast and, of colours, another order.

    One draw for all of them, as batch statistics are of one data set when a network is used.

    Args:
        images: Standardised images [N, channels, height, width].
        generator: What is drawn from.
    """
    most = images.shape[-1] // 8
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    draws = torch.rand(2, generator=generator)
    order = torch.randperm(images.shape[1], generator=generator)
    scale = math.exp(0.4 * (2 * draws[0].item() - 1)) * (1 if draws[1] < 0.5 else -1)
    return scale * images[:, order].roll((down, right), (2, 3))
