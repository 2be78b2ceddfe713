"""Images in the parquet layout of the Hugging Face Hub: a struct column with encoded bytes, and a label column."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from hypergen.data.images import ImageDataModule, held_out_count, mode_of, pixels_of, refuse_channels, stratified_split


class ParquetImageDataModule(ImageDataModule):
    """Labelled images from two parquet files; validation images are held out of the training file.

    Args:
        path_train: Parquet file of the training and validation images.
        path_test: Parquet file of the test images.
        image_column: Column of structs with a field ``bytes``: a JPEG or PNG file each.
        label_column: Column of integer labels, counted from 0.
        image_size: Height and width of the images; None reads it off the first training image.
        channels: 3 for colour, 1 for grey; images are converted.
        num_classes: Number of classes; None for one more than the greatest label of the training file.
        validation_size: Images held out of the training file: a number, or a share below 1.
        max_train: Keep only so many images of the training file (the first ones); None for all.
        max_test: The same limit for the test file.
        batch_size: Images per batch.
        seed: Random seed of the split into training and validation images, and of the order of training batches.
        num_workers: Loader processes.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is not parquet, lacks a column, or holds something other than images and labels; raised
            when the data is first used, except that the number of channels is checked at once.
    """

    def __init__(
        self,
        path_train: str | Path,
        path_test: str | Path,
        image_column: str = "img",
        label_column: str = "label",
        image_size: int | None = None,
        channels: int = 3,
        num_classes: int | None = None,
        validation_size: int | float = 0.1,
        max_train: int | None = None,
        max_test: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        refuse_channels(channels)
        self.path_train = Path(path_train)
        self.path_test = Path(path_test)
        for path in (self.path_train, self.path_test):
            if not path.is_file():
                raise FileNotFoundError(f"no parquet file at {path}; pass the path of an existing file")
        self.image_column = image_column
        self.label_column = label_column
        self.channels = channels
        self.validation_size = validation_size
        self.max_train = max_train
        self.max_test = max_test
        self.image_size = self._first_image_size() if image_size is None else image_size
        self.num_classes = self._greatest_label() + 1 if num_classes is None else num_classes

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read the splits: images [N, channels, image_size, image_size] from 0 to 1, labels [N]."""
        images, labels = self._read(self.path_train, self.max_train)
        count = held_out_count(self.validation_size, len(labels))
        train, validation = stratified_split(labels, count, self.seed)
        return {
            "train": (images[train], labels[train]),
            "validation": (images[validation], labels[validation]),
            "test": self._read(self.path_test, self.max_test),
        }

    def _read(self, path: Path, most: int | None) -> tuple[Tensor, Tensor]:
        encoded = self._column(path, self.image_column, most)
        labels = self._labels(path, most)
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(
                f"column {self.label_column!r} of {path} must hold integer labels from 0 to {self.num_classes - 1}; "
                f"it holds labels from {labels.min()} to {labels.max()}: check num_classes and label_column"
            )
        size = self.image_size
        images = torch.empty(len(encoded), self.channels, size, size)
        for row, value in enumerate(encoded):
            image = self._decode(value, path, row)
            if image.shape[1:] != (size, size):
                raise ValueError(
                    f"image {row} of {path} has {image.shape[1]}x{image.shape[2]} pixels; expected {size}x{size}: "
                    "resize the images, all to one square size, and pass it as image_size"
                )
            images[row] = image
        return images, labels.long()

    def _decode(self, value: object, path: Path, row: int) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ValueError(
                f"row {row} of column {self.image_column!r} of {path} holds no image: expected a struct with the "
                f"field 'bytes', got {type(value).__name__}; pass the name of the image column as image_column"
            )
        try:
            with Image.open(io.BytesIO(content)) as image:
                return pixels_of(image.convert(mode_of(self.channels)))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"row {row} of {path} is not a JPEG or PNG image: {error}") from error

    def _column(self, path: Path, column: str, most: int | None = None) -> list[object]:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{path} is not a readable parquet file: {error}") from error
        with file:
            names = file.schema_arrow.names
            if column not in names:
                raise ValueError(
                    f"{path} has no column {column!r}; its columns are {names}: "
                    "pass the right ones as image_column and label_column"
                )
            if file.metadata.num_rows == 0:
                raise ValueError(f"{path} has no rows; pass a file with images")
            values: list[object] = []
            for batch in file.iter_batches(batch_size=min(most or 4096, 4096), columns=[column]):
                values += batch.column(0).to_pylist()
                if most is not None and len(values) >= most:
                    return values[:most]
            return values

    def _first_image_size(self) -> int:
        return self._decode(self._column(self.path_train, self.image_column, 1)[0], self.path_train, 0).shape[1]

    def _labels(self, path: Path, most: int | None = None) -> Tensor:
        values = self._column(path, self.label_column, most)
        wrong = next((value for value in values if not isinstance(value, int)), None)
        if wrong is not None or None in values:
            raise ValueError(
                f"column {self.label_column!r} of {path} must hold integer labels; it holds {wrong!r}: "
                "pass the name of the label column as label_column"
            )
        return torch.tensor(values)

    def _greatest_label(self) -> int:
        return int(self._labels(self.path_train).max())
