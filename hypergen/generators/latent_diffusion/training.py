"""Training the denoiser of weight latents: the second stage of latent diffusion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hypergen.data.zoo import ZooDataModule
from hypergen.generators.latent_diffusion.autoencoder_training import linear_decay
from hypergen.generators.latent_diffusion.behaviour import behaviour_loss
from hypergen.generators.latent_diffusion.model import LatentDiffusion
from hypergen.generators.tokens.network_batches import TrainingZoo, network_loader, read_data


class LatentDiffusionTraining(pl.LightningModule):
    """Denoises latents of networks, for their conditions.

    ``loss = latent_weight · denoising + behaviour_weight · behaviour``, where behaviour is that of the network that the
    denoised latent decodes into, so the directions of the latent space that matter to the function weigh most. The
    encoder is frozen, the decoder is trained on.

    Args:
        generator: With a trained autoencoder.
        zoo: The networks, or the zoo that has them.
        inputs: Probe inputs, ``[number, …]``; by default the training images of the zoo's data.
        steps: Number of steps of training.
        learning_rate: Its peak; it decays linearly.
        weight_decay: Weight decay of AdamW.
        latent_weight: Weight of the loss of denoising.
        behaviour_weight: Weight of the loss of behaviour; 0 leaves it out, which is many times as fast.
        noise_exponent: Times are ``1 - u^exponent`` of the schedule, with ``u`` even on [0, 1]: above 1, noisy latents
            are more frequent, for which the condition alone tells what to write.
        warmup_steps: Until the peak.
        ema_decay: Decay of the moving average of the weights, which is what is kept.
        networks_per_step: Networks of a batch.
        inputs_per_step: Probe inputs of a batch.
        seed: Random seed of batches.
    """

    latents: Tensor
    latent_noise: Tensor

    def __init__(
        self,
        generator: LatentDiffusion,
        zoo: TrainingZoo | ZooDataModule,
        inputs: Tensor | None = None,
        *,
        steps: int = 800,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        latent_weight: float = 0.3,
        behaviour_weight: float = 10.0,
        noise_exponent: float = 1.0,
        warmup_steps: int = 50,
        ema_decay: float = 0.98,
        networks_per_step: int = 128,
        inputs_per_step: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.zoo, self.inputs = read_data(generator, zoo, inputs)
        zoo = self.zoo
        self.steps = steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.latent_weight = latent_weight
        self.behaviour_weight = behaviour_weight
        self.noise_exponent = noise_exponent
        self.warmup_steps = warmup_steps
        self.networks_per_step, self.inputs_per_step, self.seed = networks_per_step, inputs_per_step, seed
        self.ema_decay = ema_decay
        self.ema: EMAModel | None = None
        with torch.no_grad():
            autoencoder = generator.autoencoder
            mean, std = autoencoder.encode(zoo.tokens, zoo.layouts, zoo.layout)
            self.register_buffer("latents", (mean - autoencoder.latent_mean) / autoencoder.latent_std, persistent=False)
            self.register_buffer("latent_noise", std / autoencoder.latent_std, persistent=False)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor, Tensor]]:
        """Endless batches of networks of one layout and of probe inputs."""
        seed = 2 * self.seed + 1
        return network_loader(self.zoo, len(self.inputs), self.networks_per_step, self.inputs_per_step, seed)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        """One step on a batch of networks."""
        networks, into, probes = batch
        zoo, generator = self.zoo, self.generator
        scheduler = generator.scheduler
        clean = self.latents[networks]
        clean = clean + self.latent_noise * torch.randn_like(clean)
        noise = torch.randn_like(clean)
        number = scheduler.config.num_train_timesteps
        even = torch.randint(number, (len(clean),), device=clean.device)
        times = number * (1 - (1 - even / number) ** self.noise_exponent)
        times = times.round().long().clamp_max(number - 1)
        noisy = scheduler.add_noise(clean, noise, times)
        architectures = generator.embed_architectures(zoo.graphs)
        condition = generator.condition_encoder({name: value[networks] for name, value in zoo.conditions.items()})
        predicted = generator.denoiser(noisy, times, condition)
        denoised = _clean(scheduler, predicted, noisy, times)
        denoising = F.mse_loss(denoised, clean)
        self.log("denoising", denoising, prog_bar=True)
        loss = self.latent_weight * denoising
        if not self.behaviour_weight:
            self.log("train/loss", loss)
            return loss
        own = denoised * generator.autoencoder.latent_std + generator.autoencoder.latent_mean
        tokens = generator.autoencoder.decode(own, zoo.layouts, into, architectures)
        behaviour = behaviour_loss(generator, zoo, networks, tokens, into, self.inputs[probes])
        self.log("behaviour", behaviour, prog_bar=True)
        loss = loss + self.behaviour_weight * behaviour
        self.log("train/loss", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Advance the moving average."""
        if self.ema is None:
            self.ema = EMAModel(self._trained(), decay=self.ema_decay, use_ema_warmup=False)
        self.ema.step(self._trained())

    def on_fit_end(self) -> None:
        """Keep the moving average."""
        if self.ema is not None:
            self.ema.copy_to(self._trained())

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay."""
        return linear_decay(self, self._trained(), self.learning_rate, self.weight_decay, self.warmup_steps, self.steps)

    def _trained(self) -> list[nn.Parameter]:
        generator = self.generator
        modules: Iterable[nn.Module | None] = (
            generator.denoiser, generator.condition_encoder, generator.architecture_encoder,
        )  # fmt: skip
        parameters = [parameter for module in modules if module is not None for parameter in module.parameters()]
        return [*parameters, *generator.autoencoder.decoder_parameters()]


def _clean(scheduler: Any, predicted: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
    """The clean latents that a prediction says."""
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return predicted
    alpha = scheduler.alphas_cumprod.to(noisy.device)[times][:, None]
    if kind == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
    return (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt().clamp_min(1e-3)
