"""The variational autoencoder of weight tokens: a network of any layout ↔ one latent vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hypergen.generators.tokens.weight_tokens import NUM_POSITIONS, ROLES, LayoutBatch, WeightTokens

_COUNTED = 4  # The leading positions after the role are counts; the rest are logarithms of sizes.
_FREQUENCIES = 16


class PositionFeatures(nn.Module):
    """What is known about a token before its values: where it stands, and in what architecture.

    Shapes:
        positions ``[layouts, num_tokens, NUM_POSITIONS]``, architecture ``[layouts, architecture_size]`` →
        ``[layouts, num_tokens, features]``.
    """

    frequencies: Tensor

    def __init__(self, features: int, hidden: int, architecture_size: int = 0) -> None:
        super().__init__()
        # Neighbouring rows must be told apart and far ones still differ: periods from 2 to about 2,000. Layers have
        # periods from 12: networks of other depths lie between those that were seen only where nothing turns faster.
        rows = math.pi * torch.logspace(0, -3, _FREQUENCIES)
        layers = math.pi / 6 * torch.logspace(0, -1, _FREQUENCIES)
        frequencies = torch.stack([layers, layers, rows, rows])
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.role = nn.Embedding(len(ROLES), hidden)
        self.place = nn.Linear(2 * _COUNTED * _FREQUENCIES + NUM_POSITIONS - 1 - _COUNTED + architecture_size, hidden)
        self.net = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, features)
        )

    def forward(self, positions: Tensor, architecture: Tensor | None = None) -> Tensor:
        """Describe tokens."""
        angles = (positions[..., 1 : 1 + _COUNTED, None] * self.frequencies).flatten(-2)
        parts = [angles.sin(), angles.cos(), positions[..., 1 + _COUNTED :] / 8]
        if architecture is not None:
            parts.append(architecture[..., None, :].expand(*positions.shape[:-1], -1))
        return self.net(self.role(positions[..., 0].long()) + self.place(torch.cat(parts, -1)))


def by_layout(function: Callable[[int, Tensor], Tensor], values: Tensor, layout: Tensor) -> Tensor:
    """Call a function with the number of each layout and the rows of its networks; the results in the rows' order."""
    numbers = layout.unique().tolist()
    if len(numbers) == 1:
        return function(numbers[0], values)
    rows = [(layout == number).nonzero().flatten() for number in numbers]
    parts = [function(number, values[own]) for number, own in zip(numbers, rows, strict=True)]
    return torch.cat(parts)[torch.cat(rows).argsort()]


class WeightNormalisation(nn.Module):
    """One scale per role of a tensor, the same for all tasks, and one scale of latents; kept in buffers."""

    role_scale: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def register_normalisation(self, latent_size: int) -> None:
        """Make the buffers."""
        self.register_buffer("role_scale", torch.ones(len(ROLES)))
        self.register_buffer("latent_mean", torch.zeros(latent_size))
        self.register_buffer("latent_std", torch.ones(()))

    @torch.no_grad()
    def measure_scales(self, layouts: Iterable[tuple[WeightTokens, Tensor]]) -> None:
        """Set the scale of each role from a zoo.

        Args:
            layouts: Each with its networks' tokens, ``[networks, num_tokens, token_size]``.
        """
        squares, counts = torch.zeros(len(ROLES)), torch.zeros(len(ROLES))
        for layout, tokens in layouts:
            roles = layout.positions[:, 0].long()
            values = (tokens / layout.units[:, None]).square().sum(2).mean(0)
            squares.index_add_(0, roles, values)
            counts.index_add_(0, roles, layout.mask.sum(1).float())
        known = squares > 0
        self.role_scale.copy_(torch.where(known, (squares / counts.clamp_min(1)).sqrt(), torch.ones(())))

    def scales(self, layout: WeightTokens) -> Tensor:
        """What a value of each token is divided by, ``[num_tokens, 1]``."""
        device = self.role_scale.device
        return (self.role_scale[layout.positions[:, 0].long().to(device)] * layout.units.to(device))[:, None]

    @torch.no_grad()
    def measure_latents(self, latents: Tensor) -> None:
        """Set the mean and the one scale of latents from those of a zoo, ``[networks, latent_size]``."""
        self.latent_mean.copy_(latents.mean(0))
        self.latent_std.copy_((latents - self.latent_mean).square().mean().sqrt().clamp_min(1e-6))


