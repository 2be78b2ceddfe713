"""Learning to rank architectures by what their networks reach when trained, from their text alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from experiments.architecture_ranking.graph_text import GraphTextEncoder, ranking_loss
from hypergen.generators.latent_diffusion.autoencoder_training import linear_decay


class ArchitectureRanking(pl.LightningModule):
    """Minimises the pairwise ranking loss of architectures' scores.

    Args:
        texts: The lines of each architecture, from :func:`experiments.architecture_ranking.graph_text.graph_text`.
        measured: [architectures], such as accuracies; the higher, the better.
        hidden: Channels.
        layers: Number of layers of the transformer.
        dropout: Dropout probability of the transformer.
        steps: Number of steps of training.
        batch_size: Architectures per step.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        warmup_steps: Until the peak.
        seed: Random seed of batches.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[str]],
        measured: Tensor,
        *,
        hidden: int = 48,
        layers: int = 2,
        dropout: float = 0.1,
        steps: int = 300,
        batch_size: int = 32,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 30,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.texts, self.measured = list(texts), measured
        self.encoder = GraphTextEncoder(hidden, layers, dropout=dropout)
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of architectures, in a new order each epoch."""
        random = torch.Generator().manual_seed(self.seed)
        return DataLoader(range(len(self.texts)), self.batch_size, shuffle=True, generator=random)  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """One step on a batch of architectures."""
        scores = self.encoder([self.texts[number] for number in batch.tolist()])
        loss = ranking_loss(scores, self.measured[batch.cpu()].to(scores))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def predict(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Scores of architectures, [architectures]; only their order means anything."""
        training = self.training
        self.eval()
        parts = [self.encoder(texts[start : start + 32]) for start in range(0, len(texts), 32)]
        self.train(training)
        return torch.cat(parts).cpu()

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        return linear_decay(
            self, list(self.parameters()), self.learning_rate, self.weight_decay, self.warmup_steps, self.steps
        )
