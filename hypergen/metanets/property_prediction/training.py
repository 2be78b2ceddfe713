"""Learning to predict properties of networks from zoos of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics.functional import kendall_rank_corrcoef

from hypergen.errors import ParameterError
from hypergen.functional.stacked_module import StackedModule
from hypergen.metanets.property_prediction.model import PropertyPredictor
from hypergen.symmetry.parameter_graph import ParameterGraph

_EVALUATED_TOGETHER = 128


@dataclass(frozen=True)
class MeasuredNetworks:
    """Networks of one architecture, with what was measured of them.

    Args:
        name: Name of the architecture.
        network: Runs such networks.
        graph: Their parameter graph.
        tensors: Parameters and buffers, ``[networks, *shape]`` by name.
        properties: ``[networks, properties]``.

    Raises:
        ParameterError: A tensor has values that are not finite, or another number of networks.
    """

    name: str
    network: StackedModule
    graph: ParameterGraph
    tensors: dict[str, Tensor]
    properties: Tensor

    def __post_init__(self) -> None:
        for name, value in {**self.tensors, "the properties": self.properties}.items():
            if len(value) != len(self.properties):
                raise ParameterError(
                    f"{self.name}: {name} is of {len(value)} networks; the properties are of {len(self)}."
                )
            broken = (~value.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
            if broken:
                raise ParameterError(
                    f"{self.name}: {name} has values that are not finite in the networks {broken[:10]}. Leave these "
                    "networks out."
                )

    def __len__(self) -> int:
        return len(self.properties)

    def __getitem__(self, index: Tensor | slice) -> MeasuredNetworks:
        """Some of the networks."""
        tensors = {name: value[index] for name, value in self.tensors.items()}
        return replace(self, tensors=tensors, properties=self.properties[index])


class PropertyPrediction(pl.LightningModule):
    """Minimises the smooth L1 error of standardised properties.

    Each step reads networks of some architectures, which are drawn by how many networks they have. In the end the
    predictor is the one whose ranking of the validation networks by the first property was best (Kendall's tau).

    Args:
        predictor: What is trained.
        train: Networks to learn from, by architecture.
        validation: Networks to select on.
        steps: Length of the learning rate schedule: one cycle.
        batch_size: Networks of an architecture per step.
        architectures_per_step: How many.
        learning_rate: Peak learning rate of AdamW.
        latent_rate: What it is multiplied by for the latents of probes.
        weight_decay: Weight decay of everything but them.
        seed: Random seed of batches; with the step it determines them.
        test: Networks to report on.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        predictor: PropertyPredictor,
        train: Sequence[MeasuredNetworks],
        validation: Sequence[MeasuredNetworks],
        steps: int,
        batch_size: int = 32,
        architectures_per_step: int = 1,
        learning_rate: float = 3e-3,
        latent_rate: float = 3.0,
        weight_decay: float = 0.05,
        seed: int = 0,
        test: Sequence[MeasuredNetworks] = (),
    ) -> None:
        super().__init__()
        self.predictor, self.networks, self.validation = predictor, list(train), list(validation)
        self.test = list(test)
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.architectures_per_step = min(architectures_per_step, len(train))
        self.learning_rate, self.latent_rate, self.weight_decay = learning_rate, latent_rate, weight_decay
        properties = torch.cat([each.properties for each in train])
        self.register_buffer("mean", properties.mean(0))
        self.register_buffer("std", properties.std(0).clamp(min=1e-6))
        self.best_tau = -2.0
        self._best: dict[str, Any] = {}

    def train_dataloader(self) -> DataLoader[int]:
        """Batches are drawn in the step, from its number."""
        return DataLoader(range(self.steps), batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[int]:
        """All validation networks are one batch."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        """One batch of each of some architectures; returns its loss."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        sizes = torch.tensor([len(each) for each in self.networks], dtype=torch.float64)
        errors = []
        for number in sizes.multinomial(self.architectures_per_step, generator=random).tolist():
            chosen = self.networks[number]
            some = chosen[torch.randperm(len(chosen), generator=random)[: self.batch_size]]
            target = (some.properties.to(self.device) - self.mean) / self.std
            errors.append(F.smooth_l1_loss(self._standardised(some), target, beta=0.5))
        loss = torch.stack(errors).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """Keep the predictor if it ranks best."""
        tau = self._tau(self.validation)
        self.log("val/kendall_tau", tau, prog_bar=True, batch_size=1)
        if tau > self.best_tau:
            self.best_tau, self._best = tau, copy.deepcopy(self.predictor.state_dict())

    def test_dataloader(self) -> DataLoader[int]:
        """All test networks are one batch."""
        return DataLoader(range(1), batch_size=None)  # type: ignore[arg-type]

    def test_step(self, batch: int, batch_idx: int) -> None:
        """The rank correlation on the test networks."""
        self.log("test/kendall_tau", self._tau(self.test), batch_size=1)

    def _tau(self, networks: Sequence[MeasuredNetworks]) -> float:
        measured = torch.cat([each.properties[:, 0] for each in networks])
        return float(torch.as_tensor(kendall_rank_corrcoef(self.predict(networks)[:, 0], measured)))

    def on_fit_end(self) -> None:
        """Return to the best predictor."""
        if self._best:
            self.predictor.load_state_dict(self._best)
        self.predictor.eval()

    @torch.no_grad()
    def predict(self, networks: Sequence[MeasuredNetworks]) -> Tensor:
        """Properties of all networks, one architecture after another: ``[networks, properties]``, on the CPU."""
        training = self.predictor.training
        self.predictor.eval()
        parts = [
            self._standardised(each[torch.arange(start, min(start + _EVALUATED_TOGETHER, len(each)))])
            for each in networks
            for start in range(0, len(each), _EVALUATED_TOGETHER)
        ]
        self.predictor.train(training)
        return (torch.cat(parts) * self.std + self.mean).cpu()

    def configure_optimizers(self) -> Any:
        """AdamW and one cycle of the learning rate."""
        probes = self.predictor.probes
        latents = [] if probes is None else [probes.latents]
        others = [value for value in self.predictor.parameters() if all(value is not latent for latent in latents)]
        groups = [{"params": others, "weight_decay": self.weight_decay}]
        rates = [self.learning_rate]
        if latents:
            groups.append({"params": latents, "weight_decay": 0.0})
            rates.append(self.learning_rate * self.latent_rate)
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _standardised(self, networks: MeasuredNetworks) -> Tensor:
        tensors = {name: value.to(self.device) for name, value in networks.tensors.items()}
        return self.predictor(networks.graph, networks.network, tensors)
