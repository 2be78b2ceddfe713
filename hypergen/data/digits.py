"""Scikit-learn's handwritten digits: 1,797 images of 8x8 pixels that come with the library."""

from __future__ import annotations

import torch
from torch import Tensor

from hypergen.data.images import ImageDataModule, stratified_split


class DigitsDataModule(ImageDataModule):
    """Digits in a fixed, stratified split: 1,077 training, 360 validation and 360 test images.

    Args:
        batch_size: Images per batch.
        seed: Random seed of the split and of the order of training batches.
        num_workers: Loader processes.
    """

    image_size = 8
    channels = 1
    num_classes = 10

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read the splits: images [N, 1, 8, 8] with values from 0 to 1, labels [N]."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(digits.target).long()
        development, test = stratified_split(labels, 360, self.seed)
        kept, held_out = stratified_split(labels[development], 360, self.seed)
        indices = {"train": development[kept], "validation": development[held_out], "test": test}
        return {name: (images[index], labels[index]) for name, index in indices.items()}
