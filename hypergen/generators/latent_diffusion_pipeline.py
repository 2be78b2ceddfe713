"""Latent diffusion over weights as a pipeline of diffusers; kept apart because importing pipelines takes seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from hypergen.generators.architecture_encoder import ArchitectureEncoder
from hypergen.generators.conditions import ConditionEncoder
from hypergen.generators.latent_denoiser import LatentDenoiser
from hypergen.generators.weight_autoencoder import WeightAutoencoder
from hypergen.generators.zoo_generator import Condition

if TYPE_CHECKING:
    from hypergen.generators.latent_diffusion import LatentDiffusion
    from hypergen.graph import ComputationalGraph


@dataclass
class WeightsOutput(BaseOutput):  # type: ignore[misc]
    """What :class:`LatentDiffusionPipeline` returns.

    Attributes:
        parameters: ``[networks, *shape]`` by name.
    """

    parameters: dict[str, Tensor]


class LatentDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """The components of a :class:`~hypergen.generators.latent_diffusion.LatentDiffusion`, in diffusers' own form.

    Schedulers are swapped as in any pipeline: ``pipeline.scheduler = DPMSolverMultistepScheduler.from_config(…)``.

    Args:
        autoencoder: Of weight tokens.
        denoiser: Of its latents.
        condition_encoder: Embeds conditions.
        scheduler: One of diffusers'.
        architecture_encoder: Embeds computational graphs, if the generator is conditioned on them.
        generator_config: The generator's arguments, from which it is made again.
    """

    _optional_components = ["architecture_encoder"]

    def __init__(
        self,
        autoencoder: WeightAutoencoder,
        denoiser: LatentDenoiser,
        condition_encoder: ConditionEncoder,
        scheduler: Any,
        architecture_encoder: ArchitectureEncoder | None = None,
        generator_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            autoencoder=autoencoder,
            denoiser=denoiser,
            condition_encoder=condition_encoder,
            scheduler=scheduler,
            architecture_encoder=architecture_encoder,
        )
        self.register_to_config(generator_config=generator_config or {})

    @classmethod
    def from_generator(cls, generator: LatentDiffusion) -> LatentDiffusionPipeline:
        """Share a generator's components."""
        return cls(
            generator.autoencoder,
            generator.denoiser,
            generator.condition_encoder,
            DDIMScheduler.from_config(generator.scheduler.config),
            generator.architecture_encoder,
            generator.config,
        )

    def generator(self) -> LatentDiffusion:
        """The generator that shares the pipeline's components, for ``initialize`` and ``predict_params``."""
        from hypergen.generators.latent_diffusion import LatentDiffusion

        generator = LatentDiffusion(**self.config.generator_config)
        for name in ("autoencoder", "denoiser", "condition_encoder", "architecture_encoder"):
            setattr(generator, name, getattr(self, name))
        return generator.eval()

    @torch.no_grad()
    def __call__(
        self,
        target: nn.Module | ComputationalGraph,
        conditions: Sequence[Condition],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        example_inputs: Any = None,
    ) -> WeightsOutput:
        """Sample a network for each condition.

        Args:
            target: A network of the layout to generate, or its graph.
            conditions: One for each network.
            num_inference_steps: Of the scheduler; the generator's by default.
            guidance_scale: Of classifier-free guidance; the generator's by default.
            generator: Of random numbers; seeded with 0 by default.
            example_inputs: What the target is called with, where it does not tell.

        Returns:
            Stacked parameters, each checked.
        """
        sampler = self.generator()
        sampler.sampling_scheduler = self.scheduler
        if num_inference_steps is not None:
            sampler.sampling_steps = num_inference_steps
        if guidance_scale is not None:
            sampler.guidance_scale = guidance_scale
        random = torch.Generator().manual_seed(0) if generator is None else generator
        return WeightsOutput(sampler.sample(target, conditions, seed=random, example_inputs=example_inputs))
