"""Training a hypernetwork by the loss of its target's task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.generators.hypernetwork.model import HyperNetwork

Loss = Callable[[Any, Any, Any], Tensor]


class HyperNetworkTraining(pl.LightningModule):
    """Draws conditions, runs the target under them, and follows the task's loss.

    A base class, too: override :meth:`conditions`, :meth:`prepare` or :meth:`loss`.

    Args:
        generator: The hypernetwork.
        data: LightningDataModule with batches of (inputs, labels); None where loaders are given to the trainer.
        steps: Length of the learning rate schedule.
        learning_rate: Highest learning rate of AdamW, with cosine decay.
        weight_decay: Weight decay of the hypernetwork.
        prepare: Called with a batch and its conditions; returns the batch that they make of it, such as rotated images.
        loss: Called with outputs, batch and conditions; by default cross-entropy with the batch's labels.
        per_example: Whether each example gets a condition of its own, or one is drawn for the batch.
        check: Whether the hypernetwork is checked at the first step; what is wrong becomes a warning.
    """

    def __init__(
        self,
        generator: HyperNetwork,
        data: pl.LightningDataModule | None = None,
        *,
        steps: int = 1000,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        prepare: Callable[[Any, Any], Any] | None = None,
        loss: Loss | None = None,
        per_example: bool = True,
        check: bool = True,
    ) -> None:
        super().__init__()
        self.generator, self.data = generator, data
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.per_example, self.check_first = per_example, check
        self._prepare, self._loss = prepare, loss

    def conditions(self, batch: Any) -> Any:
        """Draw the conditions of a batch, one for each example or one for all."""
        drawn = self.generator.encoding.random(len(batch[0]) if self.per_example else 1)
        if isinstance(drawn, Tensor):
            return (drawn if self.per_example else drawn[0]).to(self.device)
        return {name: (value if self.per_example else value[0]).to(self.device) for name, value in drawn.items()}

    def prepare(self, batch: Any, conditions: Any) -> Any:
        """What the conditions make of a batch."""
        return batch if self._prepare is None else self._prepare(batch, conditions)

    def loss(self, outputs: Any, batch: Any, conditions: Any) -> Tensor:
        """The task's loss."""
        if self._loss is not None:
            return self._loss(outputs, batch, conditions)
        return F.cross_entropy(outputs, batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch; returns its loss."""
        conditions = self.conditions(batch)
        batch = self.prepare(batch, conditions)
        if self.check_first and self.global_step == 0:
            found = self.generator.check(batch[0])
            for problem in found.problems:
                warnings.warn(f"The hypernetwork starts badly: {problem}.", stacklevel=2)
        loss = self.loss(self.generator(batch[0], condition=conditions), batch, conditions)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loss of a validation batch, under conditions that are drawn."""
        conditions = self.conditions(batch)
        batch = self.prepare(batch, conditions)
        outputs = self.generator(batch[0], condition=conditions)
        self.log("val/loss", self.loss(outputs, batch, conditions), prog_bar=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """AdamW with cosine decay."""
        optimizer = torch.optim.AdamW(
            self.generator.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        """Training batches."""
        return self._data.train_dataloader()

    def val_dataloader(self) -> Any:
        """Validation batches."""
        return [] if self.data is None else self.data.val_dataloader()

    @property
    def _data(self) -> Any:
        assert self.data is not None, "pass data=, or loaders to the trainer"
        return self.data
