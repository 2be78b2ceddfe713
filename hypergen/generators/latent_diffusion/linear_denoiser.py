"""A denoiser of weight latents that is linear in latent and condition."""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn


class LinearDenoiser(ModelMixin, ConfigMixin):
    """``a(t) ⊙ C condition + b(t) ⊙ latent``, as the best denoiser of Gaussian latents around a linear map is.

    With some dozens of tasks, a denoiser with hidden layers learns by heart which latent belongs to which condition. A
    linear one cannot: what it says for a condition that was not seen is put together from those that were.

    Args:
        latent_size: Length of the latent.
        condition_size: Length of the condition.
    """

    @register_to_config
    def __init__(self, latent_size: int = 128, condition_size: int = 256) -> None:
        super().__init__()
        self.condition = nn.Linear(condition_size, latent_size)
        self.time = nn.Sequential(Timesteps(64, True, 0.0), TimestepEmbedding(64, 64), nn.Linear(64, 2 * latent_size))

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Denoise.

        Args:
            latents: Normalised and noisy, ``[batch, latent_size]``.
            timesteps: ``[batch]``.
            condition: ``[batch, condition_size]``.

        Returns:
            ``[batch, latent_size]``.
        """
        # Timesteps embeds in float32, whatever the type of the module.
        embedded = self.time[1](self.time[0](timesteps).to(latents.dtype))
        of_condition, of_latent = self.time[2](embedded).chunk(2, -1)
        return (1 + of_condition) * self.condition(condition) + of_latent * latents
