"""Multilayer perceptrons on flattened images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hypergen.architectures.families.layers import activation_factory, norm1d_factory


class MLP(nn.Module):
    """Flatten, hidden layers (linear, norm, activation), a linear layer.

    Args:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of logits.
        widths: Units of each hidden layer.
        norm: ``"batch"``, ``"layer"`` or ``"none"``.
        activation: A name in :data:`hypergen.architectures.families.layers.ACTIVATIONS`.
        bias: Whether the hidden layers have biases.

    Raises:
        ValueError: An option is unknown.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        num_classes: int,
        widths: Sequence[int],
        norm: str = "batch",
        activation: str = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        make_norm = norm1d_factory(norm)
        make_activation = activation_factory(activation)
        layers: list[nn.Module] = [nn.Flatten()]
        features = channels * image_size * image_size
        for width in widths:
            layers.append(nn.Linear(features, width, bias=bias))
            if norm != "none":
                layers.append(make_norm(width))
            layers.append(make_activation())
            features = width
        layers.append(nn.Linear(features, num_classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to logits [batch, num_classes]."""
        return self.layers(images)
