"""What a protocol trains, selects and measures on, as plain tensors."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class HasTensors(Protocol):
    """What :class:`ImageData` is read from, such as :class:`hypergen.data.DigitsDataModule`."""

    def tensors(self, split: str) -> tuple[Tensor, Tensor]:
        """Images [N, channels, height, width] and labels [N] of ``"train"``, ``"validation"`` or ``"test"``."""
        ...


class ImageData(NamedTuple):
    """Images [N, channels, height, width] and labels [N] of each split; or tokens and next ones, [N, length] each."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def read(cls, data: HasTensors) -> ImageData:
        """Take the tensors out of a data module."""
        return cls(data.tensors("train"), data.tensors("validation"), data.tensors("test"))

    @property
    def num_classes(self) -> int:
        """Classes among the training images."""
        return int(self.train[1].max()) + 1

    def train_batches(self, batch_size: int = 256) -> list[tuple[Tensor, Tensor]]:
        """Training images and labels in order, for statistics and ridge readouts."""
        images, labels = self.train
        return list(zip(images.split(batch_size), labels.split(batch_size), strict=True))

    def fingerprint(self) -> str:
        """A hash of the labels in order and of the images' shapes.

        The images' values are left out: their last bits depend on the machine that standardised them.
        """
        digest = hashlib.sha256()
        for images, labels in self:
            digest.update(repr(tuple(images.shape)).encode())
            digest.update(labels.to(torch.int64).numpy().tobytes())
        return digest.hexdigest()[:16]
