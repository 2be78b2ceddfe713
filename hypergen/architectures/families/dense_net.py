"""DenseNet (Huang et al., Densely Connected Convolutional Networks, 2017, arXiv 1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hypergen.architectures.families.blocks import conv2d
from hypergen.architectures.families.layers import (
    ActivationFactory,
    NormFactory,
    activation_factory,
    classifier_head,
    halved,
    norm2d_factory,
    pooling,
    stem2d,
)


class DenseLayer(nn.Module):
    """Appends ``growth`` channels to its input: [batch, in, h, w] to [batch, in + growth, h, w]."""

    def __init__(
        self,
        in_channels: int,
        growth: int,
        kernel_size: int,
        norm: NormFactory,
        activation: ActivationFactory,
        bias: bool,
    ) -> None:
        super().__init__()
        self.norm = norm(in_channels)
        self.activation = activation()
        self.conv = conv2d(in_channels, growth, kernel_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input and what is computed from it."""
        return torch.cat([x, self.conv(self.activation(self.norm(x)))], dim=1)


class DenseNet(nn.Module):
    """Stages of dense layers; between them a transition halves channels and resolution.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        growth: Channels that each layer appends; the stem has twice as many.
        depths: Dense layers of each stage.
        kernel_size: Kernel size of the dense layers.
        norm: ``"batch"``, ``"layer"``, ``"group"`` or ``"none"``.
        norm_groups: Groups of the group norm.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        bias: Whether the convolutions have biases.
        stem: See :func:`hypergen.architectures.families.layers.stem2d`.
        downsample: ``"max"`` and ``"average"`` pool behind the transition's 1x1 convolution, ``"conv"`` strides in it.
        head: ``"pool"`` or ``"flatten"``.
        head_hidden: Width of a hidden linear layer in the head; 0 for none.

    Raises:
        ValueError: An option is unknown, or the stages shrink the map to nothing.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        growth: int,
        depths: Sequence[int],
        kernel_size: int = 3,
        norm: str = "batch",
        norm_groups: int = 4,
        activation: str = "relu",
        bias: bool = False,
        stem: str = "conv",
        downsample: str = "average",
        head: str = "pool",
        head_hidden: int = 0,
    ) -> None:
        super().__init__()
        make_norm = norm2d_factory(norm, norm_groups)
        make_activation = activation_factory(activation)
        width = 2 * growth
        self.stem, size = stem2d(stem, channels, width, image_size, bias)
        self.sizes = [size]  # sides of the maps behind the stem and each stage
        stages: list[nn.Sequential] = []
        for index, depth in enumerate(depths):
            layers: list[nn.Module] = []
            if index > 0:
                size = halved(size, downsample)
                layers += [make_norm(width), make_activation()]
                if downsample == "conv":
                    layers.append(conv2d(width, width // 2, 3, stride=2, bias=bias))
                else:
                    layers += [nn.Conv2d(width, width // 2, 1, bias=bias), pooling(downsample)]
                width //= 2
            for _ in range(depth):
                layers.append(DenseLayer(width, growth, kernel_size, make_norm, make_activation, bias))
                width += growth
            stages.append(nn.Sequential(*layers))
            self.sizes.append(size)
        if size < 1:
            raise ValueError(
                f"{len(depths)} stages shrink an image of {image_size} pixels to nothing; use fewer stages"
            )
        stages[-1] = nn.Sequential(*stages[-1], make_norm(width), make_activation())
        self.stages = nn.Sequential(*stages)
        self.head = classifier_head(head, width, size, num_classes, head_hidden, make_activation)

    def forward(self, images: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, num_classes]."""
        return self.head(self.stages(self.stem(images)))
