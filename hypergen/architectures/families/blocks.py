"""Blocks of convolutional networks: each maps [batch, in, h, w] to [batch, out, h / stride, w / stride]."""

from __future__ import annotations

from torch import Tensor, nn

from hypergen.architectures.families.layers import ActivationFactory, NormFactory, SqueezeExcitation


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A convolution that keeps the resolution, up to its stride."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, groups=groups, bias=bias
    )


class Residual(nn.Module):
    """``activation(shortcut(x) + body(x))``; the shortcut is a 1x1 projection where the shape changes."""

    def __init__(
        self,
        body: nn.Module,
        in_channels: int,
        out_channels: int,
        stride: int,
        norm: NormFactory,
        activation: nn.Module,
        bias: bool,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=bias), norm(out_channels)
            )
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Maps [batch, in, h, w] to [batch, out, h / stride, w / stride]."""
        return self.activation(self.shortcut(x) + self.body(x))


def plain_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
) -> list[nn.Module]:
    """Convolution and norm."""
    return [conv2d(in_channels, out_channels, kernel_size, stride, bias=bias), norm(out_channels)]


def basic_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
    dilation: int = 1,
) -> list[nn.Module]:
    """Two convolutions (He et al., 2016, arXiv 1512.03385), dilated if asked (Yu and Koltun, 2016, 1511.07122)."""
    return [
        conv2d(in_channels, out_channels, kernel_size, stride, dilation=dilation, bias=bias),
        norm(out_channels),
        activation(),
        conv2d(out_channels, out_channels, kernel_size, dilation=dilation, bias=bias),
        norm(out_channels),
    ]


def pre_activation_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
) -> list[nn.Module]:
    """Norm and activation before each of two convolutions (He et al., 2016, arXiv 1603.05027)."""
    return [
        norm(in_channels),
        activation(),
        conv2d(in_channels, out_channels, kernel_size, stride, bias=bias),
        norm(out_channels),
        activation(),
        conv2d(out_channels, out_channels, kernel_size, bias=bias),
    ]


def bottleneck_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
    reduction: int = 4,
    groups: int = 1,
) -> list[nn.Module]:
    """1x1, spatial, 1x1 convolution; with groups the block of ResNeXt (Xie et al., 2017, arXiv 1611.05431)."""
    inner = out_channels // reduction
    return [
        nn.Conv2d(in_channels, inner, 1, bias=bias),
        norm(inner),
        activation(),
        conv2d(inner, inner, kernel_size, stride, groups=groups, bias=bias),
        norm(inner),
        activation(),
        nn.Conv2d(inner, out_channels, 1, bias=bias),
        norm(out_channels),
    ]


def depthwise_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
) -> list[nn.Module]:
    """A depthwise and a 1x1 convolution (MobileNet, Howard et al., 2017, arXiv 1704.04861)."""
    return [
        conv2d(in_channels, in_channels, kernel_size, stride, groups=in_channels, bias=bias),
        norm(in_channels),
        activation(),
        nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        norm(out_channels),
    ]


def inverted_bottleneck_body(
    in_channels: int,
    out_channels: int,
    stride: int,
    kernel_size: int,
    norm: NormFactory,
    activation: ActivationFactory,
    bias: bool,
    expansion: int = 4,
) -> list[nn.Module]:
    """Expand, depthwise, project (MobileNetV2, Sandler et al., 2018, arXiv 1801.04381)."""
    inner = in_channels * expansion
    return [
        nn.Conv2d(in_channels, inner, 1, bias=bias),
        norm(inner),
        activation(),
        conv2d(inner, inner, kernel_size, stride, groups=inner, bias=bias),
        norm(inner),
        activation(),
        nn.Conv2d(inner, out_channels, 1, bias=bias),
        norm(out_channels),
    ]


def with_squeeze_excitation(
    body: list[nn.Module], channels: int, activation: ActivationFactory, enabled: bool
) -> nn.Sequential:
    """The body as a sequence, closed by squeeze-excitation if enabled."""
    return nn.Sequential(*body, *([SqueezeExcitation(channels, activation)] if enabled else []))
