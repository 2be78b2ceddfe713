import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hypergen.data import ParquetImageDataModule


def encoded(pixels: np.ndarray, form: str = "PNG") -> dict:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=form)
    return {"bytes": buffer.getvalue(), "path": None}


def pictures(count: int, size: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def write(path, images, labels, image_column="img", label_column="label"):
    pq.write_table(pa.table({image_column: images, label_column: labels}), path)
    return path


@pytest.fixture
def files(tmp_path):
    train = write(tmp_path / "train.parquet", [encoded(p) for p in pictures(40)], [i % 4 for i in range(40)])
    test = write(tmp_path / "test.parquet", [encoded(p) for p in pictures(8, seed=1)], [i % 4 for i in range(8)])
    return train, test


def test_splits(files):
    data = ParquetImageDataModule(*files, validation_size=8)
    assert (data.image_size, data.channels, data.num_classes) == (6, 3, 4)
    for split, size in (("train", 32), ("validation", 8), ("test", 8)):
        images, labels = data.tensors(split)
        assert images.shape == (size, 3, 6, 6) and images.dtype == torch.float32
        assert torch.bincount(labels).tolist() == [size // 4] * 4
    train = data.tensors("train")[0]
    assert train.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (train.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-5
    assert len(next(iter(data.train_dataloader()))[1]) == 32


def test_pixels_survive(files):
    data = ParquetImageDataModule(*files)
    splits = data.load()
    expected = torch.from_numpy(pictures(8, seed=1)).permute(0, 3, 1, 2) / 255
    assert torch.equal(splits["test"][0], expected)
    together = torch.cat([splits["train"][0], splits["validation"][0]])
    everything = torch.from_numpy(pictures(40)).permute(0, 3, 1, 2) / 255
    assert torch.equal(together.flatten(1).unique(dim=0), everything.flatten(1).unique(dim=0))


def test_jpeg_grey_other_columns_and_limits(tmp_path):
    images = [encoded(p, "JPEG") for p in pictures(30)]
    path = write(tmp_path / "all.parquet", images, [i % 3 for i in range(30)], "image", "fine_label")
    data = ParquetImageDataModule(
        path, path, "image", "fine_label", channels=1, num_classes=5, validation_size=0.2, max_train=20, max_test=7
    )
    assert data.num_classes == 5
    assert [data.tensors(split)[0].shape for split in ("train", "validation", "test")] == [
        (16, 1, 6, 6),
        (4, 1, 6, 6),
        (7, 1, 6, 6),
    ]


def test_missing_file(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="no parquet file at .*absent.parquet"):
        ParquetImageDataModule(tmp_path / "absent.parquet", files[1])


def test_not_parquet(files, tmp_path):
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(ValueError, match="text.parquet is not a readable parquet file"):
        ParquetImageDataModule(tmp_path / "text.parquet", files[1])


def test_missing_column(files):
    with pytest.raises(ValueError, match=r"no column 'image'; its columns are \['img', 'label'\]"):
        ParquetImageDataModule(*files, image_column="image")
    with pytest.raises(ValueError, match="no column 'class'"):
        ParquetImageDataModule(*files, label_column="class")


def test_column_without_images(files):
    with pytest.raises(ValueError, match="column 'label' of .* holds no image"):
        ParquetImageDataModule(*files, image_column="label")


def test_broken_image(files, tmp_path):
    images = [encoded(p) for p in pictures(4)]
    images[2]["bytes"] = b"not an image"
    path = write(tmp_path / "broken.parquet", images, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="row 2 of .*broken.parquet is not a JPEG or PNG image"):
        ParquetImageDataModule(files[0], path).tensors("test")


def test_images_of_other_sizes(files, tmp_path):
    images = [encoded(p) for p in pictures(3)] + [encoded(p) for p in pictures(1, size=9)]
    path = write(tmp_path / "sizes.parquet", images, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="image 3 of .* has 9x9 pixels; expected 6x6"):
        ParquetImageDataModule(files[0], path).tensors("test")


def test_labels_out_of_range(files, tmp_path):
    path = write(tmp_path / "labels.parquet", [encoded(p) for p in pictures(2)], [0, 4])
    with pytest.raises(ValueError, match="integer labels from 0 to 3; it holds labels from 0 to 4"):
        ParquetImageDataModule(files[0], path).tensors("test")
    path = write(tmp_path / "texts.parquet", [encoded(p) for p in pictures(2)], ["cat", "dog"])
    with pytest.raises(ValueError, match="must hold integer labels"):
        ParquetImageDataModule(files[0], path).tensors("test")


def test_no_rows(files, tmp_path):
    schema = pa.schema({"img": pa.struct({"bytes": pa.binary()}), "label": pa.int64()})
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="empty.parquet has no rows"):
        ParquetImageDataModule(tmp_path / "empty.parquet", files[1])


def test_impossible_validation_size_and_channels(files):
    with pytest.raises(ValueError, match="validation_size 40 holds out 40 of 40 images"):
        ParquetImageDataModule(*files, validation_size=40).setup()
    with pytest.raises(ValueError, match="channels must be 1"):
        ParquetImageDataModule(*files, channels=4)
