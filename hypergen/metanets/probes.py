"""Probes: learned inputs that networks are run on, whose responses tell what a network does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hypergen.functional.stacked_module import StackedModule


class Probes(nn.Module):
    r"""Runs networks on inputs that are learned, and returns their outputs as features.

    Probing is from Herrmann et al., "Learning Useful Representations of Recurrent Neural Network Weight Matrices"
    (2024, arXiv:2403.11998) and Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of
    Neural Networks" (2024, arXiv:2403.12143). The inputs come from a deep linear generator, which keeps them from
    fitting the networks at hand one by one: Kahana et al., "Deep Linear Probe Generators for Weight Space Learning"
    (2024, arXiv:2410.10811). They start as normal noise; no data are needed.

    .. math:: x_i = B\,A\,z_i + b, \qquad \mathrm{features}(θ) = [r(f_θ(x_1)), …, r(f_θ(x_n))]

    What networks compute does not change when their neurons are permuted, so neither do the features.

    Args:
        count: How many inputs.
        shape: Shape of an input, without the batch.
        latent: Numbers of :math:`z_i`.
        responses: ``"outputs"``: outputs as they are. ``"classes"``: of logits their probabilities, entropy (1 for
            even ones) and, on an inverse hyperbolic sine's scale, the logarithm of the sum of exponentials.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        latent: int = 32,
        responses: Literal["outputs", "classes"] = "classes",
    ) -> None:
        super().__init__()
        if count < 1 or latent < 1 or responses not in ("outputs", "classes"):
            raise ValueError(
                f"count and latent must be positive and responses 'outputs' or 'classes'; got {count}, {latent}, "
                f"{responses!r}"
            )
        self.count, self.shape, self.responses = count, tuple(shape), responses
        values = math.prod(self.shape)
        self.latents = nn.Parameter(torch.randn(count, latent))
        self.inner = nn.Linear(latent, 2 * latent, bias=False)
        self.outer = nn.Linear(2 * latent, values)
        for layer in (self.inner, self.outer):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(self.outer.bias)

    def num_features(self, outputs: int) -> int:
        """Features of a network with this many outputs."""
        return self.count * (outputs + 2 * (self.responses == "classes"))

    def inputs(self) -> Tensor:
        """The inputs, ``[count, *shape]``."""
        return self.outer(self.inner(self.latents)).view(self.count, *self.shape)

    def forward(self, network: StackedModule, tensors: Mapping[str, Tensor]) -> Tensor:
        """Responses of networks of one architecture, in evaluation mode; differentiable in their tensors, too.

        Args:
            network: The architecture.
            tensors: ``[networks, *shape]`` by name, buffers included.

        Returns:
            ``[networks, num_features]``.
        """
        parameters = {name: tensors[name] for name in network.parameter_names}
        buffers = {name: value for name, value in tensors.items() if name not in parameters}
        outputs = network(parameters, buffers, self.inputs(), training=False, shared=True)
        if self.responses == "outputs":
            return outputs.flatten(1)
        probabilities = outputs.softmax(-1)
        entropy = torch.special.entr(probabilities.clamp(min=1e-6)).sum(-1, keepdim=True) / math.log(outputs.shape[-1])
        energy = outputs.logsumexp(-1, keepdim=True).asinh() / 3
        return torch.cat([probabilities, entropy, energy], -1).flatten(1)
