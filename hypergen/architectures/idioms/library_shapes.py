"""What the templates of library networks share: shapes, heads, patches, images of other channels."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Shape(NamedTuple):
    """Side and channels of the images, and the number of logits."""

    image_size: int
    channels: int
    num_classes: int

    @property
    def timm(self) -> dict[str, int]:
        """As the keyword arguments that all of timm's constructors take."""
        return {"in_chans": self.channels, "num_classes": self.num_classes}


class RepeatedChannels(nn.Module):
    """A network for colour images that sees grey ones in each channel."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.repeats = network, 3 // channels

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        return self.network(images.repeat(1, self.repeats, 1, 1) if self.repeats > 1 else images)


def grey(network: nn.Module, channels: int, variant: int) -> nn.Module:
    """Let a network of three channels take others: repeat them, or replace the first convolution as most people do."""
    if channels in (1, 3) and variant % 3 == 0:
        return RepeatedChannels(network, channels)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, last = name.rpartition(".")
            old = (module.out_channels, module.kernel_size, module.stride, module.padding)
            new = nn.Conv2d(channels, *old, bias=module.bias is not None)  # type: ignore[arg-type]
            setattr(network.get_submodule(parent), last, new)
            break
    return network


def heads_of(width: int, variant: int) -> int:
    """A number of heads that divides a width."""
    return next(heads for heads in (4, 8, 2, 1)[variant % 2 :] if width % (2 * heads) == 0 and width // heads >= 8)


def patch_of(image_size: int, variant: int) -> int:
    """A side of patches that gives 16 or 4 of them."""
    return image_size // (4 if variant % 3 else 2)
