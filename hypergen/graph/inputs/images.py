"""Images and clips for timm's and torchvision's models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def image(model: nn.Module, channels: int, *size: int) -> Tensor:
    """A batch of one image, or of one clip.

    Args:
        model: Its first convolution may take fewer channels, where it was built or replaced for grey images.
        channels: What the model tells that it takes.
        size: Height and width, or frames, height and width.

    Returns:
        ``[1, channels, *size]`` on the meta device.
    """
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))), None)
    # More channels than the image's are made by rearranging pixels.
    return torch.empty(1, min(channels, first.in_channels) if first else channels, *size, device="meta")


def timm_image(model: Any) -> Tensor | None:
    """What timm's ``pretrained_cfg`` tells, unless the model was built for images of another size."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        told: Sequence[int] = (config.get("input_size") if isinstance(config, Mapping) else None) or ()
        if told:
            size = getattr(getattr(model, "patch_embed", None), "img_size", None)
            return image(model, told[0], *(size if isinstance(size, (tuple, list)) and len(size) == 2 else told[1:]))
    return None


def torchvision_inputs(model: nn.Module) -> Any:
    """Positional arguments for a model of ``torchvision.models``."""
    kind = type(model).__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind == "video":
        return image(model, 3, 16, 224, 224)
    if kind == "detection":  # a list of images
        return ([image(model, 3, 224, 224)[0]],)
    if kind == "optical_flow":  # two frames
        return image(model, 3, 128, 128), image(model, 3, 128, 128)
    size = getattr(model, "image_size", 299 if type(model).__name__ == "Inception3" else 224)
    return image(model, 3, size, size)