class WeightAutoencoder(WeightNormalisation, ModelMixin, ConfigMixin):
    """Variational autoencoder over weight tokens, after D2NWG.

    Soro et al., *Diffusion-Based Neural Network Weights Generation* (2024), arXiv:2402.18153. There, a convolutional
    autoencoder reads weights padded to one length. Here, what is done to a token's values depends on its position, so
    layouts differ freely and a latent can be decoded into a layout that it was not encoded from:

    ``h = Σ_t g(p_t) ⊙ V x_t + b(p_t)``, ``mean = A h + MLP(h)``, and back ``x_t = V' (g'(p_t) ⊙ A' z + b'(p_t))``.

    The way back is linear in the latent, as in principal components, with bases that depend on the position: with few
    tasks in the zoo, networks for new ones were far better than from a decoder with hidden layers (accuracy .94
    instead of .87 on digits, 64 tasks).

    Values are measured in one scale per role of a tensor, the same for all tasks, kept in buffers.

    Args:
        token_size: Values per token.
        latent_size: Length of the latent.
        hidden: Width; the rank of what is read from and written to a token.
        architecture_size: Length of the embedding of the architecture that the decoder reads; 0 for none.
        latent_noise: Standard deviation of the latent's posterior at the start, relative to a unit latent.
    """

    @register_to_config
    def __init__(
        self,
        token_size: int = 64,
        latent_size: int = 128,
        hidden: int = 256,
        architecture_size: int = 0,
        latent_noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.read_positions = PositionFeatures(2 * hidden, hidden // 4)
        self.read = nn.Linear(token_size, hidden)
        self.mean = nn.Linear(hidden, latent_size)
        self.deviation = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, latent_size)
        )
        self.log_std = nn.Parameter(torch.full((latent_size,), math.log(latent_noise)))
        self.write_positions = PositionFeatures(2 * hidden, hidden // 4, architecture_size)
        self.latent = nn.Linear(latent_size, hidden)
        self.write = nn.Linear(hidden, token_size)
        self.register_normalisation(latent_size)

    def decoder_parameters(self) -> Iterable[nn.Parameter]:
        """What turns latents into weights."""
        for module in (self.write_positions, self.latent, self.write):
            yield from module.parameters()

    def encode(self, tokens: Tensor, layouts: LayoutBatch, layout: Tensor) -> tuple[Tensor, Tensor]:
        """Distribution of the latent of each network.

        Args:
            tokens: In scale, ``[batch, num_tokens, token_size]``.
            layouts: The layouts that occur.
            layout: Which of them each network has, ``[batch]``, int64.

        Returns:
            Mean ``[batch, latent_size]`` and standard deviation ``[latent_size]``.
        """
        gate, shift = self.read_positions(layouts.positions).chunk(2, -1)

        def read(number: int, own: Tensor) -> Tensor:
            count = layouts.layouts[number].num_tokens
            # All tokens at once, by a matrix that the positions make: no state of [batch, num_tokens, hidden].
            matrix = torch.einsum("th,hs->tsh", 1 + gate[number, :count], self.read.weight).flatten(0, 1)
            constant = ((1 + gate[number, :count]) * self.read.bias + shift[number, :count]).sum(0)
            return torch.addmm(constant, own[:, :count].flatten(1), matrix) / count**0.5

        state = by_layout(read, tokens, layout)
        return self.mean(state) + self.deviation(state), self.log_std.exp()

    def decode(
        self, latents: Tensor, layouts: LayoutBatch, layout: Tensor, architectures: Tensor | None = None
    ) -> Tensor:
        """Tokens of networks, in scale.

        Args:
            latents: ``[batch, latent_size]``.
            layouts: The layouts that occur.
            layout: Which of them each network shall have, ``[batch]``, int64.
            architectures: The embedding of each layout's architecture, ``[layouts, architecture_size]``.

        Returns:
            ``[batch, num_tokens, token_size]``; tokens that are padding are 0, values that are hold anything.
        """
        gate, shift = self.write_positions(layouts.positions, architectures).chunk(2, -1)

        def write(number: int, own: Tensor) -> Tensor:
            count = layouts.layouts[number].num_tokens
            matrix = torch.einsum("th,sh->hts", 1 + gate[number, :count], self.write.weight).flatten(1)
            constant = self.write(shift[number, :count]).flatten()
            return layouts.pad(torch.addmm(constant, own, matrix).unflatten(1, (count, -1)))

        return by_layout(write, self.latent(latents), layout)
