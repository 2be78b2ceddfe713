"""Training one ordinary network, from its own initialisation or from generated parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hypergen.architectures import load_split
from hypergen.architectures.by_name import build_model
from hypergen.architectures.split_files import SPLITS
from hypergen.data.images import ImageDataModule
from hypergen.errors import HypergenError


def build_target(name: str) -> nn.Module:
    """Build the network that ``name`` means, at its own initialisation.

    Args:
        name: ``SPLIT:INDEX``, an architecture of a split, such as ``test:0``; or what
            :func:`hypergen.architectures.by_name.build_model` takes, such as ``timm:resnet18``.

    Raises:
        HypergenError: The split has no such index, or no model has this name.
    """
    split, _, index = name.partition(":")
    if split not in SPLITS:
        return build_model(name, on_meta=False)
    architectures = load_split(split)
    if not (index.isdecimal() and int(index) < len(architectures)):
        raise HypergenError(
            f"{name!r} names no architecture: the split {split!r} counts from {split}:0 to "
            f"{split}:{len(architectures) - 1}."
        )
    return architectures[int(index)].build()


class TargetTraining(pl.LightningModule):
    """Trains a classifier by AdamW with cosine decay, and measures it on validation and test images as it goes.

    Test accuracy is measured to report it; nothing is selected by it.

    Args:
        target: The network.
        data: The images; None where loaders are given to the trainer.
        steps: Length of the learning rate schedule.
        learning_rate: At the start.
        weight_decay: Weight decay of everything but vectors: biases and the parameters of norms.
        threshold: The test accuracy whose first step is noted.
        initialise: Called with target, data and training batches before training; returns the share of parameters that
            it predicted.

    Attributes:
        curve: (step, validation accuracy, test accuracy) of each measurement.
    """

    def __init__(
        self,
        target: nn.Module,
        data: ImageDataModule | None = None,
        *,
        steps: int,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.0,
        threshold: float = 0.95,
        initialise: Callable[[nn.Module, ImageDataModule, Iterable[Any]], float] | None = None,
    ) -> None:
        super().__init__()
        self.target, self.data = target, data
        self.share_of_parameters_predicted = 0.0
        self._batches: Any = None
        if initialise is not None:
            assert data is not None, "a target is initialised on data"
            # One loader for both, as its order of images goes on.
            self._batches = data.train_dataloader()
            self.share_of_parameters_predicted = initialise(target, data, self._batches)
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.threshold = threshold
        self.curve: list[tuple[int, float, float]] = []
        self._hits = [[0, 0], [0, 0]]  # [validation, test] × [correct, seen]

    @property
    def steps_to_threshold(self) -> int | None:
        """The first measured step with the threshold's test accuracy; None if there was none."""
        return next((step for step, _, test in self.curve if test >= self.threshold), None)

    def train_dataloader(self) -> Any:
        """Batches of training images."""
        return self._data.train_dataloader() if self._batches is None else self._batches

    def val_dataloader(self) -> list[Any]:
        """Batches of validation images, and of test images, whose accuracy is reported along the way."""
        return [self._data.val_dataloader(), self._data.test_dataloader()]

    def test_dataloader(self) -> Any:
        """Batches of test images."""
        return self._data.test_dataloader()

    @property
    def _data(self) -> ImageDataModule:
        assert self.data is not None, "pass data=, or loaders to the trainer"
        return self.data

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """One batch; returns its loss."""
        logits, labels = self._logits(batch[0]), batch[1]
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count hits on validation (0) or test (1) images."""
        self._hits[dataloader_idx][0] += int((self._logits(batch[0]).argmax(1) == batch[1]).sum())
        self._hits[dataloader_idx][1] += len(batch[1])

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """The accuracy on test images."""
        hits = (self._logits(batch[0]).argmax(1) == batch[1]).float()
        self.log("test/accuracy", hits.mean(), batch_size=len(hits))

    def on_validation_epoch_start(self) -> None:
        """Start counting."""
        self._hits = [[0, 0], [0, 0]]

    def on_validation_epoch_end(self) -> None:
        """Note the accuracies of all processes together."""
        hits = self.trainer.strategy.reduce(
            torch.tensor(self._hits, dtype=torch.float, device=self.device), reduce_op="sum"
        )
        assert isinstance(hits, Tensor)
        validation, test = (hits[:, 0] / hits[:, 1].clamp_min(1)).tolist()
        self.log_dict({"val/accuracy": validation, "test/accuracy": test}, prog_bar=True, rank_zero_only=True)
        self.curve.append((self.trainer.global_step, validation, test))

    def configure_optimizers(self) -> Any:
        """AdamW and cosine decay."""
        matrices = [p for p in self.target.parameters() if p.requires_grad and p.dim() > 1]
        vectors = [p for p in self.target.parameters() if p.requires_grad and p.dim() <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def get_extra_state(self) -> list[list[float]]:
        """The curve, which goes with the weights into checkpoints and back from the processes that train."""
        return [list(point) for point in self.curve]

    def set_extra_state(self, state: list[list[float]]) -> None:
        """Take up a curve."""
        self.curve = [(int(step), validation, test) for step, validation, test in state]

    def _logits(self, images: Tensor) -> Tensor:
        output = self.target(images)
        # Hugging Face models return an object that names its parts.
        return output if isinstance(output, Tensor) else output.logits
