"""Several image data sets as one, for networks that are trained on them in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hypergen.data.images import ImageDataModule, refuse_channels
from hypergen.data.task import Task


@dataclass(frozen=True)
class OneOfSeveral(Task):
    """Choosing among the classes of the data set that a batch is of, by logits over the classes of all.

    Args:
        metric: ``"accuracy"``.
        starts: The first class of each data set, and the number of all classes.
    """

    starts: tuple[int, ...] = (0,)

    def own(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and labels of the data set that the first label belongs to."""
        place = next(i for i in range(1, len(self.starts)) if labels[0] < self.starts[i])
        first, end = self.starts[place - 1], self.starts[place]
        return logits[:, first:end], labels - first


class MultiTaskImageDataModule(ImageDataModule):
    """Data sets of images side by side, brought to one shape, each standardised by itself; labels are counted on.

    A meta-batch takes the samples of one network from one data set, and its loss is over that set's classes.

    Args:
        tasks: The data sets by name.
        image_size: Height and width that all images are resized to.
        channels: 3 or 1; colours become grey by their mean, grey is repeated.
        num_classes: How many classes all have together; None counts them.
        max_train: Most training images of each data set, evenly spread; None for all.
        max_validation: Most validation images of each.
        batch_size: Images per batch.
        seed: Random seed of the order of training batches.
        num_workers: Loader processes.

    Raises:
        ValueError: There is no data set, the classes are another number, or a number is out of range.
    """

    def __init__(
        self,
        tasks: Mapping[str, ImageDataModule],
        image_size: int = 32,
        channels: int = 3,
        num_classes: int | None = None,
        max_train: int | None = 20_000,
        max_validation: int | None = 200,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        refuse_channels(channels)
        if not tasks:
            raise ValueError("tasks is empty; expected data sets of images by name")
        if image_size < 4:
            raise ValueError(f"image_size must be at least 4; got {image_size}")
        self.tasks, self.image_size, self.channels = dict(tasks), image_size, channels
        self.max_train, self.max_validation = max_train, max_validation
        starts = [0]
        for data in self.tasks.values():
            starts.append(starts[-1] + data.num_classes)
        self.num_classes = starts[-1]
        if num_classes not in (None, self.num_classes):
            each = ", ".join(f"{data.num_classes} of {name}" for name, data in self.tasks.items())
            raise ValueError(f"num_classes={num_classes}, but there are {self.num_classes}: {each}; pass that number")
        self.starts = tuple(starts)
        self.task = OneOfSeveral("accuracy", self.starts)

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The splits of all data sets, one after the other."""
        most = {"train": self.max_train, "validation": self.max_validation, "test": None}
        self._lengths: dict[str, list[int]] = {}
        splits = {}
        for split, limit in most.items():
            images, labels = [], []
            for data, first in zip(self.tasks.values(), self.starts, strict=False):
                every, own = data.tensors(split)
                if limit is not None and len(own) > limit:
                    kept = torch.linspace(0, len(own) - 1, limit).long()
                    every, own = every[kept], own[kept]
                images.append(as_images(every, self.channels, self.image_size))
                labels.append(own + first)
            self._lengths[split] = [len(own) for own in labels]
            splits[split] = (torch.cat(images), torch.cat(labels))
        return splits

    def setup(self, stage: str | None = None) -> None:
        """Read the images, once; each data set has standardised its own."""
        if self._tensors is None:
            self._tensors = self.load()

    def parts(self, split: str) -> list[tuple[int, int]]:
        """The first index and the one after the last of each data set."""
        self.setup()
        ends = torch.tensor(self._lengths[split]).cumsum(0).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


def as_images(images: Tensor, channels: int, size: int) -> Tensor:
    """Images in another shape: colours become grey by their mean, grey is repeated; smaller by area, larger bilinear.

    Args:
        images: [N, channels, height, width].
        channels: 1 or 3, or what they have.
        size: Height and width.
    """
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[-1] > size:
        return F.interpolate(images, size=(size, size), mode="area")
    if images.shape[-1] < size:
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images
