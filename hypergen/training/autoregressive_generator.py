"""Training an autoregressive generator: first the codes, then what follows what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.generators.autoregressive_generator import AutoregressiveGenerator
from hypergen.training.network_batches import LayoutNetworks
from hypergen.training.token_generators import TokenGeneratorTraining


class AutoregressiveGeneratorTraining(TokenGeneratorTraining):
    """Reconstruction through the codebook for a share of the steps, then the cross-entropy of each next code.

    Args:
        generator: The autoregressive generator.
        networks: The zoo, by layout.
        quantizer_share: Of the steps, after which the codes stay as they are.
        commitment: Weight of keeping vectors near their codes.
        **options: Of :class:`~hypergen.training.token_generators.TokenGeneratorTraining`.
    """

    def __init__(
        self,
        generator: AutoregressiveGenerator,
        networks: Sequence[LayoutNetworks],
        *,
        quantizer_share: float = 0.4,
        commitment: float = 0.25,
        **options: Any,
    ) -> None:
        super().__init__(generator, networks, **options)
        self.quantizer_steps = int(quantizer_share * self.steps)
        self.commitment = commitment
        encoder = generator.condition_encoder
        self.conditions = [encoder.collate(each.conditions) for each in networks]
        if "metric" in encoder.kinds:
            encoder.measure_metrics(torch.cat([each["metric"] for each in self.conditions]))

    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """Reconstruction or cross-entropy of some networks, whichever is trained now."""
        generator, number = self.generator, self.numbers[which]
        positions = generator.statistics.positions(number, self.device)
        tokens = self.tokens[which][index].to(self.device)
        if self.global_step < self.quantizer_steps:
            vectors = generator.code_vectors(tokens, positions)
            entries, off = generator.quantizer.quantize(vectors)
            generator.quantizer.follow(vectors, random)
            error = self.masked_error(which, generator.tokens_of(entries, positions), tokens)
            self.log("train/reconstruction", error)
            return error + self.commitment * off
        with torch.no_grad():
            codes = generator.quantizer(generator.code_vectors(tokens, positions))
        told = {name: value[index].to(self.device) for name, value in self.conditions[which].items()}
        logits = generator.logits(codes, positions, generator.condition_encoder(told, len(index)))
        return F.cross_entropy(logits.flatten(0, 2), codes.flatten())
