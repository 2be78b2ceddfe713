"""Blocks of convolutional networks in the spellings of many libraries: ``[batch, in, h, w]`` to ``[batch, out, …]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypergen.architectures.idioms.layers import (
    ScaledStandardisedConv2d,
    activation,
    channel_attention,
    conv,
    gain,
    groups_of,
    map_norm,
)

BLOCKS = (
    "basic",
    "basic_preactivated",
    "bottleneck",
    "grouped",
    "inverted",
    "inverted_fused",
    "separable",
    "shuffle",
    "ghost",
    "fire",
    "inception",
    "dense",
    "split",
    "normfree",
    "fixup",
)
SHORTCUTS = ("conv", "conv_without_norm", "pool_conv", "padded")


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str,
    activation_name: str | None,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Convolution, norm and (unless None) activation."""
    layers: list[nn.Module] = [conv(in_channels, out_channels, kernel_size, norm, stride, groups)]
    layers.append(map_norm(norm, out_channels))
    if activation_name is not None:
        layers.append(activation(activation_name))
    return nn.Sequential(*layers)


class Shortcut(nn.Module):
    """The shortcut of a block whose shape changes.

    Args:
        spelling: ``"conv"`` is a strided 1×1 convolution with a norm, ``"conv_without_norm"`` one without,
            ``"pool_conv"`` pools before it (ResNet-D), ``"padded"`` strides and pads with empty channels.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the block.
        norm: Normalisation of the block.
    """

    def __init__(self, spelling: str, in_channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.stride, self.missing = stride, out_channels - in_channels
        self.padded = spelling == "padded" and self.missing >= 0
        if self.padded or (stride == 1 and in_channels == out_channels):
            self.project: nn.Module = nn.Identity()
        elif spelling == "conv_without_norm":
            self.project = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        elif spelling == "pool_conv":
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.project = nn.Sequential(pool, *conv_norm_act(in_channels, out_channels, 1, norm, None))
        else:
            self.project = conv_norm_act(in_channels, out_channels, 1, norm, None, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, in, height, width]`` to ``[batch, out, height / stride, width / stride]``."""
        if not self.padded:
            return self.project(x)
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)) if self.missing else x


def _body(
    block: str, width: int, out: int, stride: int, kernel_size: int, norm: str, act: str, expansion: int
) -> list[nn.Module]:
    """The layers of a residual branch."""
    if block == "basic":
        first = conv_norm_act(width, out, kernel_size, norm, act, stride)
        return [*first, *conv_norm_act(out, out, kernel_size, norm, None)]
    if block == "basic_preactivated":
        return [
            map_norm(norm, width),
            activation(act),
            conv(width, out, kernel_size, norm, stride),
            map_norm(norm, out),
            activation(act),
            conv(out, out, kernel_size, norm),
        ]
    if block in ("bottleneck", "grouped"):
        inner = max(out // 2, 4)
        groups = groups_of(inner, 4) if block == "grouped" else 1
        return [
            *conv_norm_act(width, inner, 1, norm, act),
            *conv_norm_act(inner, inner, kernel_size, norm, act, stride, groups),
            *conv_norm_act(inner, out, 1, norm, None),
        ]
    inner = expansion * width
    if block == "inverted":
        expand = list(conv_norm_act(width, inner, 1, norm, act)) if expansion > 1 else []
        return [
            *expand,
            *conv_norm_act(inner, inner, kernel_size, norm, act, stride, inner),
            *conv_norm_act(inner, out, 1, norm, None),
        ]
    if block == "inverted_fused":
        return [*conv_norm_act(width, inner, 3, norm, act, stride), *conv_norm_act(inner, out, 1, norm, None)]
    return [
        *conv_norm_act(width, width, kernel_size, norm, act, stride, width),
        *conv_norm_act(width, out, 1, norm, act),
    ]


class ResidualBlock(nn.Module):
    """``act(shortcut(x) + gain · attention(body(x)))``, or linear behind the sum.

    Args:
        block: ``"basic"``, ``"basic_preactivated"``, ``"bottleneck"``, ``"grouped"``, ``"inverted"``,
            ``"inverted_fused"`` or ``"separable"``.
        width: Channels of the input.
        out: Channels of the output.
        stride: Stride of the block.
        kernel_size: Kernel size of its spatial convolutions.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.MAP_NORMS`.
        act: Name of the activation.
        attention: Spelling of channel attention.
        gains: Factor on the branch.
        shortcut: Spelling of the shortcut; ``"none"`` for no residual.
        expansion: Inner over outer width of inverted blocks.
    """

    def __init__(
        self,
        block: str,
        width: int,
        out: int,
        stride: int,
        kernel_size: int,
        norm: str,
        act: str,
        attention: str,
        gains: str,
        shortcut: str,
        expansion: int,
    ) -> None:
        super().__init__()
        body = _body(block, width, out, stride, kernel_size, norm, act, expansion)
        self.body = nn.Sequential(*body, channel_attention(attention, out, act), gain(gains, out, maps=True))
        same = stride == 1 and width == out
        # Mobile blocks skip only where the shape stays.
        mobile = block in ("inverted", "inverted_fused", "separable")
        self.skips = shortcut != "none" and (same or not mobile)
        self.shortcut = Shortcut(shortcut, width, out, stride, norm) if self.skips else None
        linear = mobile or block == "basic_preactivated"
        self.act = nn.Identity() if linear else activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, h, w]`` to ``[batch, out, h / stride, w / stride]``."""
        y = self.body(x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.act(y)


class ShuffleBlock(nn.Module):
    """Split channels, convolve one half, join and shuffle (ShuffleNet V2, Ma et al., 2018, arXiv 1807.11164)."""

    def __init__(self, width: int, out: int, stride: int, kernel_size: int, norm: str, act: str) -> None:
        super().__init__()
        self.whole = stride > 1 or width != out
        half = out // 2
        inner = width if self.whole else width - width // 2
        self.branch = nn.Sequential(
            *conv_norm_act(inner, half, 1, norm, act),
            *conv_norm_act(half, half, kernel_size, norm, None, stride, half),
            *conv_norm_act(half, half, 1, norm, act),
        )
        self.other = nn.Sequential(
            *conv_norm_act(width, width, kernel_size, norm, None, stride, width),
            *conv_norm_act(width, out - half, 1, norm, act),
        )
        if not self.whole:
            self.other = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, h, w]`` to ``[batch, out, h / stride, w / stride]``."""
        if self.whole:
            x = torch.cat([self.other(x), self.branch(x)], dim=1)
        else:
            kept, used = x.chunk(2, dim=1)
            x = torch.cat([kept, self.branch(used)], dim=1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class BranchedBlock(nn.Module):
    """Branches that are concatenated: ghost, fire and inception modules, and dense layers.

    Args:
        block: ``"ghost"`` (half by a 1×1 convolution, half depthwise from it; Han et al., 2020, arXiv 1911.11907),
            ``"fire"`` (squeeze, then 1×1 beside 3×3; Iandola et al., 2016, arXiv 1602.07360), ``"inception"`` (1×1,
            3×3, 5×5 and pooling; Szegedy et al., 2015, arXiv 1409.4842), ``"dense"`` (appends to its input).
        width: Channels of the input.
        out: Channels of the output.
        stride: Stride of a pooling before the block; 1 for none.
        norm: A name in :data:`~hypergen.architectures.idioms.layers.MAP_NORMS`.
        act: Name of the activation.
    """

    def __init__(self, block: str, width: int, out: int, stride: int, norm: str, act: str) -> None:
        super().__init__()
        self.block = block
        self.pool = nn.MaxPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        half = out // 2
        if block == "ghost":
            self.first = conv_norm_act(width, half, 1, norm, act)
            self.second = conv_norm_act(half, out - half, 3, norm, act, groups=half if out == 2 * half else 1)
        elif block == "fire":
            squeezed = max(out // 4, 4)
            self.squeeze = conv_norm_act(width, squeezed, 1, norm, act)
            self.first = conv_norm_act(squeezed, half, 1, norm, act)
            self.second = conv_norm_act(squeezed, out - half, 3, norm, act)
        elif block == "inception":
            part = out // 4
            inner = max(width // 2, 4)
            self.first = conv_norm_act(width, out - 3 * part, 1, norm, act)
            three = conv_norm_act(inner, part, 3, norm, act)
            five = conv_norm_act(inner, part, 5, norm, act)
            self.second = nn.Sequential(conv_norm_act(width, inner, 1, norm, act), three)
            self.third = nn.Sequential(conv_norm_act(width, inner, 1, norm, act), five)
            self.fourth = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm_act(width, part, 1, norm, act))
        else:
            grown = max(out - width, 4)
            layers = [map_norm(norm, width), activation(act), conv(width, grown, 3, norm)]
            self.first = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, h, w]`` to ``[batch, out, h / stride, w / stride]``."""
        x = self.pool(x)
        if self.block == "dense":
            return torch.cat([x, self.first(x)], 1)
        if self.block == "ghost":
            x = self.first(x)
            return torch.cat([x, self.second(x)], 1)
        if self.block == "fire":
            x = self.squeeze(x)
            return torch.cat([self.first(x), self.second(x)], 1)
        return torch.cat([self.first(x), self.second(x), self.third(x), self.fourth(x)], 1)


class SplitBlock(nn.Module):
    """A cross-stage partial block: half of the channels pass through a residual body (CSPNet, arXiv 1911.11929)."""

    def __init__(self, width: int, out: int, stride: int, norm: str, act: str) -> None:
        super().__init__()
        half = max(out // 2, 4)
        self.down = conv_norm_act(width, out, 3, norm, act, stride) if stride > 1 or width != out else nn.Identity()
        self.left, self.right = conv_norm_act(out, half, 1, norm, act), conv_norm_act(out, half, 1, norm, act)
        self.body = nn.Sequential(conv_norm_act(half, half, 1, norm, act), conv_norm_act(half, half, 3, norm, act))
        self.join = conv_norm_act(2 * half, out, 1, norm, act)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, h, w]`` to ``[batch, out, h / stride, w / stride]``."""
        x = self.down(x)
        right = self.right(x)
        return self.join(torch.cat([self.left(x), right + self.body(right)], dim=1))


class NormFreeBlock(nn.Module):
    """Residual blocks without norms: scaled branches (NFNet, arXiv 2102.06171) or scalar biases (Fixup, 1901.09321).

    Args:
        block: ``"normfree"``: standardised weights, ``x + α gain f(x / β)``. ``"fixup"``: scalar biases around each
            convolution and a scalar multiplier.
        width: Channels of the input.
        out: Channels of the output.
        stride: Stride of the block.
        act: Name of the activation.
    """

    def __init__(self, block: str, width: int, out: int, stride: int, act: str) -> None:
        super().__init__()
        self.block = block
        self.act1, self.act2 = activation(act), activation(act)
        self.shortcut = Shortcut("conv_without_norm", width, out, stride, "none")
        if block == "normfree":
            self.conv1 = ScaledStandardisedConv2d(width, out, 3, stride=stride, padding=1)
            self.conv2: nn.Module = ScaledStandardisedConv2d(out, out, 3, padding=1)
            self.gain = nn.Parameter(torch.zeros(()))
        else:
            self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)  # type: ignore[assignment]
            self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
            self.bias1, self.bias2, self.bias3, self.bias4 = (nn.Parameter(torch.zeros(1)) for _ in range(4))
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, width, h, w]`` to ``[batch, out, h / stride, w / stride]``."""
        if self.block == "normfree":
            y = self.act1(x) * 0.9
            return self.shortcut(y) + 0.2 * self.gain * self.conv2(self.act2(self.conv1(y)))
        y = self.act1(self.conv1(x + self.bias1) + self.bias2)
        y = self.conv2(y + self.bias3) * self.scale + self.bias4
        return self.act2(y + self.shortcut(x))
