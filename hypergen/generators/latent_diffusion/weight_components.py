"""Principal components of the weights of one layout, as an autoencoder whose decoder is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hypergen.errors import ParameterError
from hypergen.generators.latent_diffusion.weight_autoencoder import WeightNormalisation
from hypergen.generators.tokens.weight_tokens import LayoutBatch, WeightTokens


class WeightComponents(WeightNormalisation, ModelMixin, ConfigMixin):
    """A network ↔ its coordinates along the principal components of a zoo of one layout.

    For zoos that are too small to learn an autoencoder from, such as some dozens of adapters: the components are there
    at once, and training goes on from them: ``x = centre + z W``, where ``centre`` and ``W`` are trained with what
    writes latents, while the way into latents stays.

    Args:
        num_tokens: Tokens of the layout.
        token_size: Values per token.
        latent_size: Components.
        latent_noise: Standard deviation of the noise on latents in training, relative to theirs.
    """

    config: Any
    read: Tensor
    mean: Tensor

    @register_to_config
    def __init__(
        self, num_tokens: int, token_size: int = 64, latent_size: int = 128, latent_noise: float = 0.1
    ) -> None:
        super().__init__()
        values = num_tokens * token_size
        self.register_normalisation(latent_size)
        self.register_buffer("read", torch.zeros(latent_size, values))
        self.register_buffer("mean", torch.zeros(values))
        self.write = nn.Parameter(torch.zeros(latent_size, values))
        self.centre = nn.Parameter(torch.zeros(values))

    def decoder_parameters(self) -> Iterable[nn.Parameter]:
        """What turns latents into weights."""
        return (self.write, self.centre)

    @torch.no_grad()
    def measure_scales(self, layouts: Iterable[tuple[WeightTokens, Tensor]]) -> None:
        """Set scales, of differences from the mean network, and components from a zoo.

        Args:
            layouts: The one layout with its networks' tokens, ``[networks, num_tokens, token_size]``.

        Raises:
            ParameterError: There are several layouts.
        """
        pairs = list(layouts)
        if len(pairs) != 1:
            raise ParameterError(f"Principal components are those of one layout; the zoo has {len(pairs)}.")
        layout, tokens = pairs[0]
        super().measure_scales([(layout, tokens - tokens.mean(0))])
        values = (tokens / self.scales(layout)).flatten(1)
        self.mean.copy_(values.mean(0))
        components = torch.linalg.svd(values - self.mean, full_matrices=False).Vh[: len(self.read)]
        self.read.zero_()[: len(components)] = components
        self.write.copy_(self.read)
        self.centre.copy_(self.mean)
        self.measure_latents((values - self.mean) @ self.read.T)

    def encode(self, tokens: Tensor, layouts: LayoutBatch, layout: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of networks: mean ``[batch, latent_size]`` and standard deviation ``[latent_size]``."""
        noise = self.config.latent_noise * self.latent_std
        return (tokens.flatten(1) - self.mean) @ self.read.T, noise.expand(len(self.read))

    def decode(
        self, latents: Tensor, layouts: LayoutBatch, layout: Tensor, architectures: Tensor | None = None
    ) -> Tensor:
        """Tokens of networks, in scale, ``[batch, num_tokens, token_size]``; values that are padding hold anything."""
        return torch.addmm(self.centre, latents, self.write).unflatten(1, (self.config.num_tokens, -1))
