"""Convolutional classifiers: the plain ones of tutorials, and stages of blocks with every stem and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.idioms.conv_blocks import (
    BranchedBlock,
    NormFreeBlock,
    ResidualBlock,
    ShuffleBlock,
    SplitBlock,
    conv_norm_act,
)
from hypergen.architectures.idioms.layers import activation, conv, dense_layers, map_norm

HEADS = ("pool", "flatten", "conv_pool", "pool_conv", "max_pool", "two_pools", "norm_pool", "wide_conv_pool")
STEMS = ("conv3", "conv5", "conv7_pool", "strided", "deep", "patch", "pointwise")
POOLINGS = ("max", "average", "stride", "none", "overlapping")
ORDERS = ("norm_act", "act_norm", "act_pool_norm")


class Head(nn.Module):
    """Maps ``[batch, channels, size, size]`` to logits ``[batch, num_classes]``.

    Args:
        kind: One of :data:`HEADS`: linear layers behind global pooling (average, maximum, both side by side, behind a
            norm) or flattening; a 1×1 convolution to the classes before or behind the pooling; a wider 1×1 convolution
            before it, as mobile networks have.
        channels: Channels of the map.
        size: Side of the map.
        num_classes: Number of logits.
        layers: Linear layers.
        hidden: Their inner width.
        activation_name: Between them.
        norm: Normalisation in ``"norm_pool"`` and ``"wide_conv_pool"``.
        dropout: Before and between them; 0 for none.
    """

    def __init__(
        self,
        kind: str,
        channels: int,
        size: int,
        num_classes: int,
        layers: int,
        hidden: int,
        activation_name: str,
        norm: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        features = {"flatten": channels * size**2, "two_pools": 2 * channels, "wide_conv_pool": 2 * channels}
        if kind in ("conv_pool", "pool_conv"):
            self.classes = nn.Conv2d(channels, num_classes, 1)
        else:
            inner = features.get(kind, channels)
            self.layers = dense_layers(inner, num_classes, layers, hidden, activation_name, dropout)
        if kind == "norm_pool":
            self.norm: nn.Module = nn.Sequential(map_norm(norm, channels), activation(activation_name))
        elif kind == "wide_conv_pool":
            self.norm = conv_norm_act(channels, 2 * channels, 1, norm, activation_name)

    def forward(self, x: Tensor) -> Tensor:
        """Read a map."""
        if self.kind == "conv_pool":
            return F.adaptive_avg_pool2d(self.classes(self.drop(x)), 1).flatten(1)
        if self.kind == "pool_conv":
            return self.classes(F.adaptive_avg_pool2d(x, (1, 1))).squeeze(-1).squeeze(-1)
        if self.kind == "flatten":
            x = torch.flatten(x, 1)
        elif self.kind == "max_pool":
            x = F.adaptive_max_pool2d(x, 1).flatten(1)
        elif self.kind == "two_pools":
            x = torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1)
        else:
            x = self.norm(x) if self.kind in ("norm_pool", "wide_conv_pool") else x
            x = x.mean((2, 3))
        return self.layers(self.drop(x))


def _pool(pooling: str) -> nn.Module:
    if pooling == "max":
        return nn.MaxPool2d(2)
    return nn.MaxPool2d(3, 2, 1) if pooling == "overlapping" else nn.AvgPool2d(2)


def _pooled(size: int, pooling: str) -> int:
    return (size + 1) // 2 if pooling in ("stride", "overlapping") else size // 2


class TutorialCNN(nn.Module):
    """Convolutions, activations and poolings in a row, then linear layers.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        widths: Channels of each stage.
        per_stage: Convolutions of each stage.
        kernel_size: Kernel size of the convolutions.
        padded: Whether convolutions keep the map's size; without, where it allows.
        pooling: One of :data:`POOLINGS`, behind each stage while the map is larger than a pixel; ``"stride"`` strides
            in the stage's last convolution.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.MAP_NORMS`.
        order: One of :data:`ORDERS`, behind each convolution.
        activation_name: Name of the activation function of the whole network.
        head: See :class:`Head`.
        head_layers: Linear layers of the head.
        head_hidden: Their inner width.
        dropout: ``"none"``, ``"head"``, ``"maps"`` (whole channels behind each stage) or ``"both"``.
        pointwise: Whether a 1×1 convolution follows each convolution, as in Network in Network.
        input_norm: Whether a batch norm acts on the images.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        widths: Sequence[int],
        per_stage: int = 1,
        kernel_size: int = 3,
        padded: bool = True,
        pooling: str = "max",
        norm: str = "none",
        order: str = "norm_act",
        activation_name: str = "relu",
        head: str = "flatten",
        head_layers: int = 2,
        head_hidden: int = 64,
        dropout: str = "none",
        pointwise: bool = False,
        input_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(channels)] if input_norm else []
        width, size = channels, image_size
        for out in widths:
            for index in range(per_stage):
                strides = pooling == "stride" and index == per_stage - 1 and size > 1
                keeps = padded or strides or size < kernel_size + 2
                layer = conv(width, out, kernel_size, norm, 2 if strides else 1)
                if not keeps:
                    layer.padding = (0, 0)
                    size -= kernel_size - 1
                size = (size + 1) // 2 if strides else size
                norm_layer, act = map_norm(norm, out), activation(activation_name)
                pools = index == per_stage - 1 and pooling not in ("stride", "none") and size > 1
                pool: list[nn.Module] = [_pool(pooling)] if pools else []
                size = _pooled(size, pooling) if pools else size
                parts = {
                    "norm_act": [norm_layer, act, *pool],
                    "act_norm": [act, norm_layer, *pool],
                    "act_pool_norm": [act, *pool, norm_layer],
                }[order]
                layers += [layer, *[part for part in parts if not isinstance(part, nn.Identity)]]
                if pointwise:
                    layers += [nn.Conv2d(out, out, 1), activation(activation_name)]
                width = out
            if dropout in ("maps", "both"):
                layers.append(nn.Dropout2d(0.1))
        self.features = nn.Sequential(*layers)
        rate = 0.25 if dropout in ("head", "both") else 0.0
        self.classifier = Head(head, width, size, num_classes, head_layers, head_hidden, activation_name, norm, rate)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        return self.classifier(self.features(images))


