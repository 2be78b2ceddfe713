"""Layers that the families share: activations, norms, pooling, squeeze-excitation, classifier heads."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

ActivationFactory = Callable[[], nn.Module]
NormFactory = Callable[[int], nn.Module]

ACTIVATIONS: dict[str, ActivationFactory] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
}


def activation_factory(name: str) -> ActivationFactory:
    """The class of an activation.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; expected one of {list(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def norm2d_factory(name: str, groups: int = 4) -> NormFactory:
    """A norm for maps [batch, channels, height, width]: batch, layer (one group), group or none.

    Args:
        name: ``"batch"``, ``"layer"``, ``"group"`` or ``"none"``.
        groups: The number of groups of ``"group"``; fewer where it does not divide the channels.

    Raises:
        ValueError: The name is unknown.
    """
    factories: dict[str, NormFactory] = {
        "batch": nn.BatchNorm2d,
        "layer": lambda channels: nn.GroupNorm(1, channels),
        "group": lambda channels: nn.GroupNorm(_largest_divisor(channels, groups), channels),
        "none": lambda channels: nn.Identity(),
    }
    return _choose_norm(factories, name)


def norm1d_factory(name: str) -> NormFactory:
    """A norm for vectors [..., features]: batch (vectors [batch, features] only), layer, rms or none.

    Raises:
        ValueError: The name is unknown.
    """
    factories: dict[str, NormFactory] = {
        "batch": nn.BatchNorm1d,
        "layer": nn.LayerNorm,
        "rms": nn.RMSNorm,
        "none": lambda features: nn.Identity(),
    }
    return _choose_norm(factories, name)


def _choose_norm(factories: dict[str, NormFactory], name: str) -> NormFactory:
    if name not in factories:
        raise ValueError(f"unknown norm {name!r}; expected one of {list(factories)}")
    return factories[name]


def _largest_divisor(number: int, at_most: int) -> int:
    return next(divisor for divisor in range(min(at_most, number), 0, -1) if number % divisor == 0)


def pooling(name: str) -> nn.Module:
    """Halve a map by maximum or average pooling.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ("max", "average"):
        raise ValueError(f"unknown pooling {name!r}; expected 'max' or 'average'")
    return nn.MaxPool2d(2) if name == "max" else nn.AvgPool2d(2)


def halved(size: int, downsample: str) -> int:
    """The side of a map after one halving: padded strided convolutions round up, pooling rounds down."""
    return (size + 1) // 2 if downsample == "conv" else size // 2


class SqueezeExcitation(nn.Module):
    """Squeeze-and-Excitation Networks (Hu et al., 2018, arXiv 1709.01507): channels scaled by what the map shows."""

    def __init__(self, channels: int, activation: ActivationFactory, reduction: int = 4) -> None:
        super().__init__()
        squeezed = max(channels // reduction, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale maps [batch, channels, height, width]."""
        scale = self.expand(self.activation(self.reduce(self.pool(x))))
        return x * self.gate(scale)


def stem2d(name: str, channels: int, width: int, image_size: int, bias: bool) -> tuple[nn.Conv2d, int]:
    """The first convolution, and the side of the map behind it.

    Args:
        name: ``"conv"`` keeps the resolution, ``"strided"`` halves it, ``"patch"`` cuts the image into patches
            (2x2; 4x4 for images of 32 pixels and more).
        channels: Channels of the image.
        width: Channels of the map.
        image_size: Side of the image.
        bias: Whether the convolution has a bias.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "conv":
        return nn.Conv2d(channels, width, 3, padding=1, bias=bias), image_size
    if name == "strided":
        return nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=bias), (image_size + 1) // 2
    if name == "patch":
        patch = 4 if image_size >= 32 else 2
        return nn.Conv2d(channels, width, patch, stride=patch, bias=bias), image_size // patch
    raise ValueError(f"unknown stem {name!r}; expected 'conv', 'strided' or 'patch'")


def classifier_head(
    head: str, channels: int, size: int, num_classes: int, hidden: int, activation: ActivationFactory
) -> nn.Sequential:
    """Logits [batch, num_classes] from maps [batch, channels, size, size].

    Args:
        head: ``"pool"`` (global average) or ``"flatten"``.
        channels: Channels of the map.
        size: Side of the map.
        num_classes: Number of logits.
        hidden: Width of a hidden linear layer; 0 for none.
        activation: Behind the hidden layer.

    Raises:
        ValueError: The head is unknown.
    """
    if head not in ("pool", "flatten"):
        raise ValueError(f"unknown head {head!r}; expected 'pool' or 'flatten'")
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1)] if head == "pool" else []
    layers.append(nn.Flatten())
    features = channels if head == "pool" else channels * size * size
    if hidden:
        layers += [nn.Linear(features, hidden), activation()]
        features = hidden
    layers.append(nn.Linear(features, num_classes))
    return nn.Sequential(*layers)
