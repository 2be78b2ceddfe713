"""What training a generator of weight tokens on a zoo has in common, whatever its loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.errors import ParameterError
from hypergen.functional.moving_average import MovingAverage
from hypergen.generators.latent_diffusion.autoencoder_training import linear_decay


class TokenGeneratorTraining(pl.LightningModule):
    """Trains on standardised tokens of networks; each step's networks are of one layout.

    A subclass says what the loss is.

    Args:
        generator: Has ``statistics``, which are set from the zoo.
        networks: Training networks by layout, or the zoo that has them.
        steps: Number of steps of training.
        batch_size: Networks per step.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Until the peak.
        average_decay: Decay of the moving average of the weights, which is kept.
        seed: With the step it determines what is drawn.
    """

    def __init__(
        self,
        generator: Any,
        networks: Sequence[LayoutNetworks] | ZooDataModule,
        *,
        steps: int,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 50,
        average_decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(networks, ZooDataModule):
            networks = networks.networks("train", generator.condition_kinds)
        if not networks or not all(len(each.conditions) for each in networks):
            raise ParameterError("A generator is trained on networks of each layout; there are none.")
        self.generator, self.networks = generator, list(networks)
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.weight_decay, self.warmup_steps, self.average_decay = weight_decay, warmup_steps, average_decay
        self.seed = seed
        self.numbers = [
            generator.statistics.number_of({name: value.shape[1:] for name, value in each.parameters.items()})
            for each in networks
        ]
        for number, each in zip(self.numbers, networks, strict=True):
            generator.statistics.measure(number, each.parameters)
        # Cut once: networks of this size fit into memory many times over.
        self.tokens = [
            generator.statistics.encode(number, each.parameters)
            for number, each in zip(self.numbers, networks, strict=True)
        ]

    @abstractmethod
    def loss(self, which: int, index: Tensor, random: torch.Generator) -> Tensor:
        """The loss of some networks of one layout.

        Args:
            which: One of ``networks``, ``numbers`` and ``tokens``.
            index: Networks of the batch.
            random: All randomness comes from it.
        """

    def collate_conditions(self) -> None:
        """Set ``conditions`` to those of all networks by layout, and the encoder's scale of metrics to theirs."""
        encoder = self.generator.condition_encoder
        self.conditions = [encoder.collate(each.conditions) for each in self.networks]
        if "metric" in encoder.kinds:
            encoder.measure_metrics(torch.cat([each["metric"] for each in self.conditions]))

    def embed_conditions(self, which: int, index: Tensor) -> Tensor:
        """The embedded conditions of some networks of one layout, ``[len(index), condition_size]``."""
        given = {name: value[index].to(self.device) for name, value in self.conditions[which].items()}
        return self.generator.condition_encoder(given, len(index))

    def train_dataloader(self) -> DataLoader[int]:
        """Batches are drawn in the step, from its number, so that a resumed run sees what it would have seen."""
        return DataLoader(range(self.steps), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """One batch; returns its loss."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        counts = torch.tensor([float(len(tokens)) for tokens in self.tokens])
        which = int(torch.multinomial(counts, 1, generator=random))
        index = torch.randint(len(self.tokens[which]), (self.batch_size,), generator=random)
        loss = self.loss(which, index, random)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        return linear_decay(self, self.trained(), self.learning_rate, self.weight_decay, self.warmup_steps, self.steps)

    def configure_callbacks(self) -> list[pl.Callback]:
        """What is kept in the end is the moving average."""
        return [MovingAverage(self.trained(), self.average_decay)]

    def trained(self) -> list[nn.Parameter]:
        """What is trained."""
        return list(self.generator.parameters())

    def masked_error(self, which: int, one: Tensor, other: Tensor) -> Tensor:
        """Mean squared error of tokens ``[networks, num_tokens, token_size]``, padding left out."""
        mask = self.generator.statistics.values(self.numbers[which], one.device)
        return ((one - other).square() * mask).sum() / (mask.sum() * len(one))
