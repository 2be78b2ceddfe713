"""Training an autoregressive generator: what code follows what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.generators.autoregressive.model import AutoregressiveGenerator
from hypergen.generators.tokens.training import TokenGeneratorTraining


class AutoregressiveGeneratorTraining(TokenGeneratorTraining):
    """The cross-entropy of each next code, given those before it; codebooks are clusters of the zoo's tokens.

    Args:
        generator: The autoregressive generator; its codebooks are set.
        networks: The zoo, by layout.
        **options: Keyword arguments of :class:`~hypergen.generators.tokens.training.TokenGeneratorTraining`.
    """

    def __init__(
        self, generator: AutoregressiveGenerator, networks: Sequence[LayoutNetworks] | ZooDataModule, **options: Any
    ) -> None:
        super().__init__(generator, networks, **options)
        self.collate_conditions()
        generator.quantizer.fit(torch.cat([tokens.flatten(0, 1) for tokens in self.tokens]), self.seed)
        self.codes = [generator.quantizer(tokens) for tokens in self.tokens]

    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """The cross-entropy of some networks' codes."""
        generator = self.generator
        codes = self.codes[which][index].to(self.device)
        positions = generator.statistics.positions(self.numbers[which], self.device)
        logits = generator.logits(codes, positions, self.embed_conditions(which, index))
        return F.cross_entropy(logits.flatten(0, 2), codes.flatten())
