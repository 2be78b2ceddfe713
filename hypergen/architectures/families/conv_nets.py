"""Convolutional classifiers: a stem, stages of blocks of one kind, a head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from hypergen.architectures.families import blocks
from hypergen.architectures.families.layers import (
    activation_factory,
    classifier_head,
    halved,
    norm2d_factory,
    pooling,
    stem2d,
)

BLOCKS = ("plain", "basic", "bottleneck", "depthwise", "inverted_bottleneck", "grouped", "dilated")


class ConvNet(nn.Module):
    """Stem, stages and head; the resolution halves before each stage but the first.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        block: One of ``BLOCKS``.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        kernel_size: Kernel size of the spatial convolutions.
        norm: ``"batch"``, ``"layer"``, ``"group"`` or ``"none"``.
        norm_groups: Groups of the group norm.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        bias: Whether the convolutions have biases.
        stem: See :func:`hypergen.architectures.families.layers.stem2d`.
        downsample: ``"max"`` and ``"average"`` pool before a stage, ``"conv"`` strides in its first block.
        head: ``"pool"`` or ``"flatten"``.
        head_hidden: Width of a hidden linear layer in the head; 0 for none.
        residual: Whether blocks have a shortcut (plain blocks never have one).
        pre_activation: Basic blocks with norm and activation before the convolutions.
        squeeze_excitation: Residual bodies end in squeeze-excitation.
        reduction: Block width over bottleneck width (bottleneck and grouped).
        groups: Groups of the grouped convolution.
        dilation: Dilation of the dilated convolutions.
        expansion: Inner over outer width (inverted bottleneck).

    Raises:
        ValueError: An option is unknown, or the stages shrink the map to nothing.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        block: str,
        widths: Sequence[int],
        depths: Sequence[int],
        kernel_size: int = 3,
        norm: str = "batch",
        norm_groups: int = 4,
        activation: str = "relu",
        bias: bool = False,
        stem: str = "conv",
        downsample: str = "conv",
        head: str = "pool",
        head_hidden: int = 0,
        residual: bool = True,
        pre_activation: bool = False,
        squeeze_excitation: bool = False,
        reduction: int = 2,
        groups: int = 2,
        dilation: int = 2,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        if len(widths) != len(depths):
            raise ValueError(f"one width and one depth per stage; got {len(widths)} widths, {len(depths)} depths")
        make_norm = norm2d_factory(norm, norm_groups)
        make_activation = activation_factory(activation)
        options: dict[str, Any] = {
            "kernel_size": kernel_size,
            "norm": make_norm,
            "activation": make_activation,
            "bias": bias,
        }
        bodies: dict[str, Any] = {
            "plain": blocks.plain_body,
            "basic": blocks.pre_activation_body if pre_activation else blocks.basic_body,
            "bottleneck": partial(blocks.bottleneck_body, reduction=reduction),
            "grouped": partial(blocks.bottleneck_body, reduction=reduction, groups=groups),
            "depthwise": blocks.depthwise_body,
            "inverted_bottleneck": partial(blocks.inverted_bottleneck_body, expansion=expansion),
            "dilated": partial(blocks.basic_body, dilation=dilation),
        }
        if block not in bodies:
            raise ValueError(f"unknown block {block!r}; expected one of {BLOCKS}")

        def make_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
            body = bodies[block](in_channels, out_channels, stride, **options)
            if block == "plain" or not residual:
                return nn.Sequential(*body, make_activation())
            # Inverted bottlenecks and pre-activation blocks leave the residual stream linear.
            linear = pre_activation or block == "inverted_bottleneck"
            return blocks.Residual(
                blocks.with_squeeze_excitation(body, out_channels, make_activation, squeeze_excitation),
                in_channels,
                out_channels,
                stride,
                make_norm,
                nn.Identity() if linear else make_activation(),
                bias,
            )

        first, size = stem2d(stem, channels, widths[0], image_size, bias)
        self.stem = nn.Sequential(first)
        if not pre_activation:
            self.stem.extend([make_norm(widths[0]), make_activation()])
        self.sizes = [size]  # sides of the maps behind the stem and each stage
        stages: list[nn.Sequential] = []
        width = widths[0]
        for index, (out_channels, depth) in enumerate(zip(widths, depths, strict=True)):
            layers: list[nn.Module] = []
            stride = 1
            if index > 0:
                size = halved(size, downsample)
                if downsample == "conv":
                    stride = 2
                else:
                    layers.append(pooling(downsample))
            for _ in range(depth):
                layers.append(make_block(width, out_channels, stride))
                width, stride = out_channels, 1
            stages.append(nn.Sequential(*layers))
            self.sizes.append(size)
        if size < 1:
            raise ValueError(
                f"{len(widths)} stages shrink an image of {image_size} pixels to nothing; use fewer stages"
            )
        if pre_activation:
            stages[-1] = nn.Sequential(*stages[-1], make_norm(width), make_activation())
        self.stages = nn.Sequential(*stages)
        self.head = classifier_head(head, width, size, num_classes, head_hidden, make_activation)

    def forward(self, images: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, num_classes]."""
        return self.head(self.stages(self.stem(images)))
