"""Training a hyper-representation: masked reconstruction, and telling networks apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.generators.hyper_representation.model import HyperRepresentation
from hypergen.generators.tokens.training import TokenGeneratorTraining
from hypergen.generators.tokens.unit_tokens import permute_units
from hypergen.symmetry.align.stacked import PermutationGroup


class HyperRepresentationTraining(TokenGeneratorTraining):
    """``loss = (1 - γ) · reconstruction + γ · contrast``, over two views of each network.

    A view is the network with noise and with some tokens hidden; the second one with its hidden units permuted, where
    the permutation groups are given. Contrast is the cross-entropy of finding the other view of a network among the
    batch, by the cosine of projected mean latents (NT-Xent).

    Args:
        generator: The hyper-representation; its anchors are kept when training ends.
        networks: The zoo, by layout.
        groups: The permutation groups to permute in views; none for zoos of one initialisation, where the order of
            units means something.
        contrast: γ.
        temperature: Temperature of the contrast.
        masked: Share of tokens that are hidden.
        noise: Standard deviation of the noise on standardised values.
        **options: Keyword arguments of :class:`~hypergen.generators.tokens.training.TokenGeneratorTraining`.
    """

    def __init__(
        self,
        generator: HyperRepresentation,
        networks: Sequence[LayoutNetworks] | ZooDataModule,
        *,
        groups: Sequence[PermutationGroup] = (),
        contrast: float = 0.05,
        temperature: float = 0.1,
        masked: float = 0.15,
        noise: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(generator, networks, **options)
        self.groups, self.contrast, self.temperature = groups, contrast, temperature
        self.masked, self.noise = masked, noise
        latent = generator.to_latent.out_features
        # For training alone, so not of the generator.
        self.projection = nn.Sequential(nn.Linear(latent, latent), nn.GELU(), nn.Linear(latent, latent))
        self.hidden = nn.Parameter(torch.zeros(generator.read.in_features))

    def trained(self) -> list[nn.Parameter]:
        """The generator, and what only training needs."""
        return [*self.generator.parameters(), *self.projection.parameters(), self.hidden]

    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """Reconstruction and contrast of some networks."""
        clean = [self.tokens[which][index]] * 2
        if self.groups:
            stacked = {name: value[index] for name, value in self.networks[which].parameters.items()}
            moved, _ = permute_units(stacked, self.groups, random)
            clean[1] = self.generator.statistics.encode(self.numbers[which], moved)
        positions = self.generator.statistics.positions(self.numbers[which], self.device)
        reconstruction = torch.zeros((), device=self.device)
        views = []
        for tokens in (each.to(self.device) for each in clean):
            noisy = tokens + self.noise * torch.randn(tokens.shape, generator=random).to(tokens)
            hide = torch.rand(tokens.shape[:2], generator=random).to(tokens) < self.masked
            latents = self.generator.encode(torch.where(hide[..., None], self.hidden, noisy), positions)
            reconstruction = reconstruction + self.masked_error(
                which, self.generator.decode(latents, positions), tokens
            )
            views.append(F.normalize(self.projection(latents.mean(1)), dim=1))
        self.log("train/reconstruction", reconstruction / 2)
        return (1 - self.contrast) * reconstruction / 2 + self.contrast * self._contrast(*views)

    def _contrast(self, one: Tensor, other: Tensor) -> Tensor:
        every = torch.cat([one, other])
        similarity = every @ every.T / self.temperature
        similarity = similarity.masked_fill(torch.eye(len(every), dtype=torch.bool, device=every.device), -torch.inf)
        count = len(one)
        partner = torch.arange(2 * count, device=every.device).roll(count)
        return F.cross_entropy(similarity, partner)

    def on_fit_end(self) -> None:
        """Keep the anchors, after the moving average has been put in place."""
        generator = self.generator
        for number, each in zip(self.numbers, self.networks, strict=True):
            generator.keep_anchors(number, each.parameters, generator.read_conditions(each.conditions), self.seed)
