"""Images in a folder per class, as ImageNet is laid out."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from hypergen.data.images import ImageDataModule, held_out_count, mode_of, pixels_of, refuse_channels, stratified_split


class FolderImageDataModule(ImageDataModule):
    """Labelled images from two folders with a folder of image files per class, as torchvision's ``ImageFolder`` reads.

    Images are resized to a shorter side of ``image_size``, cropped at the centre and kept in memory: 49 kB each at
    64×64 in colour, so ``max_per_class`` decides what fits. Validation images are held out of the training folder.

    Args:
        path_train: Folder of the training and validation images.
        path_test: Folder of the test images, with the same classes (ImageNet's ``val``); None holds out as many of the
            training folder as for validation.
        image_size: Height and width.
        channels: 3 for colour, 1 for grey; images are converted.
        num_classes: How many classes there should be; None for as many as there are.
        validation_size: Images held out of the training folder: a number, or a share below 1.
        skip_errors: Whether files that are no image are left out, with a warning that names them, or an error.
        max_per_class: Read only so many images of each class (the first by name); None for all.
        batch_size: Images per batch.
        seed: Random seed of the split into training and validation images, and of the order of training batches.
        num_workers: Loader processes.

    Raises:
        FileNotFoundError: A folder is missing.
        ValueError: A folder has no class folders with images, the two have different classes, or a file is no image;
            raised when the data is first used, except for the classes and the number of channels.
    """

    def __init__(
        self,
        path_train: str | Path,
        path_test: str | Path | None = None,
        image_size: int = 64,
        channels: int = 3,
        num_classes: int | None = None,
        validation_size: int | float = 0.1,
        max_per_class: int | None = None,
        skip_errors: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        refuse_channels(channels)
        self.path_train, self.path_test = Path(path_train), None if path_test is None else Path(path_test)
        self.classes, self.skip_errors = _classes(self.path_train), skip_errors
        if self.path_test is not None and (others := _classes(self.path_test)) != self.classes:
            different = sorted(set(self.classes) ^ set(others))
            raise ValueError(
                f"{self.path_train} and {self.path_test} must have the same class folders; only one of them has "
                f"{', '.join(different[:5])}{' …' if len(different) > 5 else ''}"
            )
        if num_classes not in (None, len(self.classes)):
            raise ValueError(f"{self.path_train} has {len(self.classes)} class folders, and num_classes={num_classes}")
        self.image_size, self.channels, self.num_classes = image_size, channels, len(self.classes)
        self.validation_size, self.max_per_class = validation_size, max_per_class

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read the splits: images [N, channels, image_size, image_size] from 0 to 1, labels [N]."""
        images, labels = self._read(self.path_train)
        count = held_out_count(self.validation_size, len(labels))
        if self.path_test is None:
            kept, out = stratified_split(labels, count, self.seed)
            test = images[out], labels[out]
            images, labels = images[kept], labels[kept]
        else:
            test = self._read(self.path_test)
        train, validation = stratified_split(labels, count, self.seed)
        return {
            "train": (images[train], labels[train]),
            "validation": (images[validation], labels[validation]),
            "test": test,
        }

    def _read(self, path: Path) -> tuple[Tensor, Tensor]:
        from rich.console import Console
        from rich.progress import track
        from torchvision.datasets import ImageFolder

        try:
            samples = ImageFolder(str(path)).samples
        except FileNotFoundError as error:  # a class without images
            raise ValueError(f"{path} is not a folder of images by class: {error}") from error
        chosen: list[tuple[str, int]] = []
        seen = [0] * self.num_classes
        for file, label in samples:
            if self.max_per_class is None or seen[label] < self.max_per_class:
                chosen.append((file, label))
                seen[label] += 1
        images: list[Tensor] = []
        labels: list[int] = []
        wrong: list[str] = []
        console = Console(stderr=True)
        for file, label in track(
            chosen, f"reading {path.name}", console=console, transient=True, disable=not console.is_terminal
        ):
            try:
                images.append(self._image(file))
                labels.append(label)
            except ValueError:
                if not self.skip_errors:
                    raise
                wrong.append(Path(file).name)
        if wrong:
            shown = ", ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
            warnings.warn(f"{path}: {len(wrong)} files are not images that can be read: {shown}", stacklevel=2)
        if not images:
            raise ValueError(f"{path} has no image that can be read")
        return torch.stack(images), torch.tensor(labels)

    def _image(self, file: str) -> Tensor:
        from PIL import Image, ImageOps, UnidentifiedImageError

        size = (self.image_size, self.image_size)
        try:
            with Image.open(file) as image:
                return pixels_of(ImageOps.fit(image.convert(mode_of(self.channels)), size))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(
                f"{file} is not an image that can be read ({error}); skip_errors=True leaves such files out"
            ) from error


def _classes(path: Path) -> list[str]:
    if not path.is_dir():
        raise FileNotFoundError(f"no folder at {path}; pass a folder with a folder of images for each class")
    classes = sorted(each.name for each in path.iterdir() if each.is_dir())
    if not classes:
        raise ValueError(f"{path} has no folders; it needs one with images for each class")
    return classes
