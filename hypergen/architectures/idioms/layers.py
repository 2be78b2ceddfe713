"""Layers in the spellings that people use: activations, norms, weight standardisation, channel attention, gains."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "relu6": nn.ReLU6,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "quick_gelu": lambda: QuickGELU(),
    "squared_relu": lambda: SquaredReLU(),
    "prelu": nn.PReLU,
    "sigmoid": nn.Sigmoid,
}
MAP_NORMS = ("batch", "group", "layer", "layer_permuted", "layer_by_hand", "rms", "standardised", "none")
TOKEN_NORMS = ("layer", "layer_by_hand", "rms", "rms_by_hand", "affine", "dynamic_tanh", "scale_norm", "none")
CHANNEL_ATTENTION = ("none", "linear", "conv", "hard", "conv1d", "scaled", "spatial")
GAINS = ("none", "layer_scale", "scalar", "skipinit")


class QuickGELU(nn.Module):
    """``x · sigmoid(1.702 x)``, the activation of CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Act on any shape."""
        return x * torch.sigmoid(1.702 * x)


class SquaredReLU(nn.Module):
    """``relu(x)²`` (Primer, So et al., 2021, arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        """Act on any shape."""
        return F.relu(x).square()


class HandwrittenLayerNorm(nn.Module):
    """Layer norm by mean and variance over one axis, as ConvNeXt and many tutorials write it."""

    def __init__(self, width: int, axis: int = -1) -> None:
        super().__init__()
        shape = (width, 1, 1) if axis == 1 else (width,)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., width]`` or ``[batch, width, height, width]``."""
        mean = x.mean(self.axis, keepdim=True)
        variance = (x - mean).pow(2).mean(self.axis, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + 1e-6)) + self.bias


class HandwrittenRMSNorm(nn.Module):
    """Root-mean-square norm over one axis, as LLaMA writes it."""

    def __init__(self, width: int, axis: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((width, 1, 1) if axis == 1 else (width,)))
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., width]`` or ``[batch, width, height, width]``."""
        return x * torch.rsqrt(x.pow(2).mean(self.axis, keepdim=True) + 1e-6) * self.weight


class PermutedLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of a map, moved last for it."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[batch, channels, height, width]``."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Affine(nn.Module):
    """A learned scale and shift instead of a norm (ResMLP, Touvron et al., 2021, arXiv 2105.03404)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift ``[..., width]``."""
        return torch.addcmul(self.beta, self.alpha, x)


class DynamicTanh(nn.Module):
    """``γ tanh(α x) + β`` (Transformers without Normalization, Zhu et al., 2025, arXiv 2503.10622)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Act on ``[..., width]``."""
        return torch.tanh(self.alpha * x) * self.weight + self.bias


class ScaleNorm(nn.Module):
    """A learned length (Nguyen and Salazar, 2019, arXiv 1910.05895)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.ones(1) * width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``[..., width]``."""
        return F.normalize(x, dim=-1) * self.length


