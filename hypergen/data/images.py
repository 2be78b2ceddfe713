"""What all image data has in common: splits as tensors in memory, and their loaders."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hypergen.data.in_memory import SPLITS, InMemoryDataModule
from hypergen.data.task import CLASSIFICATION

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageDataModule(InMemoryDataModule):
    """Labelled images in memory, standardised with the statistics of the training images.

    A subclass says how the raw splits are read, in :meth:`load`; reading happens once, at the first use.

    Args:
        batch_size: Images per batch.
        seed: Random seed of the split into training and validation images, and of the order of training batches.
        num_workers: Loader processes; the images are in memory, so 0 is seldom slower.

    Attributes:
        image_size: Height and width of the images.
        channels: Channels of the images.
        num_classes: Number of classes.
        task: What networks on this data are trained for and measured by.
    """

    task = CLASSIFICATION

    image_size: int
    channels: int
    num_classes: int

    def __init__(self, batch_size: int = 64, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive; got {batch_size}")
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self._tensors: dict[str, tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read the splits.

        Returns:
            For each of train, validation and test: images [N, channels, height, width] as floats, not yet
            standardised, and labels [N] as int64.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read and standardise the images, once."""
        if self._tensors is not None:
            return
        splits = self.load()
        train = splits["train"][0]
        # Per channel, not per pixel: pixels in a corner may be constant.
        mean = train.mean(dim=(0, 2, 3), keepdim=True)
        std = train.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)
        self._tensors = {name: ((images - mean) / std, labels) for name, (images, labels) in splits.items()}

    def tensors(self, split: str) -> tuple[Tensor, Tensor]:
        """All images and labels of a split.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.

        Returns:
            Images [N, channels, height, width] as float32, standardised; labels [N] as int64.

        Raises:
            ValueError: The split is unknown.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; expected one of {SPLITS}")
        self.setup()
        assert self._tensors is not None
        return self._tensors[split]


def refuse_channels(channels: int) -> None:
    """Raise a ValueError unless images may be converted to so many channels."""
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (colour); got {channels}")


def mode_of(channels: int) -> str:
    """What PIL calls images of so many channels."""
    return "RGB" if channels == 3 else "L"


def pixels_of(image: Image) -> Tensor:
    """An image as a tensor ``[channels, height, width]`` from 0 to 1."""
    import numpy as np

    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(*pixels.shape[:2], -1).permute(2, 0, 1) / 255


def held_out_count(size: int | float, images: int) -> int:
    """How many images a number, or a share below 1, holds out.

    Raises:
        ValueError: None would be left for one part.
    """
    count = round(size * images) if size < 1 else int(size)
    if not 0 < count < images:
        raise ValueError(f"validation_size {size} holds out {count} of {images} images; leave some for each part")
    return count


def stratified_split(labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split indices so that each class keeps its share in both parts; the global random state is left alone.

    Args:
        labels: Labels [N].
        held_out: How many indices the second part has.
        seed: The same seed gives the same split.

    Returns:
        Indices [N - held_out] and [held_out], each sorted.
    """
    from sklearn.model_selection import train_test_split

    kept, out = train_test_split(range(len(labels)), test_size=held_out, random_state=seed, stratify=labels.numpy())
    return torch.tensor(sorted(kept)), torch.tensor(sorted(out))
