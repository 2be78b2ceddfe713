"""Learning to tell from a SIREN's weights what it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments.siren_digits.zoo import flip_signs, move_pictures
from hypergen.architectures.families.siren import pixel_coordinates
from hypergen.functional.stacked_module import StackedModule
from hypergen.graph import trace
from hypergen.metanets import GraphMetanetwork, InvariantMetanetwork
from hypergen.metanets.probes import Probes

_EVALUATED_TOGETHER = 256


class SirenClassification(pl.LightningModule):
    """Minimises the cross-entropy of what SIRENs draw, by a metanetwork on their parameter graph.

    Whenever a network is read, the signs of its hidden units are flipped at random, which changes nothing that it
    computes, and its picture is turned, zoomed and shifted by its first layer. The order of its units needs no
    augmentation: the metanetwork does not see it.

    Args:
        sirens: What the networks are.
        networks: [networks, *shape] by parameter.
        labels: [networks].
        probes: How many points, which are learned, the networks are run at, besides.
        hidden: Channels.
        layers: Rounds of messages.
        message: Their form; see :class:`GraphMetanetwork`.
        dropout: Before the last layer.
        steps: Number of steps of training.
        batch_size: Networks per step.
        learning_rate: The peak of its cycle.
        weight_decay: Weight decay of AdamW.
        label_smoothing: Share of each label that goes evenly to all classes.
        seed: Random seed of batches and augmentation.
    """

    def __init__(
        self,
        sirens: StackedModule,
        networks: Mapping[str, Tensor],
        labels: Tensor,
        *,
        probes: int = 0,
        hidden: int = 32,
        layers: int = 4,
        message: Any = "product",
        dropout: float = 0.0,
        steps: int = 1000,
        batch_size: int = 64,
        learning_rate: float = 5e-3,
        weight_decay: float = 0.02,
        label_smoothing: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sirens, self.networks, self.labels = sirens, dict(networks), labels
        graph = trace(sirens.module, pixel_coordinates(2, 2))
        self.graph, self.groups = graph.parameter_graph(), graph.symmetry().simple_groups
        coordinates, colours = (self.networks[name].shape for name in (list(networks)[0], list(networks)[-1]))
        ends = coordinates[-1] + colours[-1]
        self.probes = Probes(probes, coordinates[-1:], responses="outputs") if probes else None
        extra = self.probes.num_features(colours[-1]) if self.probes else 0
        encoder = GraphMetanetwork(1, hidden, layers, message)
        self.metanetwork = InvariantMetanetwork(encoder, int(labels.max()) + 1, extra, dropout, ends)
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self.learning_rate, self.weight_decay, self.label_smoothing = learning_rate, weight_decay, label_smoothing

    def forward(self, networks: Mapping[str, Tensor]) -> Tensor:
        """Logits of networks, [networks, classes]."""
        extra = None if self.probes is None else self.probes(self.sirens, networks)
        return self.metanetwork(self.graph, networks, extra=extra)

    def train_dataloader(self) -> DataLoader[int]:
        """Numbers of networks, in a new order each epoch."""
        random = torch.Generator().manual_seed(self.seed)
        return DataLoader(range(len(self.labels)), self.batch_size, shuffle=True, generator=random)  # type: ignore[arg-type]

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        """One step on a batch of networks."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)
        networks = {name: value[batch.cpu()] for name, value in self.networks.items()}
        networks = move_pictures(flip_signs(networks, self.groups, random), random)
        logits = self({name: value.to(self.device) for name, value in networks.items()})
        labels = self.labels[batch.cpu()].to(self.device)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def predict(self, networks: Mapping[str, Tensor]) -> Tensor:
        """The class of each network, [networks]."""
        training = self.training
        self.eval()
        count = len(next(iter(networks.values())))
        parts = [
            self({name: value[start : start + _EVALUATED_TOGETHER] for name, value in networks.items()}).argmax(1)
            for start in range(0, count, _EVALUATED_TOGETHER)
        ]
        self.train(training)
        return torch.cat(parts)

    def configure_optimizers(self) -> Any:
        """AdamW and one cycle of the learning rate: with a shorter warm-up, training without probes may collapse."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