class StandardisedConv2d(nn.Conv2d):
    """A convolution with standardised weights (Qiao et al., 2019, arXiv 1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[batch, in, height, width]``."""
        weight = self.weight
        weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True, correction=0) + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class ScaledStandardisedConv2d(nn.Conv2d):
    """Standardised weights with a gain, for networks without norms (Brock et al., 2021, arXiv 2101.08692)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **options: int | bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)  # type: ignore[arg-type]
        self.gain = nn.Parameter(torch.ones(out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``[batch, in, height, width]``."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        fan_in = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt(variance * fan_in + 1e-4) * self.gain
        return self._conv_forward(x, weight, self.bias)


def activation(name: str) -> nn.Module:
    """A new activation.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; expected one of {list(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def token_norm(name: str, width: int) -> nn.Module:
    """A norm of tokens ``[batch, tokens, width]``; one of :data:`TOKEN_NORMS`."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "layer": nn.LayerNorm,
        "layer_by_hand": HandwrittenLayerNorm,
        "rms": nn.RMSNorm,
        "rms_by_hand": HandwrittenRMSNorm,
        "affine": Affine,
        "dynamic_tanh": DynamicTanh,
        "scale_norm": ScaleNorm,
        "none": lambda width: nn.Identity(),
    }
    return norms[name](width)


def map_norm(name: str, channels: int) -> nn.Module:
    """A norm of maps ``[batch, channels, height, width]``; one of :data:`MAP_NORMS`."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(groups_of(channels, 8), channels),
        "standardised": lambda channels: nn.GroupNorm(groups_of(channels, 4), channels),
        "layer": lambda channels: nn.GroupNorm(1, channels),
        "layer_permuted": PermutedLayerNorm,
        "layer_by_hand": lambda channels: HandwrittenLayerNorm(channels, 1),
        "rms": lambda channels: HandwrittenRMSNorm(channels, 1),
        "none": lambda channels: nn.Identity(),
    }
    return norms[name](channels)


def groups_of(channels: int, at_most: int) -> int:
    """The largest number of equal groups up to a bound."""
    return next(groups for groups in range(min(at_most, channels), 0, -1) if channels % groups == 0)


def conv(
    in_channels: int, out_channels: int, kernel_size: int, norm: str, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A padded convolution: standardised where the norm says so, with a bias where no batch norm follows."""
    layer = StandardisedConv2d if norm == "standardised" else nn.Conv2d
    return layer(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=norm in ("none", "layer")
    )


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation (Hu et al., 2018, arXiv 1709.01507) as it is spelled in several libraries.

    Args:
        spelling: ``"linear"`` layers on flat vectors; 1×1 ``"conv"``; ``"hard"`` sigmoid; ``"conv1d"`` over channels
            (ECA, Wang et al., 2020, arXiv 1910.03151); ``"scaled"`` to twice the sigmoid; ``"spatial"`` besides (CBAM,
            Woo et al., 2018, arXiv 1807.06521).
        channels: Channels of the map.
        activation_name: Between the two layers.
        reduction: Channels over squeezed ones.
    """

    def __init__(self, spelling: str, channels: int, activation_name: str = "relu", reduction: int = 4) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 4)
        self.spelling = spelling
        if spelling == "linear":
            self.fc = nn.Sequential(
                nn.Linear(channels, squeezed, bias=False),
                activation(activation_name),
                nn.Linear(squeezed, channels, bias=False),
                nn.Sigmoid(),
            )
        elif spelling == "conv1d":
            self.conv1d = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        else:
            self.reduce = nn.Conv2d(channels, squeezed, 1)
            self.act = activation(activation_name)
            self.expand = nn.Conv2d(squeezed, channels, 1)
        if spelling == "spatial":
            self.where = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scale maps ``[batch, channels, height, width]``."""
        if self.spelling == "linear":
            batch, channels, _, _ = x.shape
            return x * self.fc(F.adaptive_avg_pool2d(x, 1).view(batch, channels)).view(batch, channels, 1, 1)
        if self.spelling == "conv1d":
            mean = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2)
            return x * torch.sigmoid(self.conv1d(mean)).transpose(-1, -2).unsqueeze(-1)
        scale = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        if self.spelling == "hard":
            return x * F.hardsigmoid(scale)
        x = x * torch.sigmoid(scale)
        if self.spelling == "scaled":
            return 2 * x
        if self.spelling == "spatial":
            seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
            x = x * torch.sigmoid(self.where(seen))
        return x


def channel_attention(spelling: str, channels: int, activation_name: str = "relu") -> nn.Module:
    """Channel attention, or nothing for ``"none"``."""
    return nn.Identity() if spelling == "none" else ChannelAttention(spelling, channels, activation_name)


class Gain(nn.Module):
    """A learned factor on a residual branch.

    Args:
        kind: ``"layer_scale"`` per channel (CaiT, arXiv 2103.17239), one ``"scalar"``, or ``"skipinit"``: one that
            starts at 0 (De and Smith, 2020, arXiv 2002.10444).
        width: Channels.
        maps: Whether channels are axis 1 of maps rather than the last axis of tokens.
    """

    def __init__(self, kind: str, width: int, maps: bool = False) -> None:
        super().__init__()
        shape = ((width, 1, 1) if maps else (width,)) if kind == "layer_scale" else ()
        start = {"layer_scale": 0.1, "scalar": 1.0, "skipinit": 0.0}[kind]
        self.gain = nn.Parameter(torch.full(shape, start))

    def forward(self, x: Tensor) -> Tensor:
        """Scale a branch."""
        return x * self.gain


def gain(kind: str, width: int, maps: bool = False) -> nn.Module:
    """A gain, or nothing for ``"none"``."""
    return nn.Identity() if kind == "none" else Gain(kind, width, maps)


def dense_layers(
    features: int, num_classes: int, layers: int, hidden: int, activation_name: str, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers to the logits, with activations (and dropout) between them."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(features, hidden), activation(activation_name)]
        if dropout:
            parts.append(nn.Dropout(dropout))
        features = hidden
    return nn.Sequential(*parts, nn.Linear(features, num_classes))
