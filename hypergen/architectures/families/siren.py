"""Implicit neural representations with sine activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Siren(nn.Module):
    r"""A perceptron with sine activations that draws a picture: coordinates in, colours out.

    .. math:: h_{l + 1} = \sin(\omega_0 (W_l h_l + b_l))

    Sitzmann et al., *Implicit Neural Representations with Periodic Activation Functions*, 2020 (arXiv 2006.09661),
    with their initialisation.

    Args:
        widths: Units of each hidden layer.
        in_features: Coordinates of a point.
        out_features: Values at a point.
        omega_0: Frequency of the sines; the higher, the finer what the network draws at initialisation.

    Shapes:
        - coordinates: ``[points, in_features]``, from -1 to 1
        - output: ``[points, out_features]``
    """

    def __init__(
        self, widths: Sequence[int] = (16, 16), in_features: int = 2, out_features: int = 1, omega_0: float = 5.0
    ) -> None:
        super().__init__()
        self.omega_0 = omega_0
        sizes = [in_features, *widths, out_features]
        self.layers = nn.ModuleList(nn.Linear(ins, outs) for ins, outs in zip(sizes, sizes[1:], strict=False))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            bound = (6 / layer.in_features) ** 0.5 / omega_0 if number else 1 / layer.in_features
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Values at points."""
        hidden = coordinates
        for layer in self.layers[:-1]:
            hidden = torch.sin(self.omega_0 * layer(hidden))
        return self.layers[-1](hidden)


def pixel_coordinates(height: int, width: int) -> Tensor:
    """The points of a picture's pixels, ``[height * width, 2]``, rows first, from -1 to 1."""
    axes = (torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
