"""Fitting a Gaussian over weights, in the form in which every generator is trained."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from hypergen.data.zoo import LayoutNetworks, ZooDataModule
from hypergen.generators.gaussian.model import Gaussian


class GaussianTraining(pl.LightningModule):
    """Fits each layout when it is made; its one step has nothing left to do.

    Args:
        generator: Gaussian to fit.
        networks: Training networks by layout, or the zoo that has them.
    """

    def __init__(self, generator: Gaussian, networks: Sequence[LayoutNetworks] | ZooDataModule) -> None:
        super().__init__()
        self.generator = generator
        if isinstance(networks, ZooDataModule):
            networks = networks.networks("train", generator.condition_kinds)
        for each in networks:
            shapes = {name: value.shape[1:] for name, value in each.parameters.items()}
            generator.fit_statistics(generator.statistics.number_of(shapes), each.parameters, each.conditions)

    def train_dataloader(self) -> DataLoader[int]:
        """One step."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Nothing but to stop: the fit is in closed form, and without an optimiser no step would be counted."""
        self.trainer.should_stop = True

    def configure_optimizers(self) -> None:
        """No parameters are trained by gradients."""
