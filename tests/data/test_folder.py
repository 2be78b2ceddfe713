import numpy as np
import pytest
import torch
from PIL import Image

from hypergen.data import FolderImageDataModule


@pytest.fixture
def folders(tmp_path):
    """Two classes: dark and bright images, wide and high ones."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for label, low in (("bright", 180), ("dark", 0)):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                shape = (20, 12, 3) if number % 2 else (9, 16, 3)
                Image.fromarray(random.integers(low, low + 60, shape, dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "train", tmp_path / "val"


@pytest.mark.parametrize("channels", [1, 3])
def test_splits_and_classes(folders, channels):
    data = FolderImageDataModule(*folders, image_size=8, channels=channels, validation_size=0.2)
    assert (data.num_classes, data.classes) == (2, ["bright", "dark"])
    for split, count in (("train", 16), ("validation", 4), ("test", 8)):
        images, labels = data.tensors(split)
        assert images.shape == (count, channels, 8, 8) and labels.dtype == torch.int64
        assert labels.bincount().tolist() == [count // 2, count // 2]
        assert images[labels == 0].mean() > 0.5 > images[labels == 1].mean()
    assert abs(data.tensors("train")[0].mean()) < 1e-5


def test_images_are_cut_at_the_centre_and_not_squeezed(folders):
    pixels = np.zeros((8, 24, 3), dtype=np.uint8)
    pixels[:, 8:16] = 255
    Image.fromarray(pixels).save(folders[1] / "bright" / "0.png")
    data = FolderImageDataModule(*folders, image_size=8)
    assert data.load()["test"][0][0].min() > 0.9


def test_only_some_of_each_class(folders):
    data = FolderImageDataModule(*folders, image_size=8, max_per_class=3, validation_size=2)
    assert [len(data.tensors(split)[1]) for split in ("train", "validation", "test")] == [4, 2, 6]


def test_bad_folders_are_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FolderImageDataModule(tmp_path / "nowhere", folders[1])
    with pytest.raises(ValueError, match="channels"):
        FolderImageDataModule(*folders, channels=2)
    with pytest.raises(ValueError, match="has 2 class folders, and num_classes=3"):
        FolderImageDataModule(*folders, num_classes=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="one with images for each class"):
        FolderImageDataModule(tmp_path / "empty", folders[1])
    with pytest.raises(ValueError, match="validation_size 0.0 holds out 0 of 20"):
        FolderImageDataModule(*folders, validation_size=0.0).load()
    (folders[0] / "dark" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"dark/0\.png is not an image"):
        FolderImageDataModule(*folders).load()
    (folders[1] / "striped").mkdir()
    with pytest.raises(ValueError, match="only one of them has striped"):
        FolderImageDataModule(*folders)


def test_one_folder_is_split_in_three(folders):
    data = FolderImageDataModule(folders[0], image_size=8, validation_size=4)
    splits = {split: data.tensors(split) for split in ("train", "validation", "test")}
    assert [len(labels) for _, labels in splits.values()] == [12, 4, 4]
    images = torch.cat([images for images, _ in splits.values()]).flatten(1)
    assert len(images.unique(dim=0)) == 20


def test_files_that_are_no_images_are_named_and_left_out_on_request(folders):
    (folders[0] / "dark" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.png is not an image .* skip_errors=True"):
        FolderImageDataModule(*folders, image_size=8).load()
    with pytest.warns(UserWarning, match="1 files are not images that can be read: broken.png"):
        splits = FolderImageDataModule(*folders, image_size=8, skip_errors=True, validation_size=4).load()
    assert len(splits["train"][1]) == 16
