"""The denoiser of weight latents: a residual network whose layers are modulated by time and condition."""

from __future__ import annotations

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn import functional as F


class _Block(nn.Module):
    """``x + W GELU(V norm(x) + C condition)``."""

    def __init__(self, hidden: int, condition_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 2 * hidden)
        self.condition = nn.Linear(condition_size, 2 * hidden)
        self.down = nn.Linear(2 * hidden, hidden)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x)) + self.condition(condition)))


class LatentDenoiser(ModelMixin, ConfigMixin):
    """Predicts what the scheduler's ``prediction_type`` says, from a noisy latent, its time and a condition.

    Args:
        latent_size: Length of the latent.
        condition_size: Length of the condition.
        hidden: Width.
        layers: Residual blocks.
    """

    @register_to_config
    def __init__(self, latent_size: int = 128, condition_size: int = 256, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.time = nn.Sequential(Timesteps(64, True, 0.0), TimestepEmbedding(64, condition_size))
        self.mix = nn.Sequential(nn.Linear(condition_size, condition_size), nn.GELU())
        self.enter = nn.Linear(latent_size, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, condition_size) for _ in range(layers))
        self.leave = nn.Linear(hidden, latent_size)
        nn.init.zeros_(self.leave.weight)

    def forward(self, latents: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Denoise.

        Args:
            latents: Normalised and noisy, ``[batch, latent_size]``.
            timesteps: ``[batch]``.
            condition: ``[batch, condition_size]``.

        Returns:
            ``[batch, latent_size]``.
        """
        waves, embed = self.time  # Sines are float32, whatever the type of the parameters.
        condition = self.mix(condition + embed(waves(timesteps).to(condition.dtype)))
        state = self.enter(latents)
        for block in self.blocks:
            state = block(state, condition)
        return self.leave(state)
