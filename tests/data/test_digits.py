import random

import numpy as np
import pytest
import torch

from hypergen.data import DigitsDataModule


@pytest.fixture(scope="module")
def digits() -> DigitsDataModule:
    return DigitsDataModule()


def test_shapes_and_statistics(digits):
    for split, size in (("train", 1077), ("validation", 360), ("test", 360)):
        images, labels = digits.tensors(split)
        assert images.shape == (size, digits.channels, digits.image_size, digits.image_size) == (size, 1, 8, 8)
        assert images.dtype == torch.float32 and labels.dtype == torch.int64
        assert set(labels.tolist()) == set(range(digits.num_classes))
    images, _ = digits.tensors("train")
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-5)


def test_splits_are_disjoint_and_complete(digits):
    from sklearn.datasets import load_digits

    rows = torch.cat([digits.tensors(split)[0].flatten(1) for split in ("train", "validation", "test")])
    # Every image of the source appears as often as in the source: none is in two splits, none is lost.
    low, high = rows.min(), rows.max()
    restored = ((rows - low) / (high - low) * 16).round().long()
    assert sorted(map(tuple, restored.tolist())) == sorted(map(tuple, load_digits().data.astype(int).tolist()))
    assert len(restored.unique(dim=0)) == len(restored)


def test_stratified(digits):
    labels = {split: digits.tensors(split)[1] for split in ("train", "validation", "test")}
    shares = {split: torch.bincount(values, minlength=10) / len(values) for split, values in labels.items()}
    for split in ("validation", "test"):
        assert (shares[split] - shares["train"]).abs().max() < 0.005


def test_split_depends_on_its_seed_alone(digits):
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    again = DigitsDataModule()
    assert torch.equal(again.tensors("test")[0], digits.tensors("test")[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(DigitsDataModule(seed=1).tensors("test")[1], digits.tensors("test")[1])


def test_loaders(digits):
    images, labels = next(iter(digits.val_dataloader()))
    assert torch.equal(images, digits.tensors("validation")[0][:64])
    assert torch.equal(labels, digits.tensors("validation")[1][:64])
    assert sum(len(labels) for _, labels in digits.test_dataloader()) == 360
    first, second = (torch.cat([labels for _, labels in digits.train_dataloader()]) for _ in range(2))
    assert torch.equal(first, second), "the same seed, the same order"
    assert torch.equal(first.sort().values, digits.tensors("train")[1].sort().values)
    loader = digits.train_dataloader()
    epochs = [torch.cat([labels for _, labels in loader]) for _ in range(2)]
    assert not torch.equal(*epochs), "another order each epoch"


def test_trains_under_lightning(digits, tmp_path):
    import pytorch_lightning as pl

    class Linear(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(64, 10)

        def training_step(self, batch, index):
            return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = pl.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Linear(), datamodule=digits)
    assert trainer.global_step == 3


def test_clear_errors(digits):
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        digits.tensors("valid")
    with pytest.raises(ValueError, match="batch_size must be positive"):
        DigitsDataModule(batch_size=0)
