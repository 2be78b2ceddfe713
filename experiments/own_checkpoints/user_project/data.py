"""The researcher's own LightningDataModule."""

import pytorch_lightning as pl
from digits import loaders


class Digits(pl.LightningDataModule):
    """Scikit-learn's digits."""

    def setup(self, stage=None):
        """Read the images."""
        self.loaders = loaders()

    def train_dataloader(self):
        """Batches of training images in a new order."""
        return self.loaders[0]

    def val_dataloader(self):
        """Batches of validation images."""
        return self.loaders[1]

    def test_dataloader(self):
        """Batches of test images."""
        return self.loaders[2]
