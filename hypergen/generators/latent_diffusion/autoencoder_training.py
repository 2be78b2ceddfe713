"""Training the autoencoder of weight tokens: the first stage of latent diffusion."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hypergen.data.zoo import ZooDataModule
from hypergen.functional.lightning import can_fuse
from hypergen.generators.latent_diffusion.behaviour import behaviour_loss
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.tokens.network_batches import TrainingZoo, network_loader, read_data


class WeightAutoencoderTraining(pl.LightningModule):
    """Reconstructs weights, and what networks do with them on probe inputs.

    ``loss = reconstruction + behaviour_weight · behaviour + kl_weight · KL``. A latent that is decoded into another
    layout than its network's has no weights to reconstruct, but must behave the same. Behaviour is what makes decoded
    networks work: Meynent et al., *Structure Is Not Enough: Leveraging Behavior for Neural Network Weight
    Reconstruction* (2025), arXiv:2503.17138.

    Args:
        generator: Its autoencoder, and its encoder of architectures, are trained.
        zoo: The networks, or the zoo that has them.
        inputs: Probe inputs, ``[number, …]``; by default the training images of the zoo's data.
        steps: Number of steps of training.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        behaviour_weight: Weight of the loss of behaviour.
        kl_weight: Weight of the latent's divergence from a unit normal distribution.
        warmup_steps: Until the peak.
        networks_per_step: Networks of a batch.
        inputs_per_step: Probe inputs of a batch.
        seed: Random seed of batches.
    """

    def __init__(
        self,
        generator: LatentDiffusion,
        zoo: TrainingZoo | ZooDataModule,
        inputs: Tensor | None = None,
        *,
        steps: int = 600,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        behaviour_weight: float = 3.0,
        kl_weight: float = 1e-4,
        warmup_steps: int = 50,
        networks_per_step: int = 128,
        inputs_per_step: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.zoo, self.inputs = read_data(generator, zoo, inputs)
        self.steps = steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.behaviour_weight = behaviour_weight
        self.kl_weight = kl_weight
        self.warmup_steps = warmup_steps
        self.networks_per_step, self.inputs_per_step, self.seed = networks_per_step, inputs_per_step, seed

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
        """Endless batches of networks of one layout and of probe inputs."""
        seed = 2 * self.seed + 0
        return network_loader(self.zoo, len(self.inputs), self.networks_per_step, self.inputs_per_step, seed)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """One step on a batch of networks."""
        networks, into, probes = batch
        zoo, autoencoder = self.zoo, self.generator.autoencoder
        layout, tokens = zoo.layout[networks], zoo.tokens[networks]
        mean, std = autoencoder.encode(tokens, zoo.layouts, layout)
        latents = mean + std * torch.randn_like(mean)
        architectures = self.generator.embed_architectures(zoo.graphs)
        decoded = autoencoder.decode(latents, zoo.layouts, into, architectures)
        own = (into == layout)[:, None, None] & zoo.layouts.values[layout]
        reconstruction = ((decoded - tokens).square() * own).sum() / own.sum().clamp_min(1)
        behaviour = behaviour_loss(self.generator, zoo, networks, decoded, into, self.inputs[probes])
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        self.log_dict({"reconstruction": reconstruction, "behaviour": behaviour, "kl": kl}, prog_bar=True)
        return reconstruction + self.behaviour_weight * behaviour + self.kl_weight * kl

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Measure the latents, which the denoiser reads normalised."""
        mean, _ = self.generator.autoencoder.encode(self.zoo.tokens, self.zoo.layouts, self.zoo.layout)
        self.generator.autoencoder.measure_latents(mean)

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        parameters = list(self.generator.autoencoder.parameters())
        if self.generator.architecture_encoder is not None:
            parameters += self.generator.architecture_encoder.parameters()
        return linear_decay(self, parameters, self.learning_rate, self.weight_decay, self.warmup_steps, self.steps)


def linear_decay(
    module: pl.LightningModule,
    parameters: list[torch.nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    warmup_steps: int,
    steps: int,
) -> Any:
    """AdamW whose learning rate rises for some steps and then falls linearly to zero, for the module."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=can_fuse(module))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup_steps) * max(0.0, 1 - step / steps)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
