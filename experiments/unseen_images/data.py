"""What bodies are judged on: data sets in one shape, and few-shot tasks of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hypergen.data import DigitsDataModule, ParquetImageDataModule, ProceduralImageDataModule
from hypergen.data.images import ImageDataModule
from hypergen.data.multi_task import as_images
from hypergen.evaluation.image_data import ImageData

# Drawn with another seed than those of training: other strokes and textures; letters are in no training.
DRAWN = {
    "letters": ("letters", 26, 100),
    "unseen_strokes": ("strokes", 40, 40),
    "unseen_textures": ("textures", 16, 100),
}
_SEED = 7


def read_data(name: str, files: Sequence[str], size: int, channels: int, most: int = 2000) -> ImageData:
    """A data set in the shape that networks take.

    Args:
        name: ``"digits"``, one of :data:`DRAWN`, or a name for parquet files.
        files: Parquet files of training and of test images, and the name of the image column.
        size: Height and width.
        channels: 1 or 3.
        most: Images of each split; the first ones after a seeded shuffle.
    """
    if files:
        train, test, column = files
        data: ImageDataModule = ParquetImageDataModule(
            train, test, image_column=column, max_train=5 * most, max_test=most
        )
    elif name == "digits":
        data = DigitsDataModule()
    else:
        kind, classes, count = DRAWN[name]
        data = ProceduralImageDataModule(kind, classes, count, seed=_SEED)
    splits = []
    for split in ("train", "validation", "test"):
        images, labels = data.tensors(split)
        kept = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))[:most]
        splits.append((as_images(images[kept], channels, size), labels[kept]))
    return ImageData(*splits)


def few_shot_tasks(
    images: ImageData, tasks: int, ways: int = 5, shots: int = 8, queries: int = 15
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Seeded tasks: images and labels of the support from the training split, and of the queries from the test split.

    Labels count from 0; classes are drawn among those that have as many training images as there are shots.
    """
    generator = torch.Generator().manual_seed(_SEED)
    counts = images.train[1].bincount()
    classes = (counts >= shots).nonzero().flatten()
    drawn = []
    for _ in range(tasks):
        chosen = classes[torch.randperm(len(classes), generator=generator)[:ways]]
        parts: list[Tensor] = []
        for (every, labels), most in ((images.train, shots), (images.test, queries)):
            places = [_some((labels == c).nonzero().flatten(), most, generator) for c in chosen]
            parts.append(every[torch.cat(places)])
            parts.append(torch.cat([torch.full((len(place),), i) for i, place in enumerate(places)]))
        drawn.append((parts[0], parts[1], parts[2], parts[3]))
    return drawn


def _some(places: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return places[torch.randperm(len(places), generator=generator)[:most]]