def _stem(kind: str, channels: int, width: int, size: int, norm: str, act: str) -> tuple[nn.Sequential, int]:
    """The first layers and the side of the map behind them."""
    if kind == "conv7_pool":
        layers = conv_norm_act(channels, width, 7, norm, act, 2)
        return nn.Sequential(*layers, nn.MaxPool2d(3, 2, 1)), ((size + 1) // 2 + 1) // 2
    if kind == "strided":
        return conv_norm_act(channels, width, 3, norm, act, 2), (size + 1) // 2
    if kind == "deep":
        half = max(width // 2, 4)
        parts = [conv_norm_act(channels, half, 3, norm, act), conv_norm_act(half, half, 3, norm, act)]
        return nn.Sequential(*parts, conv_norm_act(half, width, 3, norm, act)), size
    if kind == "patch":
        return nn.Sequential(nn.Conv2d(channels, width, 2, 2), map_norm(norm, width)), size // 2
    kernel_size = {"conv3": 3, "conv5": 5, "pointwise": 1}[kind]
    return conv_norm_act(channels, width, kernel_size, norm, act), size


class BlockNet(nn.Module):
    """A stem, stages of one kind of block, a head.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        block: One of :data:`~hypergen.architectures.idioms.conv_blocks.BLOCKS`.
        widths: Channels of each stage, even numbers.
        depths: Blocks of each stage.
        kernel_size: Kernel size of the spatial convolutions.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.MAP_NORMS`.
        activation_name: Name of the activation function of the whole network.
        stem: One of :data:`STEMS`.
        attention: A name in :data:`~hypergen.architectures.idioms.layers.CHANNEL_ATTENTION`.
        gains: A name in :data:`~hypergen.architectures.idioms.layers.GAINS`.
        shortcut: A name in :data:`~hypergen.architectures.idioms.conv_blocks.SHORTCUTS`, or ``"none"``.
        expansion: Inner over outer width of inverted blocks.
        head: See :class:`Head`.
        head_layers: Linear layers of the head.
        dropout: In the head; 0 for none.
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
        activation_name: str = "relu",
        stem: str = "conv3",
        attention: str = "none",
        gains: str = "none",
        shortcut: str = "conv",
        expansion: int = 4,
        head: str = "pool",
        head_layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        act = activation_name
        if block in ("normfree", "fixup"):
            norm = "none"
        self.stem, size = _stem(stem, channels, widths[0], image_size, norm, act)
        width = widths[0]
        stages: list[nn.Module] = []
        for index, (out, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if index and not number and size > 1 else 1
                size = (size + 1) // 2 if stride == 2 else size
                if block == "shuffle":
                    blocks.append(ShuffleBlock(width, out, stride, kernel_size, norm, act))
                elif block == "split":
                    blocks.append(SplitBlock(width, out, stride, norm, act))
                elif block in ("normfree", "fixup"):
                    blocks.append(NormFreeBlock(block, width, out, stride, act))
                elif block == "dense":
                    out = width + max(widths[0] // 2, 4)
                    blocks.append(BranchedBlock(block, width, out, stride, norm, act))
                elif block in ("ghost", "fire", "inception"):
                    blocks.append(BranchedBlock(block, width, out, stride, norm, act))
                else:
                    blocks.append(
                        ResidualBlock(
                            block,
                            width,
                            out,
                            stride,
                            kernel_size,
                            norm,
                            act,
                            attention,
                            gains,
                            shortcut,
                            expansion,
                        )
                    )
                width = out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        if block in ("basic_preactivated", "normfree", "dense") and head != "norm_pool":
            self.stages.append(nn.Sequential(map_norm(norm, width), activation(act)))
        self.head = Head(head, width, size, num_classes, head_layers, max(width, 16), act, norm, dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[batch, channels, height, width]`` to logits ``[batch, num_classes]``."""
        return self.head(self.stages(self.stem(images)))
