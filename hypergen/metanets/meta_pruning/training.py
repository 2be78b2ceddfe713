"""Training a metanetwork to make networks easier to prune."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from hypergen.errors import ParameterError
from hypergen.functional.stacked import losses
from hypergen.functional.stacked_module import StackedModule
from hypergen.generators.latent_diffusion.autoencoder_training import linear_decay
from hypergen.metanets.meta_pruning.model import PruningMetanetwork
from hypergen.symmetry.parameter_graph import ParameterGraph
from hypergen.symmetry.prune.importance import magnitude
from hypergen.symmetry.prune.pruner import Pruner
from hypergen.symmetry.units import gate_units


@dataclass(frozen=True)
class PrunableNetworks:
    """Trained networks of one architecture, and how many of their units are to stay.

    Args:
        module: Runs them.
        graph: Their parameter graph.
        pruner: Pruner of the architecture.
        counts: Group name → units to keep.
        state: Parameters and buffers, ``[networks, *shape]`` per name.
    """

    module: StackedModule
    graph: ParameterGraph
    pruner: Pruner
    counts: Mapping[str, int]
    state: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.state.values())))

    def __getitem__(self, networks: Tensor) -> dict[str, Tensor]:
        return {name: value[networks] for name, value in self.state.items()}


def pruning_loss(
    networks: PrunableNetworks,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    before: Mapping[str, Tensor],
    sparsity_weight: float,
    pruned_weight: float = 1.0,
) -> Tensor:
    """How well networks do and how little they would lose if their units of least norm were taken out.

    ``task loss + pruned_weight · task loss without those units + sparsity_weight · sparsity``. The sparsity loss is the
    squared norm of the units to be taken out, relative to that of all units before: a share of the norms as they are
    would fall, too, when other units grow without doing anything.

    Args:
        networks: What they are.
        tensors: Their parameters and buffers, ``[networks, *shape]``; buffers are left as they are.
        images: ``[batch, …]``, the same for all.
        labels: ``[batch]``.
        before: The norms of units that the sparsity is relative to: group name → ``[networks, *group.shape]``.
        sparsity_weight: Weight of the sparsity loss.
        pruned_weight: Weight of the loss without the units.

    Returns:
        The mean over networks.
    """
    names = networks.module.parameter_names
    parameters = {name: tensors[name] for name in names}
    norms = magnitude(networks.pruner, parameters)
    gates, sparsity = {}, []
    for name, count in networks.counts.items():
        kept = norms[name].topk(count).indices
        gates[name] = torch.zeros_like(norms[name]).scatter(-1, kept, 1.0)
        removed = (norms[name].square() * (1 - gates[name])).flatten(1).sum(1)
        sparsity.append(removed / before[name].square().flatten(1).sum(1))
    targets = labels.expand(len(norms[name]), -1)
    total = sparsity_weight * torch.stack(sparsity).mean()
    for weight, own in ((1.0, parameters), (pruned_weight, gate_units(networks.graph.symmetry, parameters, gates))):
        if weight:
            # Statistics change in place, and these are not the networks that they are kept for.
            buffers = {name: tensors[name].clone() for name in networks.module.names if name not in names}
            total = total + weight * losses(networks.module(own, buffers, images, shared=True), targets).mean()
    return total


def rewritten(
    metanetwork: PruningMetanetwork,
    networks: PrunableNetworks,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """The networks that a metanetwork writes, told the gradient of their losses with and without units of least norm.

    Args:
        metanetwork: It.
        networks: What they are.
        tensors: Their parameters and buffers, ``[networks, *shape]``.
        images: That gradients are computed on, ``[batch, …]``.
        labels: ``[batch]``.

    Returns:
        New parameters, and buffers as they were.
    """
    names = networks.module.parameter_names
    with torch.enable_grad():
        own = {name: value.detach().requires_grad_(name in names) for name, value in tensors.items()}
        before = magnitude(networks.pruner, tensors)
        loss = pruning_loss(networks, own, images, labels, before=before, sparsity_weight=0.0)
        found = torch.autograd.grad(loss, [own[name] for name in names])
    return metanetwork(networks.graph, tensors, dict(zip(names, found, strict=True)))


class PruningBatches(IterableDataset[tuple[int, Tensor, Tensor]]):
    """Endless batches: an architecture, networks of it, and images; as indices.

    Args:
        networks: Number of networks of each architecture; they come in turn.
        num_images: Training images there are.
        networks_per_step: Networks in a batch.
        images_per_step: Images in a batch.
        seed: Random seed of the draws.
    """

    def __init__(
        self,
        networks: Sequence[PrunableNetworks],
        num_images: int,
        networks_per_step: int = 4,
        images_per_step: int = 128,
        seed: int = 0,
    ) -> None:
        if not networks:
            raise ParameterError("Meta pruning needs networks of at least one architecture to learn from.")
        self.sizes = [len(own) for own in networks]
        self.num_images, self.networks_per_step, self.images_per_step = num_images, networks_per_step, images_per_step
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        random = torch.Generator().manual_seed(self.seed)
        while True:
            for number, size in enumerate(self.sizes):
                chosen = torch.randint(size, (self.networks_per_step,), generator=random)
                yield number, chosen, torch.randint(self.num_images, (self.images_per_step,), generator=random)


class MetaPruningTraining(pl.LightningModule):
    """Trains a metanetwork by :func:`pruning_loss` of the networks that it writes.

    Args:
        metanetwork: What is trained.
        networks: Trained networks of each architecture, in the order of the batches' numbers.
        images: ``[number, …]``.
        labels: ``[number]``.
        steps: Number of steps of training.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        sparsity_weight: Weight of the sparsity loss.
        pruned_weight: Weight of the task loss without the units of least norm; 0 leaves it out.
        gradient_images: How many of the images in a batch the metanetwork is told the gradient on; the others are for
            the loss.
        warmup_steps: Until the peak.
    """

    def __init__(
        self,
        metanetwork: PruningMetanetwork,
        networks: Sequence[PrunableNetworks],
        images: Tensor,
        labels: Tensor,
        steps: int = 600,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        sparsity_weight: float = 3.0,
        pruned_weight: float = 1.0,
        gradient_images: int = 64,
        warmup_steps: int = 20,
    ) -> None:
        super().__init__()
        self.metanetwork, self.networks = metanetwork, tuple(networks)
        self.images, self.labels = images, labels
        self.steps, self.learning_rate, self.weight_decay = steps, learning_rate, weight_decay
        self.sparsity_weight, self.pruned_weight = sparsity_weight, pruned_weight
        self.gradient_images, self.warmup_steps = gradient_images, warmup_steps

    def training_step(self, batch: tuple[int, Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of networks; returns the loss."""
        number, chosen, images = batch
        networks = self.networks[number]
        tensors = networks[chosen]
        first, rest = images[: self.gradient_images], images[self.gradient_images :]
        written = rewritten(self.metanetwork, networks, tensors, self.images[first], self.labels[first])
        loss = pruning_loss(
            networks,
            written,
            self.images[rest],
            self.labels[rest],
            before=magnitude(networks.pruner, tensors),
            sparsity_weight=self.sparsity_weight,
            pruned_weight=self.pruned_weight,
        )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        parameters = list(self.metanetwork.parameters())
        return linear_decay(self, parameters, self.learning_rate, self.weight_decay, self.warmup_steps, self.steps)
