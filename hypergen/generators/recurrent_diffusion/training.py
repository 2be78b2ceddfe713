"""Training a recurrent diffusion: each token is denoised, given what the recurrent network says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.generators.recurrent_diffusion.model import RecurrentDiffusion
from hypergen.generators.tokens.training import TokenGeneratorTraining


class RecurrentDiffusionTraining(TokenGeneratorTraining):
    """Minimises the error of the denoiser's prediction over windows of tokens.

    One window of each batch's networks is drawn; the recurrent state before it is computed without gradients, so
    memory does not grow with depth.

    Args:
        generator: The recurrent diffusion.
        networks: The zoo, by layout.
        **options: Keyword arguments of :class:`~hypergen.generators.tokens.training.TokenGeneratorTraining`.
    """

    def __init__(
        self, generator: RecurrentDiffusion, networks: Sequence[LayoutNetworks] | ZooDataModule, **options: Any
    ) -> None:
        super().__init__(generator, networks, **options)
        self.collate_conditions()

    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """The denoising error of one window."""
        generator, number = self.generator, self.numbers[which]
        condition = self.embed_conditions(which, index)
        positions = generator.statistics.positions(number, self.device)
        last = max(len(positions) - generator.window, 0)
        start = int(torch.randint(last + 1, (), generator=random))
        state = None
        with torch.no_grad():
            for before in range(0, start, generator.window):
                part = positions[before : min(before + generator.window, start)]
                _, state = generator.prototypes(part, condition, state)
        window = slice(start, start + generator.window)
        found, _ = generator.prototypes(positions[window], condition, state)
        clean = self.tokens[which][index][:, window].to(self.device)
        scheduler = generator.scheduler
        times = torch.randint(scheduler.config.num_train_timesteps, clean.shape[:2], generator=random).flatten()
        noise = torch.randn(clean.shape, generator=random).to(clean).flatten(0, 1)
        flat, times = clean.flatten(0, 1), times.to(self.device)
        predicted = generator.denoiser(scheduler.add_noise(flat, noise, times), times, found.flatten(0, 1))
        wanted = scheduler.get_velocity(flat, noise, times)
        mask = generator.statistics.values(number, self.device)[window].repeat(len(index), 1)
        return ((predicted - wanted).square() * mask).sum() / mask.sum()
