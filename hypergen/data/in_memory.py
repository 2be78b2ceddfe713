"""What all data in memory has in common: splits as tensors, and their loaders."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, get_args

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)


class InMemoryDataModule(LightningDataModule):
    """Batches of the tensors of each split.

    Attributes:
        batch_size: Samples per batch.
        seed: Random seed of the order of training batches.
        num_workers: Loader processes.
    """

    batch_size: int
    seed: int
    num_workers: int = 0

    @abstractmethod
    def tensors(self, split: str) -> tuple[Tensor, Tensor]:
        """All inputs and targets of a split."""

    def parts(self, split: str) -> list[tuple[int, int]]:
        """Ranges of samples that belong together, from one index to before another: all, but of several data sets."""
        return [(0, len(self.tensors(split)[0]))]

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of training samples in a new order each epoch, the same orders for the same seed."""
        return self._loader("train", torch.Generator().manual_seed(self.seed))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of validation samples."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Batches of test samples."""
        return self._loader("test")

    def _loader(self, split: str, shuffled_by: torch.Generator | None = None) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            TensorDataset(*self.tensors(split)),
            batch_size=self.batch_size,
            shuffle=shuffled_by is not None,
            generator=shuffled_by,
            num_workers=self.num_workers,
        )
